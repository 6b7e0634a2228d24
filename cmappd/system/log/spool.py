"""Where what came from a pipe waits until it is written as lines: a file that outlives the server.

splice(2) takes the bytes out of the pipe and into the file at once. How far they have been written
on is noted in the file itself, by one small write, which a kill does not divide. So a server that
is killed loses nothing, and the next one knows where to go on.
"""

import contextlib
import errno
import os
import struct

from cmappd.system.log.pipes import CHUNK, take

# Where the bytes begin that are still to be written, and what the owner notes beside that.
_HEADER = struct.Struct("=QQQQ")
# Bytes written on that may stand before the others, until the file is made anew.
_DONE = 64 * 1024
# Bytes that may wait; the rest stays in the pipe.
MOST = 2 * CHUNK

Mark = tuple[int, int, int]
NO_MARK = (0, 0, 0)


class Spool:
    """Bytes in a file, taken from a pipe and given up when they are written.

    `mark` is what the owner noted with the last ones. Where the file cannot be had or is full, the
    bytes wait in memory, and `problem` says so.
    """

    __slots__ = ("_at", "_backed", "_data", "_end", "_fd", "_path", "_start", "mark", "problem")

    def __init__(self, path: str) -> None:
        self._path = path
        self._data = b""
        self._at = 0  # in the data: what is before it is given up
        self._backed = 0  # bytes that are in the file as well
        self._fd = -1
        self._start = self._end = _HEADER.size
        self.mark: Mark = NO_MARK
        self.problem: str | None = None
        try:
            self._open()
        except OSError as error:
            self._fail(error)

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        header = os.pread(self._fd, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            os.pwrite(self._fd, _HEADER.pack(_HEADER.size, *NO_MARK), 0)
        else:
            self._start, *mark = _HEADER.unpack(header)
            self.mark = mark[0], mark[1], mark[2]
        self._end = max(os.fstat(self._fd).st_size, _HEADER.size)
        self._start = min(self._start, self._end)
        self._data = os.pread(self._fd, self._end - self._start, self._start)
        self._backed = len(self._data)

    @property
    def waiting(self) -> bytes:
        """What is still to be written."""
        return self._data[self._at :]

    def take(self, pipe: int) -> int:
        """Take what a non-blocking pipe holds, if there is room; how much that was."""
        left = len(self._data) - self._at
        if left >= MOST:
            return 0
        if self._fd >= 0 and left == self._backed:
            try:
                moved = os.splice(
                    pipe, self._fd, CHUNK, offset_dst=self._end, flags=os.SPLICE_F_NONBLOCK
                )
                self._hold(os.pread(self._fd, moved, self._end), backed=True)
                return moved
            except BlockingIOError:
                return 0
            except OSError as error:
                self._fail(error)
        data = take(pipe)
        self._hold(data, backed=False)
        return len(data)

    def add(self, data: bytes) -> None:
        """Take what came in another way."""
        try:
            backed = self._fd >= 0 and self._backed == len(self._data) - self._at
            backed = backed and os.pwrite(self._fd, data, self._end) == len(data)
        except OSError as error:
            self._fail(error)
            backed = False
        self._hold(data, backed)

    def _hold(self, data: bytes, backed: bool) -> None:
        self._data = self._data[self._at :] + data
        self._at = 0
        if backed:
            self._backed += len(data)
            self._end += len(data)

    def give_up(self, size: int, mark: Mark = NO_MARK) -> None:
        """So many bytes are written; the next server is to know, and to know the mark."""
        self._at += size
        backed = min(size, self._backed)
        self._backed -= backed
        self._start += backed
        self.mark = mark
        if self._fd < 0:
            return
        try:
            os.pwrite(self._fd, _HEADER.pack(self._start, *mark), 0)
            if self._start > _HEADER.size + _DONE:
                self._renew()
        except OSError as error:
            self._fail(error)
        else:
            self.problem = None

    def _renew(self) -> None:
        """Replace the file by one with nothing before what waits."""
        fresh = f"{self._path}.new"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        rest = self._data[self._at : self._at + self._backed]
        fd = os.open(fresh, flags, 0o600)
        try:
            content = _HEADER.pack(_HEADER.size, *self.mark) + rest
            if os.write(fd, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.rename(fresh, self._path)
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._start, self._end = fd, _HEADER.size, len(content)

    def _fail(self, error: OSError) -> None:
        self.problem = f"cannot keep lines in {self._path}: {error.strerror}"

    def close(self) -> None:
        """Close it; the file stays if something waits in it."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if not self.waiting:
            with contextlib.suppress(OSError):
                os.unlink(self._path)


def rescue(path: str) -> bytes:
    """What waits in a spool that is of no use any more, which is removed."""
    if not os.path.lexists(path):
        return b""
    spool = Spool(path)
    left = spool.waiting
    spool.give_up(len(left))
    spool.close()
    return left
