"""The run mark: the environment variable by which the processes of a run are known.

It outlives cmappserver, and the parents of those who carry it.
"""

import os

from cmappd.system.proc import Identity, environment, pids, read_stat

MARK = "CMAPPD_RUN"
_MARK = b"\0" + MARK.encode() + b"="


def marked() -> dict[str, list[Identity]]:
    """All processes with a run mark, by run: what an earlier cmappserver left running.

    Reads every environment on the machine, so it is for the start only. What may not be
    read is skipped, and so is this process.
    """
    found: dict[str, list[Identity]] = {}
    for pid in pids():
        run = None if pid == os.getpid() else mark_of(pid)
        stat = read_stat(pid) if run is not None else None
        if run is not None and stat is not None and stat.alive:
            found.setdefault(run, []).append(stat.identity)
    return found


def mark_of(pid: int) -> str | None:
    """The run that a process was executed for; None if it carries no mark that we may read."""
    _, _, rest = (b"\0" + environment(pid)).partition(_MARK)
    return os.fsdecode(rest.partition(b"\0")[0]) or None


