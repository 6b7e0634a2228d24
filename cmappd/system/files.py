"""Files: written whole, and read within bounds."""

import contextlib
import errno
import os
import stat

from cmappd.errors import ConfigError, TransientError

READ_LIMIT = 16 * 1024 * 1024
# What a system is short of, or has lost, and may have again.
TRANSIENT = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN),
    }
)


def cannot(what: str, error: OSError) -> ConfigError:
    """The error that says what the system has refused, and whether that may pass."""
    kind = TransientError if error.errno in TRANSIENT else ConfigError
    return kind(f"cannot {what}: {error.strerror or error}")


def write_atomic(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by a file with `data`, on the disk when this returns. Raises OSError.

    Readers see the old file or the new one, also after a crash. `mode` is not subject to the umask.
    A symbolic link is replaced, not followed.
    """
    directory, name = os.path.split(os.path.abspath(path))
    fresh = os.path.join(directory, f".{name}.{os.urandom(4).hex()}.tmp")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)
        raise
    _sync_directory(directory)


def _sync_directory(path: str) -> None:
    """Make a rename in a directory last (fsync(2), Notes)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_text(path: str, limit: int = READ_LIMIT) -> str:
    """The text of a file of at most `limit` bytes.

    Raises ConfigError for what is missing, forbidden, no regular file, too large, or not UTF-8.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"cannot read {path}: not a regular file")
            data = file.read(limit + 1)
    except OSError as error:
        raise cannot(f"read {path}", error) from error
    if len(data) > limit:
        raise ConfigError(f"cannot read {path}: larger than {limit} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"cannot read {path}: line {line} (byte {error.start}) is not UTF-8"
        ) from error


def _open_without_waiting(path: str, flags: int) -> int:
    # Opening a FIFO would wait for a writer.
    return os.open(path, flags | os.O_NONBLOCK)
