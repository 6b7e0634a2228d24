"""Trust: in files that others cannot write, keys that they cannot read, directories of ours."""

import contextlib
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from typing import NamedTuple

from cmappd.errors import ConfigError
from cmappd.system.files import cannot

# As many as the kernel follows in one path (path_resolution(7)).
MAX_SYMLINKS = 40


class Entry(NamedTuple):
    """One step of the way to a file."""

    path: str
    status: os.stat_result


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
