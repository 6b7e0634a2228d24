"""The way to a file in a directory of others, which nobody else can turn.

Who owns a directory on the way can put a symbolic link there, and lead root elsewhere: O_NOFOLLOW
is for the last name only. So the way is gone step by step, and each step is held (openat(2)).
"""

import contextlib
import errno
import os
import shlex
import stat
from collections.abc import Iterator

# As many as the kernel follows in one path (path_resolution(7)).
MAX_SYMLINKS = 40
_HELD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def fixed(path: str) -> Iterator[str]:
    """Another name of an absolute path, by its directory, which is held meanwhile. Never waits.

    A symbolic link on the way is followed only if it belongs to root or to the user of this
    process. Whether the last name is a link is left to who opens it. Raises OSError.
    """
    above, name = os.path.split(path)
    directory = _open_directory(above)
    try:
        yield f"/proc/self/fd/{directory}/{name}"
    finally:
        os.close(directory)


def _open_directory(path: str) -> int:
    here = os.open("/", _HELD)
    links = 0
    todo = path.split("/")[::-1]
    try:
        while todo:
            name = todo.pop()
            if not name:
                continue
            try:
                step = os.open(name, _HELD | os.O_DIRECTORY, dir_fd=here)
            except NotADirectoryError:
                target = _follow(name, here)
                links += 1
                if links > MAX_SYMLINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                todo += target.split("/")[::-1]
                if not target.startswith("/"):
                    continue
                step = os.open("/", _HELD)
            here, left = step, here
            os.close(left)
    except OSError:
        os.close(here)
        raise
    return here


def _follow(name: str, directory: int) -> str:
    """Where a link leads to. Raises OSError for one of a stranger, and for what is no link."""
    link = os.open(name, _HELD, dir_fd=directory)
    try:
        found = os.fstat(link)
        if not stat.S_ISLNK(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if found.st_uid not in (0, os.geteuid()):
            raise OSError(
                errno.ELOOP, _stranger(os.readlink(f"/proc/self/fd/{link}"), found.st_uid)
            )
        return os.readlink("", dir_fd=link)
    finally:
        os.close(link)


def _stranger(link: str, uid: int) -> str:
    # No names: to look them up may take as long as a network does.
    trust = shlex.join(["chown", "-h", str(os.geteuid()), link])
    return (
        f"the symbolic link {link} belongs to uid {uid}, who may lead it anywhere;"
        f" configure the path that it leads to, or trust it: {trust}"
    )
