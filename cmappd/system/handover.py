"""Executing a program in the place of this one, and what it is given: open files, by name.

The pid stays, and with it the children, whose exit statuses can be waited for, the subreaper, and
what a service manager knows. Files that must not be closed in between, sockets that listen and a
lock, stay open as well. What they are stands in a file in memory, because the environment has no
room for thousands; for whom that is and its descriptor are in a variable until it is read.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

VARIABLE = "CMAPPD_HANDOVER"


def own_command(*more: str) -> tuple[str, ...]:
    """The command line of this program, with more words at its end."""
    return (sys.executable or sys.orig_argv[0], *sys.orig_argv[1:], *more)


def execute(
    command: tuple[str, ...], passed: Mapping[str, Sequence[int]], open_files: int | None
) -> NoReturn:
    """Become this program, with these descriptors and the environment. Raises OSError.

    ``open_files`` is the limit of those that this one was started with.
    """
    for fds in passed.values():
        for fd in fds:
            os.set_inheritable(fd, True)
    numbers = {name: list(fds) for name, fds in passed.items()}
    meant = {"passed": numbers, "open_files": open_files}
    memory = os.memfd_create("cmappd-handover", 0)
    with open(memory, "w", encoding="utf-8", closefd=False) as file:
        json.dump(meant, file)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    environment = {**os.environ, VARIABLE: f"{os.getpid()} {memory}"}
    os.execve(command[0], command, environment)  # noqa: S606


class Handover:
    """What this program was given by the one before it; nothing, after a usual start."""

    def __init__(self, passed: Mapping[str, Sequence[int]], open_files: int | None = None) -> None:
        self._passed = {name: list(fds) for name, fds in passed.items()}
        self.open_files = open_files  # the limit that was in force before it was raised

    def has(self, name: str) -> bool:
        """Whether there is something of this name to be taken."""
        return name in self._passed

    def take(self, name: str) -> list[int]:
        """The descriptors of this name, which are the caller's from here on."""
        return self._passed.pop(name, [])

    def close(self) -> None:
        """Close what nobody has taken."""
        for fds in self._passed.values():
            for fd in fds:
                os.close(fd)
        self._passed.clear()


def receive() -> Handover:
    """What was passed; to be called once, before anything is launched that could inherit it.

    The variable of another process says nothing of our descriptors, and is left out.
    """
    pid, _, memory = os.environ.pop(VARIABLE, "").partition(" ")
    if pid != str(os.getpid()):
        return Handover({})
    with open(int(memory), encoding="utf-8") as file:
        file.seek(0)
        meant = json.load(file)
    for fds in meant["passed"].values():
        for fd in fds:
            os.set_inheritable(fd, False)
    return Handover(meant["passed"], meant["open_files"])
