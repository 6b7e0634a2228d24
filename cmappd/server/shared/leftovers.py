"""What an earlier cmappserver of the same state directory has left running.

A run id has the epoch of the server that launched it; the epochs are kept in a file, so
that the processes of another cmappserver on the same machine are never taken for ours.

Some programs write their title over their environment, and so over the run id: Redis does,
and a session of PostgreSQL. They are known by their output, an application's FIFO of ours.
"""

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence

from cmappd.core import lifecycle
from cmappd.core.config import Application
from cmappd.core.lifecycle import App
from cmappd.system import files, proc
from cmappd.system.daemons import main_of
from cmappd.system.marks import marked
from cmappd.system.process import Identity

# By application and run; the run is "" where only the output tells whose a process is.
Leftovers = dict[str, dict[str, list[Identity]]]


def find_leftovers(state_directory: str, epoch: str, recorded: Iterable[str]) -> Leftovers:
    """The processes of earlier epochs; and note the epoch that begins now.

    ``recorded`` are epochs whose applications live on, in records. Raises ConfigError where
    the epochs cannot be noted.
    """
    path = os.path.join(state_directory, "epochs")
    left, alive = _running(state_directory, frozenset({*_read(path).split(), *recorded}))
    epochs = (*sorted({*alive, *recorded}), epoch)
    try:
        files.write_atomic(path, "".join(f"{one}\n" for one in epochs).encode())
    except OSError as error:
        raise files.cannot(f"write {path}", error) from error
    return left


def find_run(
    leftovers: Leftovers, name: str, definition: Application, but: str = ""
) -> tuple[App, Identity] | None:
    """The newest run that is left of an application, and its main process; unless it is ``but``."""
    # With a slash it is a health check, or what cleans up behind a run.
    runs = {r: members for r, members in leftovers.get(name, {}).items() if r and "/" not in r}
    if not runs:
        return None
    run, members = max(runs.items(), key=lambda found: max(one.start for one in found[1]))
    if run == but:
        return None
    main = main_of(members)
    assert main is not None, "a run that was found has processes"
    return lifecycle.found(name, definition, run, main.pid, time.monotonic()), main


def still_left(state_directory: str, app: str, but: str) -> list[Identity]:
    """What runs now of any run of an application but one, children born since included."""
    epochs = frozenset(_read(os.path.join(state_directory, "epochs")).split())
    runs = _running(state_directory, epochs)[0].get(app, {})
    return [one for run, members in runs.items() if run != but for one in members]


def still_there(left: Sequence[Identity]) -> str:
    """What is wrong while these live, and what to do; nothing where there are none."""
    pids = " ".join(str(one.pid) for one in left)
    if not pids:
        return ""
    return (
        f"processes that an earlier cmappserver launched still run beside its run (pid {pids}); "
        f"it is not started while they do; end them: kill {pids}"
    )


def remove_fifos(state_directory: str, but: Collection[str]) -> None:
    """Remove those of applications that nobody knows any more, with nobody who writes to them."""
    for entry in os.listdir(state_directory):
        name, dot, rest = entry.rpartition(".")
        if dot and rest == "fifo" and name not in but:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(state_directory, entry))


def _running(state_directory: str, epochs: frozenset[str]) -> tuple[Leftovers, set[str]]:
    """The processes of those epochs, and the epochs that have any."""
    left: Leftovers = {}
    alive = set()
    for run, members in (marked() if epochs else {}).items():
        app, _, rest = run.rpartition(".")[0].rpartition(".")
        # Anybody can set the variable to anything.
        if app and rest in epochs:
            alive.add(rest)
            left.setdefault(app, {})[run] = members
    for app, member in _writers(state_directory):
        runs = left.setdefault(app, {})
        if not any(member in members for members in runs.values()):
            runs.setdefault("", []).append(member)
    return left, alive


def _writers(state_directory: str) -> Iterator[tuple[str, Identity]]:
    """Who writes to the FIFO of an application."""
    folder = os.path.realpath(state_directory)
    for pid in proc.pids():
        for path in proc.outputs(pid):
            app = os.path.basename(path).removesuffix(".fifo")
            stat = proc.read_stat(pid) if path == os.path.join(folder, f"{app}.fifo") else None
            if stat is not None and stat.alive:
                yield app, stat.identity


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
