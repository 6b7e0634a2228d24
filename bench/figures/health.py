"""Many applications with a health command each: what that costs, and how late the checks are.

The command makes a file, and that has the instant. It takes a millisecond; so what is more than the
interval from one check of an application to its next, is how late that was after it was due.
"""

import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench import processes
from bench.guest import Guest, sleeper
from bench.options import Options
from bench.peers import MONIT
from bench.series import BenchError, Measured, Row, Series, Unit, attempt
from bench.workspace import HERE, PYTHON, Workspace

INTERVAL = 10.0  # seconds
SETTLE = 5.0  # seconds for the start to be over
WINDOW = 2 * INTERVAL  # in which each application is checked twice
PROGRAM = shutil.which("mktemp") or "/usr/bin/mktemp"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one supervisor did within the window."""

    share: float  # of a core, its own and not the checks'
    lateness: Series  # seconds, of each check


def measure(options: Options) -> list[Row]:
    """Each once, one after the other."""
    names = tuple(f"app{number:04d}" for number in range(options.apps))
    cmappd, floor = attempt(lambda: _cmappd(names)), attempt(lambda: _floor(names))
    monit = MONIT.measure(lambda _: _monit(names))
    figures: dict[str, tuple[Unit, Callable[[_Seen], Series]]] = {
        f"a check of {options.apps} each {INTERVAL:g} s, load": (Unit.SHARE, _share),
        "... lateness of the checks": (Unit.SECONDS, _lateness),
        "... the latest but one in a hundred": (Unit.SECONDS, _late),
    }
    return [
        Row(figure, unit, _of(cmappd, value), _of(floor, value), {MONIT.name: _of(monit, value)})
        for figure, (unit, value) in figures.items()
    ]


def _of(seen: _Seen | str, value: Callable[[_Seen], Series]) -> Measured:
    return seen if isinstance(seen, str) else value(seen)


def _share(seen: _Seen) -> Series:
    return Series((seen.share,))


def _lateness(seen: _Seen) -> Series:
    return seen.lateness


def _late(seen: _Seen) -> Series:
    values = seen.lateness.values
    return Series((statistics.quantiles(values, n=100)[-1] if len(values) > 1 else values[0],))


def _cmappd(names: Sequence[str]) -> _Seen:
    with Workspace() as workspace:
        commands = _checks(workspace, names)
        stanzas = {
            name: sleeper(workspace, health={"command": command, "interval": f"{INTERVAL:g}s"})
            for name, command in commands.items()
        }
        guest = Guest(workspace, stanzas)
        guest.start()
        guest.wait_until_running()
        return _watch(workspace, guest.pid)


def _floor(names: Sequence[str]) -> _Seen:
    with Workspace() as workspace:
        words = [command[-1] for command in _checks(workspace, names).values()]
        script = str(HERE / "floors/check_loop.py")
        loop = workspace.start([PYTHON, script, str(INTERVAL), PROGRAM, *words], "check-loop")
        return _watch(workspace, loop.pid)


def _monit(names: Sequence[str]) -> _Seen:
    with Workspace() as workspace:
        return _watch(workspace, MONIT.start(workspace, _checks(workspace, names)).pid)


def _checks(workspace: Workspace, names: Sequence[str]) -> dict[str, list[str]]:
    """The health command of each application."""
    folder = _folder(workspace)
    folder.mkdir()
    return {name: [PROGRAM, f"{folder}/{name}.XXXXXXXX"] for name in names}


def _folder(workspace: Workspace) -> Path:
    return workspace.folder / "checks"


def _watch(workspace: Workspace, pid: int) -> _Seen:
    time.sleep(SETTLE)
    began, before, wall = time.perf_counter(), processes.processor_time(pid), time.time()
    time.sleep(WINDOW)
    used, took = processes.processor_time(pid) - before, time.perf_counter() - began
    lateness = tuple(_latenesses(_folder(workspace), wall))
    if not lateness:
        raise BenchError(f"nothing was checked twice within {WINDOW:g} s")
    return _Seen(used / took, Series(lateness))


def _latenesses(folder: Path, since: float) -> Iterator[float]:
    instants: dict[str, list[float]] = defaultdict(list)
    for file in folder.iterdir():
        instants[file.stem].append(file.stat().st_mtime)
    for checks in instants.values():
        for one, following in pairwise(sorted(checks)):
            if following >= since:
                yield following - one - INTERVAL
