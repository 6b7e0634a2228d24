"""What an earlier cmappserver of the same state directory has left running.

A run id has the epoch of the server that launched it; the epochs are kept in a file, so
that the processes of another cmappserver on the same machine are never taken for ours.
"""

import os

from cmappd.system import files
from cmappd.system.process import Identity
from cmappd.system.tree import marked


def find_leftovers(state_directory: str, epoch: str) -> dict[str, list[Identity]]:
    """The processes of earlier epochs, by application; and note the epoch that begins now."""
    path = os.path.join(state_directory, "epochs")
    earlier = set(_read(path).split())
    left: dict[str, list[Identity]] = {}
    alive = set()
    for run, members in (marked() if earlier else {}).items():
        app, run_epoch, _serial = (["", *run.rsplit(".", 2)])[-3:]
        if run_epoch in earlier:
            alive.add(run_epoch)
            left.setdefault(app, []).extend(members)
    files.write_atomic(path, "".join(f"{one}\n" for one in (*sorted(alive), epoch)).encode())
    return left


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        return ""
