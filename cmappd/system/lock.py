"""The lock of the state directory: one cmappserver uses it."""

import fcntl
import os
from collections.abc import Sequence

from cmappd.errors import TransientError
from cmappd.system.files import cannot


def hold(path: str, held: Sequence[int] = ()) -> list[int]:
    """Hold `path` as a lock with our process id in it, and the directory that it is in, for as long
    as the descriptors are open.

    The file alone would be none when somebody has tidied it away; and what tidies up leaves a
    directory alone that is locked (tmpfiles.d(5)). ``held`` are descriptors of an earlier call: of
    an earlier version, the file's alone.

    Raises ConfigError; TransientError if another process holds it. The kernel frees it when the
    process ends, however that happens (flock(2)).
    """
    fds = list(held)
    wanted = ((path, os.O_RDWR | os.O_CREAT), (os.path.dirname(path), os.O_DIRECTORY))
    try:
        for one, flags in wanted[len(fds) :]:
            fds.append(os.open(one, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
            fcntl.flock(fds[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fds[0], 0)
        os.pwrite(fds[0], f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        refused = isinstance(error, BlockingIOError)
        problem = _held(path, fds) if refused else cannot(f"lock {path}", error)
        for fd in fds:
            os.close(fd)
        raise problem from error
    return fds


def _held(path: str, fds: list[int]) -> TransientError:
    """Why the last of these, of the file or of the file and its directory, was refused."""
    if len(fds) == 1:
        holder = os.pread(fds[0], 32, 0).decode(errors="replace").strip() or "unknown"
        who = f"a cmappserver (pid {holder}) uses this state directory"
    else:
        who = (
            f"another process holds a lock on {os.path.dirname(path)}, perhaps a cmappserver whose "
            "lock file is gone"
        )
    return TransientError(
        f"cannot lock {path}: {who}; end it, or configure another state directory"
    )
