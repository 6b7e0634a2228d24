"""A log file and its backups by their names: `path`, `path.1`, and so on.

What a kill interrupts is finished with the next opening: a rotation that was under way has left
`path.new`, a second name of the new file, for as long as the beginning of one line stood in both.
Here the last name of a path is guarded; its directory is `system.directory`'s affair.
"""

import contextlib
import errno
import os
import stat
from itertools import pairwise

from cmappd.system.log.lines import last_lines

# A line that ends later than this after the end of a full file is cut.
LONGEST_CARRIED_LINE = 65536
# O_NONBLOCK is for a path that names a FIFO or a terminal.
_SAFELY = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_log(path: str, flags: int = os.O_CREAT) -> int:
    """A descriptor for writing, and for reading the end; never waits. Raises OSError."""
    fd = os.open(path, os.O_RDWR | flags | _SAFELY, 0o640)
    try:
        found = os.fstat(fd)
        # In a directory of the application's user, a hard link would have us append to any file on
        # that file system.
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), path)
    except OSError:
        os.close(fd)
        raise
    return fd


def replace(path: str, backups: int, old: int, beginning: bytes) -> int:
    """Put a new file in the place of the full one; its descriptor. Raises OSError.

    `old` is the full one. Its last bytes, `beginning`, are a line that is not ended, and go to the
    new file. Where it fails, the old file is as it was, though it may have become a backup.
    """
    fresh = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    # Written before anything is renamed: a full disk then changes nothing.
    fd = open_log(fresh, os.O_CREAT | os.O_EXCL)
    try:
        if os.write(fd, beginning) < len(beginning):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _shift(path, backups)
        second = _name(fresh, path)
    except OSError:
        os.close(fd)
        raise
    with contextlib.suppress(OSError):
        os.ftruncate(old, os.fstat(old).st_size - len(beginning))
        if second:
            os.unlink(fresh)
    return fd


def _shift(path: str, backups: int) -> None:
    """Rename `path` to `path.1` and so on; the oldest is replaced."""
    names = [path] + [f"{path}.{n}" for n in range(1, backups + 1)]
    for older, newer in reversed(list(pairwise(names))):
        with contextlib.suppress(FileNotFoundError):
            os.rename(older, newer)


def _name(fresh: str, path: str) -> bool:
    """Give the new file its name; whether it has two now. With no backups the old one goes."""
    with contextlib.suppress(OSError):  # the old one is there, or there are no links here
        os.link(fresh, path, follow_symlinks=False)
        return True
    os.rename(fresh, path)
    return False


def mend(path: str) -> None:
    """Finish a rotation that was interrupted, so that the beginning of a line is in one file."""
    fresh = f"{path}.new"
    try:
        mine, other = os.lstat(path), os.lstat(fresh)
        if not stat.S_ISREG(mine.st_mode) or mine.st_ino != other.st_ino:
            return
        with contextlib.suppress(FileNotFoundError):
            _cut_end(f"{path}.1", read_end(path, LONGEST_CARRIED_LINE))
        os.unlink(fresh)
    except OSError:
        return  # there is no second name; or the file cannot be opened, which says why


def _cut_end(path: str, end: bytes) -> None:
    """Take these bytes off the end of a file, if it ends with them."""
    fd = open_log(path, flags=0)
    try:
        rest = os.fstat(fd).st_size - len(end)
        if end and rest >= 0 and os.pread(fd, len(end), rest) == end:
            os.ftruncate(fd, rest)
    finally:
        os.close(fd)


def tail(path: str, lines: int, limit: int) -> str:
    """The last `lines` lines, at most `limit` bytes, of a log file and the one before it."""
    text = read_end(path, limit)
    if text.count(b"\n") < lines and len(text) < limit:
        text = read_end(f"{path}.1", limit - len(text)) + text
    return last_lines(text, lines)


def read_end(path: str, limit: int) -> bytes:
    """At most `limit` bytes from the end of a regular file; nothing where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | _SAFELY)
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
