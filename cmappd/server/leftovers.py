"""What an earlier cmappserver of the same state directory has left running.

A run id has the epoch of the server that launched it; the epochs are kept in a file, so
that the processes of another cmappserver on the same machine are never taken for ours.

Some programs write their title over their environment, and so over the run id: Redis does,
and a session of PostgreSQL. They are known by their output, an application's FIFO of ours.
"""

import os
from collections.abc import Iterator

from cmappd.errors import ConfigError
from cmappd.system import files, proc
from cmappd.system.process import Identity
from cmappd.system.tree import marked


def find_leftovers(state_directory: str, epoch: str) -> dict[str, list[Identity]]:
    """The processes of earlier epochs, by application; and note the epoch that begins now.

    Raises ConfigError where that cannot be noted.
    """
    path = os.path.join(state_directory, "epochs")
    left, alive = _running(state_directory, frozenset(_read(path).split()))
    try:
        files.write_atomic(path, "".join(f"{one}\n" for one in (*sorted(alive), epoch)).encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    return left


def still_left(state_directory: str, epoch: str, app: str) -> list[Identity]:
    """What runs now of an application that earlier epochs left, children born since included."""
    earlier = frozenset(_read(os.path.join(state_directory, "epochs")).split()) - {epoch}
    return _running(state_directory, earlier)[0].get(app, [])


def _running(
    state_directory: str, epochs: frozenset[str]
) -> tuple[dict[str, list[Identity]], set[str]]:
    """The processes of those epochs by application, and the epochs that have any."""
    left: dict[str, list[Identity]] = {}
    alive = set()
    for run, members in (marked() if epochs else {}).items():
        app, _, rest = run.rpartition(".")[0].rpartition(".")
        # Anybody can set the variable to anything.
        if app and rest in epochs:
            alive.add(rest)
            left.setdefault(app, []).extend(members)
    for app, member in _writers(state_directory):
        if member not in left.setdefault(app, []):
            left[app].append(member)
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
