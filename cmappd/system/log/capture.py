"""The output of an application: from a FIFO that outlives the server to its log.

The application holds the FIFO open for reading and writing (O_RDWR, fifo(7): it neither waits for
the other end nor fails without it). So it gets no SIGPIPE when the server dies; the pipe buffers
what it writes, and the next server goes on reading where this one stopped.
"""

import asyncio
import contextlib
import fcntl
import os
import stat
from collections.abc import Callable
from typing import Protocol

from cmappd.errors import ConfigError
from cmappd.system.log.pipes import peek

# Bytes one application may have moved before the loop turns to the others.
CHUNKS_PER_CALLBACK = 8


class Log(Protocol):
    """Where the output of one application goes. Nothing here waits, or raises for what it meets.

    `problem` says why nothing can be written now, and `dropped` counts the lines lost for that.
    `listener`, if there is one, is given all that comes in, as the log has it. `elsewhere` says
    where it goes, if that cannot be read here. A line that is not ended may wait for its end.
    """

    listener: Callable[[bytes], None] | None

    @property
    def problem(self) -> str | None: ...

    @property
    def dropped(self) -> int: ...

    @property
    def untold(self) -> str:
        """What was dropped, if the log does not tell of it yet; after `close`, it never will."""

    @property
    def elsewhere(self) -> str: ...

    @property
    def pause(self) -> float:
        """Seconds until moving is of use again; 0 where it depends on the pipe alone."""

    def move(self, pipe: int) -> int:
        """Take what a pipe holds, about 64 KiB at most; how much that was, 0 for none."""

    def write(self, data: bytes) -> None:
        """Take what came in another way."""

    def finish(self) -> None:
        """End the line that is not ended: who wrote it is gone."""

    def tail(self, lines: int, limit: int, waiting: bytes) -> str:
        """The last lines; `limit` is in bytes. `waiting` is what is still in the pipe."""

    def reopen(self) -> None:
        """Open it anew."""

    def close(self) -> None:
        """End it; what waits for the end of its line waits for the next server."""


class Capture:
    """Copies what an application writes from its FIFO to its log, on the event loop.

    The FIFO lies in a directory of cmappd's own. `owner`, the application's user and group, lets
    the application open its output again by name (/dev/stdout). A writer that is faster than its
    log waits in its write(2); nothing is buffered here. The log stays the caller's to close.
    """

    __slots__ = ("_fd", "_fifo_path", "_loop", "_resumption", "log")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fifo_path: str,
        log: Log,
        owner: tuple[int, int] | None = None,
    ) -> None:
        """Make the FIFO, or take over the one that a server before this one left.

        Raises ConfigError where something else has that name, or it cannot be made.
        """
        self.log = log
        self._loop = loop
        self._fifo_path = fifo_path
        self._resumption: asyncio.TimerHandle | None = None
        self._fd = _open_fifo(fifo_path, owner)
        # A log that has something left from before begins with it.
        self._resumption = loop.call_later(0, self._resume)

    def writer(self, owner: tuple[int, int] | None = None) -> int:
        """A descriptor for the output of one launch, by this user and group if they are not ours;
        the caller closes it. Raises OSError.
        """
        _give(self._fd, owner)
        # A description of its own: O_NONBLOCK of the reading end must not reach the application.
        return os.open(self._fifo_path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    def drain(self) -> None:
        """Copy what is in the FIFO now, but no more than it can hold: others may still write."""
        left = fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ)
        while left > 0 and (moved := self.log.move(self._fd)):
            left -= moved

    def waiting(self) -> bytes:
        """What is in the FIFO, and stays there; nothing where there is no free descriptor."""
        try:
            return peek(self._fd)
        except OSError:
            return b""

    def close(self, remove: bool) -> None:
        """Stop copying; what is in the FIFO waits for the next server, unless it is removed."""
        if self._fd < 0:
            return
        if self._resumption is not None:
            self._resumption.cancel()
        self._loop.remove_reader(self._fd)
        if remove:
            self.drain()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._fifo_path)
        os.close(self._fd)
        self._fd = -1

    def _resume(self) -> None:
        self._resumption = None
        self._loop.add_reader(self._fd, self._readable)
        self._readable()

    def _readable(self) -> None:
        for _ in range(CHUNKS_PER_CALLBACK):
            if not self.log.move(self._fd):
                break
        if self.log.pause:
            self._loop.remove_reader(self._fd)
            self._resumption = self._loop.call_later(self.log.pause, self._resume)


def _open_fifo(path: str, owner: tuple[int, int] | None) -> int:
    """The reading end; open for writing too, so that it never comes to an end of file."""
    try:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot open FIFO {path}: {error.strerror}") from error
    try:
        found = os.fstat(fd)
        ours = (os.geteuid(),) if owner is None else (os.geteuid(), owner[0])
        if not stat.S_ISFIFO(found.st_mode) or found.st_uid not in ours:
            raise ConfigError(f"cannot use {path}: not a FIFO of this user; remove it")
        os.fchmod(fd, 0o600)
        _give(fd, owner)
    except OSError as error:
        os.close(fd)
        raise ConfigError(f"cannot use FIFO {path}: {error.strerror}") from error
    except ConfigError:
        os.close(fd)
        raise
    return fd


def _give(fd: int, owner: tuple[int, int] | None) -> None:
    found = os.fstat(fd)
    if owner is not None and owner != (found.st_uid, found.st_gid):
        os.fchown(fd, *owner)
