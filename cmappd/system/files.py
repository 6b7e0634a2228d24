"""Files: written whole, read within bounds, and trusted only if others cannot write them.

Nothing here imports more than the standard library's small modules: `cmappctl` uses it too.
"""

import contextlib
import errno
import fcntl
import fnmatch
import glob
import os
import pwd
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cmappd.errors import ConfigError, TransientError

DEFAULT_CONFIG = "/etc/cmappd/cmappserver.toml"
READ_LIMIT = 16 * 1024 * 1024
# As many as the kernel follows in one path (path_resolution(7)).
MAX_SYMLINKS = 40
# What editors and package managers leave beside the file that is meant.
LEFTOVERS = (".*", "*~", "#*#", "*.swp", "*.rpmsave", "*.rpmnew", "*.rpmorig", "*.dpkg-*")
# What a system is short of, or has lost, and may have again.
TRANSIENT = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN),
    }
)


class Paths(NamedTuple):
    """Where a server keeps what nobody configured otherwise."""

    control: str
    state_directory: str  # for this boot
    lasting_directory: str  # for what a reboot must not end
    log_directory: str


class Entry(NamedTuple):
    """One step of the way to a file."""

    path: str
    status: os.stat_result


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


def check_trusted(path: str) -> None:
    """Refuse what others could change. Raises ConfigError with a line for each thing to mend.

    As root: the file, and every directory and symbolic link on the way to it, must belong to root,
    and nobody else may write them. Two exceptions: group 0 may, because its members are trusted as
    root is; and in a sticky directory such as /tmp others cannot replace an entry of root's.
    As an ordinary user: the file must belong to that user or to root.
    """
    entries = _way_to(path)
    if os.geteuid() == 0:
        problems = list(_distrust(entries))
    else:
        problems = [f for f in (_foreign(entries[-1]),) if f]
    if problems:
        raise ConfigError("\n".join(f"cannot trust {path}: {problem}" for problem in problems))


def check_private(path: str) -> None:
    """Refuse a private key that others can read. Raises ConfigError.

    The rule is PostgreSQL's (its manual, "Secure TCP/IP Connections with SSL"): a key of our own
    is ours alone (0600); a key that belongs to root may be readable by a group (0640).
    """
    target = _way_to(path)[-1]
    problem = _foreign(target)
    allowed = 0o640 if target.status.st_uid == 0 else 0o600
    if not problem and stat.S_IMODE(target.status.st_mode) & 0o077 & ~allowed:
        problem = (
            f"{target.path} has mode {_mode(target)}, at most {allowed:04o} is safe; "
            f"{_command('chmod', f'{allowed:04o}', target.path)}"
        )
    if problem:
        raise ConfigError(f"cannot use key {path}: {problem}")


def _way_to(path: str) -> list[Entry]:
    """Every directory and link from / to the file, and the file, in the order of resolution."""
    way = [Entry("/", os.stat("/"))]
    here, links = "/", 0
    # Not abspath(): "link/.." is the directory above the link's target.
    absolute = path if path.startswith("/") else os.path.join(os.getcwd(), path)
    todo = absolute.split("/")[::-1]
    while todo:
        name = todo.pop()
        if name in ("", ".", ".."):
            here = os.path.dirname(here) if name == ".." else here
            continue
        step = os.path.join(here, name)
        try:
            way.append(Entry(step, os.lstat(step)))
            if not stat.S_ISLNK(way[-1].status.st_mode):
                here = step
                continue
            target = os.readlink(step)
        except OSError as error:
            raise cannot(
                f"read {path}: {step}" if step != path else f"read {path}", error
            ) from error
        links += 1
        if links > MAX_SYMLINKS:
            raise ConfigError(f"cannot read {path}: too many symbolic links at {step}")
        here = "/" if target.startswith("/") else here
        todo += target.split("/")[::-1]
    if way[-1].path != here:
        way.append(Entry(here, os.lstat(here)))
    return way


def _distrust(way: list[Entry]) -> Iterator[str]:
    """What is wrong with each entry, from root's point of view."""
    for entry in way:
        foreign = _foreign(entry)
        if foreign:
            yield foreign
        mode = entry.status.st_mode
        # A link has no mode of its own. In a sticky directory only the owner of an entry, or of the
        # directory, can rename it; both are checked above.
        sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX and entry is not way[-1]
        if stat.S_ISLNK(mode) or sticky:
            continue
        others = stat.S_IWOTH if entry.status.st_gid == 0 else stat.S_IWOTH | stat.S_IWGRP
        if mode & others:
            yield (
                f"{entry.path} has mode {_mode(entry)}, others can write it; "
                f"{_command('chmod', 'go-w', entry.path)}"
            )


def _foreign(entry: Entry) -> str:
    """What is wrong if an entry belongs to neither root nor us."""
    uid = entry.status.st_uid
    if uid in (0, os.geteuid()):
        return ""
    options = ["-h"] if stat.S_ISLNK(entry.status.st_mode) else []
    command = _command("chown", *options, _user_name(os.geteuid()), entry.path)
    return f"{entry.path} belongs to {_user_name(uid)} (mode {_mode(entry)}); {command}"


def _mode(entry: Entry) -> str:
    return f"{stat.S_IMODE(entry.status.st_mode):04o}"


def _command(*words: str) -> str:
    return f"to mend it: {shlex.join(words)}"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def expand(pattern: str) -> list[str]:
    """The files that an absolute glob pattern names, sorted, without editors' leftovers.

    A path without wildcards names itself, be it there or not. Raises ConfigError for a directory
    that cannot be read: its files are not gone.
    """
    if not glob.has_magic(pattern):
        return [pattern]
    directory = os.path.dirname(pattern)
    if not glob.has_magic(directory):
        _check_listable(directory)
    return sorted(path for path in glob.glob(pattern) if not _is_leftover(path))


def _check_listable(directory: str) -> None:
    try:
        with os.scandir(directory):
            pass
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise cannot(f"list {directory}", error) from error


def _is_leftover(path: str) -> bool:
    name = os.path.basename(path)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFTOVERS)


def default_paths(root: bool, environ: Mapping[str, str]) -> Paths:
    """The places the Filesystem Hierarchy Standard gives root, and XDG Base Directory a user.

    Raises ConfigError for a user without a home directory.
    """
    if root:
        return Paths(
            "/run/cmappd/control.sock", "/run/cmappd", "/var/lib/cmappd", "/var/log/cmappd"
        )
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    # The XDG specification: relative paths are to be ignored.
    if runtime.startswith("/"):
        state = os.path.join(runtime, "cmappd")
    else:
        state = f"/tmp/cmappd-{os.getuid()}"  # noqa: S108  private_directory() checks it
    xdg_state = environ.get("XDG_STATE_HOME", "")
    base = xdg_state if xdg_state.startswith("/") else os.path.join(_home(environ), ".local/state")
    lasting = os.path.join(base, "cmappd")
    return Paths(os.path.join(state, "control.sock"), state, lasting, os.path.join(lasting, "log"))


def _home(environ: Mapping[str, str]) -> str:
    try:
        return environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    except KeyError as error:
        raise ConfigError(
            f"cannot choose a log directory: user {os.getuid()} has no home directory; set HOME"
        ) from error


def private_directory(path: str, mode: int = 0o700) -> None:
    """Make a directory for us alone, or check that the one there is ours.

    With the mode 0711 others may pass it, and neither list nor change it.

    Raises ConfigError if it belongs to another, others can write it, or it cannot be made. A
    symbolic link is not followed: in /tmp it could be anybody's.
    """
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            os.chmod(path, mode)  # whatever the umask
        entry = Entry(path, os.lstat(path))
    except OSError as error:
        raise cannot(f"make directory {path}", error) from error
    problem = ""
    if not stat.S_ISDIR(entry.status.st_mode):
        problem = "not a directory; remove it"
    elif entry.status.st_uid != os.geteuid():
        problem = f"it belongs to {_user_name(entry.status.st_uid)}; remove it, or use another"
    elif entry.status.st_mode & 0o022:
        problem = f"others can write it (mode {_mode(entry)}); {_command('chmod', 'go-w', path)}"
    if problem:
        raise ConfigError(f"cannot use directory {path}: {problem}")


def lock(path: str, held: Sequence[int] = ()) -> list[int]:
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
        problem = cannot(f"lock {path}", error)
        if isinstance(error, BlockingIOError):
            holder = os.pread(fds[0], 32, 0).decode(errors="replace").strip() or "unknown"
            problem = TransientError(
                f"cannot lock {path}: a cmappserver (pid {holder}) uses this state directory; "
                "end it, or configure another state directory"
            )
        for fd in fds:
            os.close(fd)
        raise problem from error
    return fds
