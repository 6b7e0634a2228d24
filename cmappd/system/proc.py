"""What /proc says of processes.

The ground of `process`, `tree` and `probe`, because all of them must mean the same thing by
"a process": the pid together with its start time, never the pid alone.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

_STAT_SIZE = 4096  # far more than the 52 fields of /proc/PID/stat can take
_EXEC_TRIES = 20  # of 1 ms each
_EXEC_DENIALS = 3  # in a row are believed


class Identity(NamedTuple):
    """A process and no other: ``start`` is in clock ticks since boot (proc_pid_stat(5), field 22).

    Instants of a boot: after a reboot, identities of before mean nothing.
    """

    pid: int
    start: int


class Stat(NamedTuple):
    """What /proc/PID/stat says, as far as process trees need it."""

    pid: int
    ppid: int
    session: int
    start: int
    alive: bool
    memory: bool  # without it: a zombie, about to be one, or a kernel thread
    environment: bool  # whether there is one; empty reads of it mean that an exec is under way

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start)


Snapshot = dict[int, Stat]  # by pid


def read_stat(pid: int) -> Stat | None:
    """One process as it is now, zombies included; None if there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        line = os.read(fd, _STAT_SIZE)
    except ProcessLookupError:  # it ended between open and read
        return None
    finally:
        os.close(fd)
    # The name, in parentheses, may itself hold blanks and parentheses: count after the last.
    fields = line[line.rindex(b")") + 2 :].split()
    # A main thread that has ended looks like a zombie while the other threads run on.
    alive = fields[0] not in b"ZX" or int(fields[17]) > 1
    memory = fields[20] != b"0"
    # Its start equals its end when it is empty; but so they may in the middle of an exec,
    # at the very end of which the end of the code ceases to be 0.
    environment = memory and (fields[47] != fields[48] or fields[24] == b"0")
    return Stat(pid, int(fields[1]), int(fields[3]), int(fields[19]), alive, memory, environment)


def exists(identity: Identity) -> bool:
    """Whether this very process is there, be it as a zombie that nobody has waited for yet."""
    stat = read_stat(identity.pid)
    return stat is not None and stat.start == identity.start


def alive(identity: Identity) -> bool:
    """Whether this very process is there, and can still do something."""
    stat = read_stat(identity.pid)
    return stat is not None and stat.start == identity.start and stat.alive


def pids() -> Iterator[int]:
    """The pids of all processes that we may see."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def snapshot() -> Snapshot:
    """Every process there is, in one pass over /proc: 15 ms for 1,000 processes."""
    stats = (read_stat(pid) for pid in pids())
    return {stat.pid: stat for stat in stats if stat is not None}


def children(pid: int) -> list[int]:
    """The children of all threads of a process, zombies included; needs CONFIG_PROC_CHILDREN.

    A child that is waited for during the read can hide another one, says
    proc_pid_task_tid_children(5). Our own are waited for by the reaper only, hence not now.
    The main thread comes last: it is the one that children of ending threads are handed to.
    """
    return [child for tid in reversed(_threads(pid)) for child in _children(pid, tid)]


def own_children() -> list[int]:
    """Our own, launched by the main thread; it is also the one that orphans are handed to.

    For that the kernel takes the first living thread (find_alive_thread in kernel/exit.c).
    """
    pid = os.getpid()
    return _children(pid, pid)


def _children(pid: int, tid: int) -> list[int]:
    try:
        return list(map(int, _read(f"/proc/{pid}/task/{tid}/children").split()))
    except (FileNotFoundError, ProcessLookupError):
        return []


def last_pid() -> int | None:
    """The pid that was given out last in our pid namespace, to a process or a thread.

    None where the kernel does not tell it (pid_namespaces(7), CONFIG_CHECKPOINT_RESTORE). Not
    of /proc/loadavg, which has it too: in a container that may be a file of lxcfs(1).
    """
    try:
        return int(_read("/proc/sys/kernel/ns_last_pid"))
    except OSError:
        return None


def environment(pid: int) -> bytes:
    """The environment a process was executed with, as it lies in memory; empty if not readable.

    In the middle of execve(2) there is none to be read, for some microseconds, or as long
    as the disk takes. To take that for an answer would be to misjudge a process, so it is
    waited for, but not for ever.
    """
    denials = 0
    for _ in range(_EXEC_TRIES):
        for tid in _threads(pid):  # the main thread may have ended, and has no memory then
            try:
                found = _read(f"/proc/{pid}/task/{tid}/environ")
            except OSError:
                continue
            if found:
                return found
        stat = read_stat(pid)
        if stat is None or not stat.memory:
            return b""
        # What looks like none may be an exec that began or ended since it was read.
        denials = 0 if stat.environment else denials + 1
        if denials == _EXEC_DENIALS:
            return b""
        time.sleep(0.001)
    return b""


def outputs(pid: int) -> set[str]:
    """The files that are standard output and error of a process; without those not readable."""
    found = set()
    for fd in (1, 2):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def program(path: str) -> tuple[int, int] | None:
    """Names the file that a path leads to, be it ``/proc/PID/exe``; None where that is not told."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _threads(pid: int) -> list[int]:
    """The threads of a process, the main one first."""
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")), key=lambda tid: tid != pid)
    except (FileNotFoundError, ProcessLookupError):
        return []


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()
