"""A log file: appended to, rotated by size, and never a reason to wait or to fail.

splice(2) moves the bytes from a pipe to the file inside the kernel: a server that is killed in
between loses none and doubles none. With read and write, what was read is lost with the process.
"""

import errno
import os
import stat
import time
from collections.abc import Callable

from cmappd.system import directory
from cmappd.system.log import backups
from cmappd.system.log.lines import KEPT, Losses
from cmappd.system.log.pipes import CHUNK, peek, take

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
        "_fd",
        "_losses",
        "_max_size",
        "_reason",
        "_regular",
        "_retry_at",
        "_rotate_at",
        "_size",
        "listener",
        "notice_form",
        "path",
        "problem",
    )

    pause = 0.0
    elsewhere = ""

    def __init__(self, path: str, max_size: int, backups: int) -> None:
        self.path = path
        self.problem: str | None = None
        self.listener: Callable[[bytes], None] | None = None
        self.notice_form = _plain  # of the line that tells what was dropped
        self._max_size = max_size
        self._backups = backups
        self._fd = -1
        self._regular = False
        self._size = 0
        self._reason = ""
        self._retry_at = 0.0
        self._rotate_at = 0.0
        self._losses = Losses()
        self.reopen()

    @property
    def dropped(self) -> int:
        """Lines that could not be written since the file was opened first."""
        return self._losses.total

    @property
    def untold(self) -> str:
        """What was dropped and the file does not tell of yet."""
        return self._losses.untold(self._reason)

    def move(self, pipe: int) -> int:
        """Append what a non-blocking pipe holds, at most 64 KiB; how much that was, 0 for none."""
        if self._regular and not self._losses:
            try:
                return self._splice(pipe)
            except BlockingIOError:
                return 0
            except OSError:
                # Nothing was moved. write() finds out why, or works where splice(2) does not.
                pass
        data = take(pipe)
        self.write(data)
        if self.listener is not None and data:
            self.listener(data)
        return len(data)

    def _splice(self, pipe: int) -> int:
        room = min(self._room(), CHUNK)
        if self.listener is None:
            return os.splice(pipe, self._fd, room, flags=os.SPLICE_F_NONBLOCK)
        copy = peek(pipe)[:room]
        if not copy:
            return 0
        moved = os.splice(pipe, self._fd, len(copy), flags=os.SPLICE_F_NONBLOCK)
        self.listener(copy[:moved])
        return moved

    def write(self, data: bytes) -> None:
        """Append `data`, which need not end with a whole line."""
        if self._losses or self._fd < 0:
            data = self._recover(data)
        while data:
            head = data[: self._room()]
            done = self._append(head)
            data = data[done:]
            if done < len(head):
                self._losses.add(data)
                return

    def finish(self) -> None:
        """Tell of a line that was dropped in part; another that is not ended is in the file."""
        if self._losses.in_line:
            self._losses.end_line()
            self.write(b"")

    def reopen(self) -> None:
        """Open `path` anew, as after somebody moved it away; keep the old file if that fails."""
        try:
            with directory.fixed(self.path) as path:
                backups.mend(path)
                fd = backups.open_log(path)
        except OSError as error:
            self._fail("open", error)
            return
        self._adopt(fd)
        self._retry_at = 0.0
        self.problem = None

    def reconfigure(self, path: str, max_size: int, backups: int) -> None:
        """Take new settings. A new path is opened at once, and the old file stays where it is."""
        self._max_size = max_size
        self._backups = backups
        if path != self.path:
            self.path = path
            self.reopen()

    def tail(self, lines: int, limit: int = KEPT, waiting: bytes = b"") -> str:
        """The last `lines` lines, at most `limit` bytes, of this file and the one before it."""
        try:
            with directory.fixed(self.path) as path:
                return backups.tail(path, lines, limit)
        except OSError:
            return ""

    def close(self) -> None:
        """Close the file, after a last attempt to tell what was dropped."""
        if self._losses:
            self._retry_at = 0.0
            self._losses.end_line()
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

    # For a log in lines ----------------------------------------------------------------

    def mark(self) -> tuple[int, int, int]:
        """Which file this is, by device and inode, and where it ends."""
        if self._fd < 0:
            return 0, 0, 0
        found = os.fstat(self._fd)
        return found.st_dev, found.st_ino, found.st_size

    def cut(self, mark: tuple[int, int, int]) -> None:
        """Take away what was appended after a mark, if the file is still that one."""
        *file, size = self.mark()
        if self._regular and file == [*mark[:2]] and size > mark[2]:
            os.ftruncate(self._fd, mark[2])

    def make_room(self, size: int) -> None:
        """Rotate if so many bytes would not fit, so that they are not divided among files."""
        if not self._regular or time.monotonic() < self._rotate_at:
            return
        if self._measure() > 0 and self._size + size > self._max_size:
            self._rotate()

    # Writing ---------------------------------------------------------------------------

    def _measure(self) -> int:
        # Not O_APPEND, which splice(2) refuses: somebody else may have truncated the file.
        self._size = os.lseek(self._fd, 0, os.SEEK_END)
        return self._size

    def _room(self) -> int:
        """How much fits into the file, which is rotated when it is full; never 0."""
        if not self._regular:
            return CHUNK
        if self._measure() >= self._max_size and time.monotonic() >= self._rotate_at:
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

    def _fail(self, action: str, error: OSError) -> None:
        self._reason = error.strerror or os.strerror(errno.EIO)
        self.problem = f"cannot {action} {self.path}: {self._reason}"
        self._retry_at = time.monotonic() + RETRY_DELAY

    def _recover(self, data: bytes) -> bytes:
        """Try the file again; what of `data` is to be written now."""
        if time.monotonic() >= self._retry_at:
            if self._fd < 0:
                self.reopen()
            if self._fd >= 0:
                return self._resume(data)
        self._losses.add(data)
        return b""

    def _resume(self, data: bytes) -> bytes:
        """Tell what was dropped and go on with the next whole line; what is left of `data`.

        Not before that line: what is still to come of the one before is dropped with it.
        """
        data = self._losses.finish_line(data)
        if self._losses.in_line:
            return b""
        if self._losses:
            notice = self._notice()
            if self._append(notice) < len(notice):
                self._losses.add(data)
                return b""
        self.problem = None
        self._losses.told()
        return data

    def _notice(self) -> bytes:
        self._room()
        line_end = b"\n" if self._unfinished_line() else b""
        return line_end + self.notice_form(self._losses.notice(self._reason).encode())

    def _unfinished_line(self) -> bytes:
        """What follows the last line end in the file; nothing if that is too long to carry over."""
        if not self._regular:
            return b""
        length = min(self._size, backups.LONGEST_CARRIED_LINE)
        try:
            end = os.pread(self._fd, length, self._size - length)
        except OSError:
            return b""
        return end[end.rfind(b"\n") + 1 :] if b"\n" in end else b""

    def _rotate(self) -> None:
        """Start a new file; on failure go on with the present one and try again later."""
        beginning = self._unfinished_line()
        try:
            with directory.fixed(self.path) as path:
                fd = backups.replace(path, self._backups, self._fd, beginning)
        except OSError as error:
            self._fail("rotate", error)
            self._rotate_at = self._retry_at
            return
        self._adopt(fd)
        self._measure()
        self.problem = None


def _plain(line: bytes) -> bytes:
    return line + b"\n"
