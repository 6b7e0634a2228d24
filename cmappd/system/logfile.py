"""A log file: appended to, rotated by size, and never a reason to wait or to fail.

splice(2) moves the bytes from a pipe to the file inside the kernel: a server that is killed in
between loses none and doubles none. With read and write, what was read is lost with the process.
"""

import contextlib
import errno
import os
import stat
import time
from itertools import pairwise

# What one call moves: a pipe of the usual size.
CHUNK = 65536
# A line that ends later than this after the end of a full file is cut.
LONGEST_CARRIED_LINE = 65536
# Seconds between attempts on a disk that failed.
RETRY_DELAY = 1.0


class LogFile:
    """Appends to a file and rotates it: `path` to `path.1`, that to `path.2`, up to `backups`.

    Sizes are bytes. A full file ends with its last whole line, and the line that did not fit goes
    to the next one; only a line of 64 KiB and more, or longer than `max_size`, is cut. With no
    backups the file is replaced. What is not a regular file is never rotated.

    No method raises for what the disk does. While the file cannot be written, data is dropped and
    counted, `problem` says why, and one line in the file tells of the loss afterwards.
    """

    __slots__ = (
        "_backups",
        "_dropped_bytes",
        "_dropped_in_line",
        "_dropped_lines",
        "_fd",
        "_max_size",
        "_owner",
        "_reason",
        "_regular",
        "_retry_at",
        "_rotate_at",
        "_size",
        "path",
        "problem",
    )

    def __init__(
        self, path: str, max_size: int, backups: int, owner: tuple[int, int] | None = None
    ) -> None:
        self.path = path
        self.problem: str | None = None
        self._max_size = max_size
        self._backups = backups
        self._owner = owner
        self._fd = -1
        self._regular = False
        self._size = 0
        self._reason = ""
        self._retry_at = 0.0
        self._rotate_at = 0.0
        self._dropped_bytes = 0
        self._dropped_lines = 0
        self._dropped_in_line = False
        self.reopen()

    def write(self, data: bytes) -> None:
        """Append `data`, which need not end with a whole line."""
        if self._dropped_bytes or self._fd < 0:
            data = self._recover(data)
        while data:
            head = data[: self._room()]
            done = self._append(head)
            data = data[done:]
            if done < len(head):
                self._drop(data)
                return

    def move(self, pipe: int) -> int:
        """Append what a non-blocking pipe holds, at most 64 KiB; how much that was, 0 for none."""
        if self._regular and not self._dropped_bytes:
            try:
                room = min(self._room(), CHUNK)
                return os.splice(pipe, self._fd, room, flags=os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                return 0
            except OSError:
                # Nothing was moved. write() finds out why, or works where splice(2) does not.
                pass
        try:
            data = os.read(pipe, CHUNK)
        except BlockingIOError:
            return 0
        self.write(data)
        return len(data)

    def reopen(self) -> None:
        """Open `path` anew, as after somebody moved it away; keep the old file if that fails."""
        try:
            fd = _open_log(self.path, 0, self._owner)
        except OSError as error:
            self._fail("open", error)
            return
        self._adopt(fd)
        self._retry_at = 0.0
        if not self._dropped_bytes:
            self.problem = None

    def reconfigure(self, path: str, max_size: int, backups: int) -> None:
        """Take new settings. A new path is opened at once, and the old file stays where it is."""
        self._max_size = max_size
        self._backups = backups
        if path != self.path:
            self.path = path
            self.reopen()

    def tail(self, lines: int, limit: int = 16384) -> str:
        """The last `lines` lines, at most `limit` bytes, of this file and the one before it."""
        text = _read_end(self.path, limit)
        if text.count(b"\n") < lines and len(text) < limit:
            text = _read_end(f"{self.path}.1", limit - len(text)) + text
        last = text.removesuffix(b"\n").split(b"\n") if text else []
        wanted = last[-lines:] if lines > 0 else []
        return "".join(line.decode(errors="replace") + "\n" for line in wanted)

    def close(self) -> None:
        """Close the file, after a last attempt to tell what was dropped."""
        if self._dropped_bytes:
            self._retry_at = 0.0
            self._recover(b"")
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._regular = False

    def _adopt(self, fd: int) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._rotate_at = 0.0

    def _room(self) -> int:
        """How much fits into the file, which is rotated when it is full; never 0."""
        if not self._regular:
            return CHUNK
        # Not O_APPEND, which splice(2) refuses: somebody else may have truncated the file.
        self._size = os.lseek(self._fd, 0, os.SEEK_END)
        if self._size >= self._max_size and time.monotonic() >= self._rotate_at:
            self._rotate()
        room = self._max_size - self._size
        # A file that cannot be rotated takes more.
        return room if room > 0 else CHUNK

    def _append(self, data: bytes) -> int:
        """Write `data`; how much of it went in."""
        done = 0
        try:
            while done < len(data):
                done += os.write(self._fd, data[done:])
        except OSError as error:
            self._fail("write", error)
        return done

    def _drop(self, data: bytes) -> None:
        if data:
            self._dropped_bytes += len(data)
            self._dropped_lines += data.count(b"\n")
            self._dropped_in_line = not data.endswith(b"\n")

    def _fail(self, action: str, error: OSError) -> None:
        self._reason = os.strerror(error.errno or errno.EIO)
        self.problem = f"cannot {action} {self.path}: {self._reason}"
        self._retry_at = time.monotonic() + RETRY_DELAY

    def _recover(self, data: bytes) -> bytes:
        """Try the file again; what of `data` is to be written now."""
        if time.monotonic() >= self._retry_at:
            if self._fd < 0:
                self.reopen()
            if self._fd >= 0:
                return self._resume(data)
        self._drop(data)
        return b""

    def _resume(self, data: bytes) -> bytes:
        """Tell what was dropped and go on with the next whole line; what is left of `data`."""
        if self._dropped_in_line and data:
            rest = data.find(b"\n") + 1 or len(data)
            self._drop(data[:rest])
            data = data[rest:]
            if not data:
                return b""
        if self._dropped_bytes:
            notice = self._notice()
            if self._append(notice) < len(notice):
                self._drop(data)
                return b""
        self.problem = None
        self._dropped_bytes = self._dropped_lines = 0
        self._dropped_in_line = False
        return data

    def _notice(self) -> bytes:
        lines = self._dropped_lines + self._dropped_in_line
        lost = f"{lines} lines ({self._dropped_bytes} bytes)"
        self._room()
        line_end = "\n" if self._unfinished_line() else ""
        return f"{line_end}cmappd: {lost} were dropped: {self._reason}\n".encode()

    def _unfinished_line(self) -> bytes:
        """What follows the last line end in the file; nothing if that is too long to carry over."""
        if not self._regular:
            return b""
        length = min(self._size, LONGEST_CARRIED_LINE)
        try:
            end = os.pread(self._fd, length, self._size - length)
        except OSError:
            return b""
        return end[end.rfind(b"\n") + 1 :] if b"\n" in end else b""

    def _rotate(self) -> None:
        """Start a new file; on failure go on with the present one and try again later."""
        fresh = f"{self.path}.new"
        unfinished = self._unfinished_line()
        try:
            # Written before anything is renamed: a full disk then changes nothing.
            fd = _open_log(fresh, os.O_TRUNC, self._owner)
            try:
                if os.write(fd, unfinished) < len(unfinished):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._shift()
                os.rename(fresh, self.path)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            self._fail("rotate", error)
            self._rotate_at = self._retry_at
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._size - len(unfinished))
        self._adopt(fd)
        self._size = os.lseek(fd, 0, os.SEEK_END)
        self.problem = None

    def _shift(self) -> None:
        """Rename `path` to `path.1` and so on; the oldest is replaced."""
        names = [self.path] + [f"{self.path}.{n}" for n in range(1, self._backups + 1)]
        for older, newer in reversed(list(pairwise(names))):
            with contextlib.suppress(FileNotFoundError):
                os.rename(older, newer)


def _open_log(path: str, flags: int, owner: tuple[int, int] | None) -> int:
    """A descriptor for writing at the end, and for reading the end; never waits."""
    # O_NONBLOCK is for a path that names a FIFO or a terminal.
    flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    fd = os.open(path, flags, 0o640)
    try:
        found = os.fstat(fd)
        # In a directory of the application's user, a hard link would have us append to, or give
        # away, any file on that file system.
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), path)
        if owner is not None and owner != (found.st_uid, found.st_gid):
            os.fchown(fd, *owner)
    except OSError:
        os.close(fd)
        raise
    return fd


def _read_end(path: str, limit: int) -> bytes:
    """At most `limit` bytes from the end of a regular file; nothing where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return b""
        return os.pread(fd, limit, max(found.st_size - limit, 0))
    except OSError:
        return b""
    finally:
        os.close(fd)
