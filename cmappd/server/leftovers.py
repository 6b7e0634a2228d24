"""What an earlier cmappserver of the same state directory has left running.

A run id has the epoch of the server that launched it; the epochs are kept in a file, so
that the processes of another cmappserver on the same machine are never taken for ours.
"""

import os

from cmappd.errors import ConfigError
from cmappd.system import files
from cmappd.system.process import Identity
from cmappd.system.tree import marked


def find_leftovers(state_directory: str, epoch: str) -> dict[str, list[Identity]]:
    """The processes of earlier epochs, by application; and note the epoch that begins now.

    Raises ConfigError where that cannot be noted.
    """
    path = os.path.join(state_directory, "epochs")
    left, alive = _running(frozenset(_read(path).split()))
    try:
        files.write_atomic(path, "".join(f"{one}\n" for one in (*sorted(alive), epoch)).encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    return left


def still_left(state_directory: str, epoch: str, app: str) -> list[Identity]:
    """What runs now of an application that earlier epochs left, children born since included."""
    earlier = frozenset(_read(os.path.join(state_directory, "epochs")).split()) - {epoch}
    return _running(earlier)[0].get(app, [])


def _running(epochs: frozenset[str]) -> tuple[dict[str, list[Identity]], set[str]]:
    """The processes of those epochs by application, and the epochs that have any."""
    left: dict[str, list[Identity]] = {}
    alive = set()
    for run, members in (marked() if epochs else {}).items():
        app, _, rest = run.rpartition(".")[0].rpartition(".")
        # Anybody can set the variable to anything.
        if app and rest in epochs:
            alive.add(rest)
            left.setdefault(app, []).extend(members)
    return left, alive


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
