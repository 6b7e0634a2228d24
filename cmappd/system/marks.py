"""By what the processes of a run are known, whoever their parents were.

By their cgroup, which they cannot leave by themselves, where they have one of their own; else by
the run mark, an environment variable. Both outlive cmappserver.
"""

import os

from cmappd.system.proc import Identity, environment, pids, read_stat

# The names of cgroups: /…/cmappd-NAME/app-RUN, and app-RUN:KIND for a tree beside that of a run.
HIERARCHY, RUN = "cmappd-", "app-"
MARK = "CMAPPD_RUN"
_MARK = b"\0" + MARK.encode() + b"="


def folder_of(run: str) -> str:
    """The name of the cgroup of a run, or of a tree beside it, such as ``RUN/health``."""
    return RUN + run.replace("/", ":")  # which no name of an application has


def run_in(folder: str) -> str:
    """The run, or the tree beside it, whose cgroup has this name."""
    return folder.removeprefix(RUN).replace(":", "/")


def marked() -> dict[str, list[Identity]]:
    """All processes with a run mark, by run: what an earlier cmappserver left running.

    Reads every environment on the machine, so it is for the start only. What may not be
    read is skipped, and so is this process.
    """
    found: dict[str, list[Identity]] = {}
    for pid in pids():
        run = None if pid == os.getpid() else run_of(pid)
        stat = read_stat(pid) if run is not None else None
        if run is not None and stat is not None and stat.alive:
            found.setdefault(run, []).append(stat.identity)
    return found


def run_of(pid: int) -> str | None:
    """The run that a process belongs to, as far as it can be told from the process alone."""
    return cgroup_of(pid) or mark_of(pid)


def cgroup_of(pid: int) -> str | None:
    """The run in whose cgroup a process is; None if it is in none of ours."""
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            lines = os.fsdecode(file.read()).splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith("0::")), "")
    server, _, inside = path.rpartition(f"/{HIERARCHY}")[2].partition("/")
    folder = inside.partition("/")[0]
    return run_in(folder) if server != path and folder.startswith(RUN) else None


def mark_of(pid: int) -> str | None:
    """The run that a process was executed for; None if it carries no mark that we may read."""
    _, _, rest = (b"\0" + environment(pid)).partition(_MARK)
    return os.fsdecode(rest.partition(b"\0")[0]) or None
