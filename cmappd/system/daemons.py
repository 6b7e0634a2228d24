"""The main process of what a command has left behind when it daemonised."""

import os
from collections.abc import Sequence

from cmappd.system.proc import Identity, read_stat

_PID_SIZE = 32  # bytes: more than any number, and a line end


def main_of(members: Sequence[Identity]) -> Identity | None:
    """The leader of a session among these processes, or else the oldest; None if there is none.

    A daemon calls setsid(2) (daemon(7)), and what it launches stays in its session.
    """
    return min(members, key=lambda one: (not _leads(one), one.start), default=None)


def read_pid(path: str) -> int | None:
    """The number in a pid file; None while there is none to be read.

    Whoever may write that file may write anything: the caller must know the process besides.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, _PID_SIZE).split()
        return int(text[0]) if text else None
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def _leads(member: Identity) -> bool:
    stat = read_stat(member.pid)
    return stat is not None and stat.session == member.pid
