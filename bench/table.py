"""The results for people, as one table, and for programs, as JSON."""

import json
import textwrap
from collections.abc import Mapping, Sequence

from bench.series import Goal, Measured, Row, Series, Unit

HEADERS = ("figure", "cmappd", "floor", "peers", "ratio", "goal", "verdict")
WIDTHS = (42, 26, 26, 36, 5, 22, 12)  # longest lines of the cells

_SCALES = {
    Unit.SECONDS: ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")),
    Unit.BYTES: ((1e6, "MB"), (1e3, "KB"), (1.0, "B")),
    Unit.SPEED: ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "KB/s")),
    Unit.SHARE: ((1e-2, "%"),),
}


def render(rows: Sequence[Row]) -> str:
    """The table. A cell may have several lines."""
    lines = [_line(HEADERS), _line(["-" * width for width in WIDTHS])]
    for row in rows:
        cells = [_wrap(cell, width) for cell, width in zip(_cells(row), WIDTHS, strict=True)]
        height = max(map(len, cells))
        padded = [cell + [""] * (height - len(cell)) for cell in cells]
        lines += [_line(parts) for parts in zip(*padded, strict=True)]
    return "\n".join(lines)


def _line(parts: Sequence[str]) -> str:
    padded = (part.ljust(width) for part, width in zip(parts, WIDTHS, strict=True))
    return "  ".join(padded).rstrip()


def _wrap(cell: str, width: int) -> list[str]:
    return [piece for line in cell.split("\n") for piece in textwrap.wrap(line, width) or [""]]


def _cells(row: Row) -> tuple[str, ...]:
    peers = (f"{name} {_measured(found, row.unit)}" for name, found in row.peers.items())
    return (
        row.figure,
        _measured(row.cmappd, row.unit),
        _measured(row.floor, row.unit),
        "\n".join(peers) or "-",
        "-" if row.ratio is None else f"{row.ratio:.3g}",
        "-" if row.goal is None else _goal(row.goal, row.unit),
        row.verdict,
    )


def _goal(goal: Goal, unit: Unit) -> str:
    sign = ">=" if goal.at_least else "<="
    if goal.of is not None:
        return f"{sign} {goal.limit:g} x {goal.of}"
    return f"{sign} {_number(goal.limit, unit)}"


def _measured(measured: Measured | None, unit: Unit) -> str:
    if measured is None:
        return "-"
    if isinstance(measured, str):
        return measured
    size, name = _scale(measured.median, unit)
    middle = f"{measured.median / size:.3g} {name}"
    if len(measured.values) == 1:
        return middle
    return f"{middle} ({min(measured.values) / size:.3g} .. {max(measured.values) / size:.3g})"


def _number(value: float, unit: Unit) -> str:
    size, name = _scale(value, unit)
    return f"{value / size:.3g} {name}"


def _scale(value: float, unit: Unit) -> tuple[float, str]:
    scales = _SCALES[unit]
    return next((one for one in scales if abs(value) >= one[0]), scales[-1])


def to_json(rows: Sequence[Row], machine: Mapping[str, object]) -> str:
    """Everything, with all values in base units."""
    return json.dumps({"machine": machine, "rows": [_row(row) for row in rows]}, indent=1) + "\n"


def _row(row: Row) -> dict[str, object]:
    return {
        "figure": row.figure,
        "unit": row.unit.value,
        "cmappd": _values(row.cmappd),
        "floor": _values(row.floor),
        "peers": {name: _values(found) for name, found in row.peers.items()},
        "ratio": row.ratio,
        "goal": "-" if row.goal is None else _goal(row.goal, row.unit),
        "verdict": row.verdict,
    }


def _values(measured: Measured | None) -> object:
    return list(measured.values) if isinstance(measured, Series) else measured
