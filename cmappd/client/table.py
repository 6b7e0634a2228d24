"""What ``cmappctl status`` prints."""

import time
from collections.abc import Sequence

from cmappd.core import units, wording
from cmappd.core.messages import AppStatus, MaintenanceNotice, Past
from cmappd.core.printable import printable
from cmappd.core.state import Announced, Health, Phase

_HEADER = ("NAME", "STATE", "HEALTH", "PID", "SINCE", "OWNER", "RESTARTS", "NOTE")


def table(statuses: Sequence[AppStatus], now: float, verbose: bool) -> list[str]:
    """The lines of the table; ``now`` is wall time, as the statuses' are."""
    rows = [_HEADER, *(_row(status, now) for status in statuses)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, status in zip(rows, (None, *statuses), strict=True):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
        if verbose and status is not None:
            lines += [f"    {line}" for line in _details(status)]
    return lines


def _row(status: AppStatus, now: float) -> tuple[str, ...]:
    limit = "" if status.restart_limit is None else f"/{status.restart_limit}"
    return (
        printable(status.app),
        str(status.phase),
        "-" if status.health is Health.NONE else str(status.health),
        "-" if status.pid is None else str(status.pid),
        "-" if status.since is None else since(status.since, now),
        _owner(status),
        f"{status.restarts}{limit}" if limit or status.restarts else "-",
        printable("; ".join(_notes(status))),
    )


def since(instant: float, now: float) -> str:
    """How long ago, in the two largest units: "3d4h", "12m5s"."""
    return duration(now - instant)


def duration(seconds: float) -> str:
    """The two largest units."""
    seconds = max(0, int(seconds))
    for size, unit, below, name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if seconds >= size:
            return f"{seconds // size}{unit}{seconds % size // below}{name}"
    return f"{seconds}s"


def past(run: Past) -> str:
    """One line for a run that has ended: when, which, after how long, how, and who asked."""
    ran = "" if run.started is None else f"ran {since(run.started, run.ended)}, "
    by = f" (asked by {run.by})" if run.by else ""
    text = f"{run.outcome.run}  {ran}{wording.outcome_text(run.outcome)}{by}"
    return f"{_wall(run.ended)}  {printable(text)}"


def _owner(status: AppStatus) -> str:
    if status.owner_silent_for is None:
        return "-" if status.owner is None else printable(status.owner)
    silent = duration(status.owner_silent_for)
    if status.owner is None:
        return f"nobody (for {silent})"
    name = printable(status.owner)
    return f"nobody (for {silent}, {name})" if status.lease_over else f"{name} (silent {silent})"


def _notes(status: AppStatus) -> list[str]:
    notes = []
    if status.maintenance is not None:
        notes.append(f"maintenance {_maintenance(status.maintenance)}")
    if status.waits_for:
        notes.append(f"waits for {status.waits_for}")
    if status.next_in is not None:
        notes.append(f"next in {status.next_in:.0f}s")
    if status.announced in (Announced.RELOADING, Announced.STOPPING):
        notes.append(f"it says that it is {status.announced}")
    if status.restart_pending:
        notes.append("restart pending")
    if status.removed:
        notes.append("removed")
    if status.oom_kills:
        notes.append(wording.oom_text(status.oom_kills))
    if status.survivors:
        notes.append(f"left: pid {', '.join(map(str, status.survivors))}")
    if status.log_dropped:
        lost = "1 line" if status.log_dropped == 1 else f"{status.log_dropped} lines"
        notes.append(f"{lost} of its log could not be written")
    if status.problem:
        notes.append(wording.problem_text(status.problem))
    if status.last is not None and status.phase in (Phase.FAILED, Phase.BACKOFF):
        notes.append(wording.outcome_text(status.last))
    return notes


def _details(status: AppStatus) -> list[str]:
    facts = {
        "description": status.description,
        "goal": str(status.goal),
        "requires": ", ".join(status.requires),
        "run": status.run or "",
        "started": "" if status.started is None else _wall(status.started),
        "processes": _known_by(status),
        "maintenance": maintenance(status),
        "definition": status.definition,
        "it says": _says(status),
        "restarts": _restarts(status),
        "health output": status.health_output.strip(),
        "last": "" if status.last is None else wording.outcome_text(status.last),
    }
    return [f"{name}: {printable(value)}" for name, value in facts.items() if value]


def _says(status: AppStatus) -> str:
    return ": ".join(part for part in (str(status.announced), status.status_text) if part)


def _restarts(status: AppStatus) -> str:
    if status.restart_limit is None or status.restart_window is None:
        return ""
    window = units.format_duration(status.restart_window)
    when = "" if status.next_in is None else f", next in {status.next_in:.0f}s"
    return f"{status.restarts} of {status.restart_limit} in {window}{when}"


def _maintenance(notice: MaintenanceNotice) -> str:
    return f"for {since(0, notice.over_in)}"


def maintenance(status: AppStatus) -> str:
    """Since when it is under maintenance, until when, by whom and why; empty when it is not."""
    notice = status.maintenance
    if notice is None:
        return ""
    return f"since {_wall(notice.since)} {wording.maintenance_text(notice)}"


def _known_by(status: AppStatus) -> str:
    if status.pid is None:
        return ""
    return "in a cgroup" if status.confined else "known by parents, session, run mark and output"


def _wall(instant: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(instant))
