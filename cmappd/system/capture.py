"""The output of an application: from a FIFO that outlives the server to a log file.

The application holds the FIFO open for reading and writing (O_RDWR, fifo(7): it neither waits for
the other end nor fails without it). So it gets no SIGPIPE when the server dies; the pipe buffers
what it writes, and the next server goes on reading where this one stopped.
"""

import asyncio
import contextlib
import fcntl
import os
import stat

from cmappd.errors import ConfigError
from cmappd.system.logfile import LogFile

# Bytes one application may have moved before the loop turns to the others.
CHUNKS_PER_CALLBACK = 8


class Capture:
    """Copies what an application writes from its FIFO to its log file, on the event loop.

    The FIFO lies in a directory of cmappd's own. `owner`, the application's user and group, lets
    the application open its output again by name (/dev/stdout). A writer that is faster than the
    disk waits in its write(2); nothing is buffered here. The log file stays the caller's to close.
    """

    __slots__ = ("_fd", "_fifo_path", "_log_file", "_loop")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fifo_path: str,
        log_file: LogFile,
        owner: tuple[int, int] | None = None,
    ) -> None:
        """Make the FIFO, or take over the one that a server before this one left.

        Raises ConfigError where something else has that name, or it cannot be made.
        """
        self._loop = loop
        self._fifo_path = fifo_path
        self._log_file = log_file
        self._fd = _open_fifo(fifo_path, owner)
        loop.add_reader(self._fd, self._readable)

    def writer(self) -> int:
        """A descriptor for the output of one launch; the caller closes it. Raises OSError."""
        # A description of its own: O_NONBLOCK of the reading end must not reach the application.
        return os.open(self._fifo_path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    def drain(self) -> None:
        """Copy what is in the FIFO now, but no more than it can hold: others may still write."""
        left = fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ)
        while left > 0 and (moved := self._log_file.move(self._fd)):
            left -= moved

    def close(self, remove: bool) -> None:
        """Stop copying; what is in the FIFO waits for the next server, unless it is removed."""
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        if remove:
            self.drain()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._fifo_path)
        os.close(self._fd)
        self._fd = -1

    def _readable(self) -> None:
        for _ in range(CHUNKS_PER_CALLBACK):
            if not self._log_file.move(self._fd):
                return


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
        if owner is not None and owner != (found.st_uid, found.st_gid):
            os.fchown(fd, *owner)
    except OSError as error:
        os.close(fd)
        raise ConfigError(f"cannot use FIFO {path}: {error.strerror}") from error
    except ConfigError:
        os.close(fd)
        raise
    return fd
