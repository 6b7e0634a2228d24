"""Whom an application runs as: names and numbers turned into one complete account."""

import grp
import os
import pwd
from collections.abc import Sequence
from typing import NamedTuple

from cmappd.errors import LaunchError


class Account(NamedTuple):
    """A user as a process needs it: every number resolved, nothing left to look up."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str
    shell: str


def account(
    user: str | None, group: str | None, supplementary: Sequence[str] | None
) -> Account | None:
    """Resolve names or numbers; None when nothing is asked for.

    Without ``group`` the user's own is taken, without ``supplementary`` those which the
    system's databases give that user (getgrouplist(3)). Raises LaunchError when a name is
    unknown, or when it takes root to become that account and we are not.
    """
    if user is None and group is None and supplementary is None:
        return None
    entry = _user(user)
    gid = _gid(entry, user, group)
    if supplementary is None:
        groups = tuple(os.getgrouplist(entry.pw_name, gid))
    else:
        groups = tuple(_group(name) for name in supplementary)
    if os.geteuid() != 0:
        groups = _check_own(entry, gid, groups if supplementary is not None else None)
    return Account(entry.pw_uid, gid, groups, entry.pw_name, entry.pw_dir, entry.pw_shell)


def _user(user: str | None) -> pwd.struct_passwd:
    """The passwd entry; a number without one gets a plain entry, with gid -1 for "none"."""
    if user is None:
        user = str(os.geteuid())
    else:
        try:
            return pwd.getpwnam(user)
        except KeyError:
            pass
    uid = _number(user)
    if uid is None:
        raise LaunchError(f"cannot run as user '{user}': there is no such user")
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return pwd.struct_passwd((user, "x", uid, -1, "", "/", "/bin/sh"))


def _gid(entry: pwd.struct_passwd, user: str | None, group: str | None) -> int:
    if group is not None:
        return _group(group)
    if entry.pw_gid != -1:
        return entry.pw_gid
    if user is None:
        return os.getegid()
    raise LaunchError(
        f"cannot run as user '{user}': it is not in the passwd database, "
        "so its group is not known; set group as well"
    )


def _group(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        gid = _number(group)
    if gid is None:
        raise LaunchError(f"cannot run as group '{group}': there is no such group")
    return gid


def _number(text: str) -> int | None:
    """A uid or gid written as a number; -1, in whatever width, means "unchanged" to the kernel."""
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**32 - 1:
        return None
    return int(text)


def _check_own(
    entry: pwd.struct_passwd, gid: int, asked: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Without root a process keeps what it is: anything else is refused here, by name."""
    own = os.getgroups()
    if entry.pw_uid != os.geteuid():
        what = f"user '{entry.pw_name}'"
    elif gid != os.getegid():
        what = f"group {gid}"
    elif asked is not None and {*asked, gid} != {*own, gid}:
        what = f"supplementary groups {', '.join(map(str, asked)) or 'none'}"
    else:
        return tuple(own)
    raise LaunchError(f"cannot run as {what}: cmappserver must run as root for it")
