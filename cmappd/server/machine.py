"""What a definition names, and this machine does not have: it could not be launched here."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from cmappd.core.config import Application
from cmappd.errors import CmappdError
from cmappd.server.application.environment import environment_of
from cmappd.system import users


class Lack(NamedTuple):
    """A key, dotted, and what is wrong with its value; ``place`` is the file that may mend it."""

    key: str
    text: str
    place: str


def lacks(app: Application, than: Application | None = None) -> Iterator[Lack]:
    """What the machine lacks for an application, or for what in it differs from another one."""
    other = _named(than) if than is not None else {}
    for key, named in _named(app).items():
        if named is not None and named != other.get(key):
            yield from _lacks(app, key)


def hindrances(app: Application, last: Application, *, up: bool) -> list[Lack]:
    """Why a changed definition cannot take the place of the last good one yet.

    An application that is up must not be stopped for what cannot be launched. One that is down
    keeps what can be launched; where nothing can, be it that start.command has yet to mount it,
    the new definition is as good as the last.
    """
    found = list(lacks(app, last))
    return found if found and (up or not any(lacks(last, app))) else []


def _named(app: Application) -> dict[str, object]:
    """What it names that the machine must have."""
    return {
        "user": (app.user, app.group, app.supplementary_groups),
        "environment_file": app.environment_file,
        "directory": app.directory,
        **app.commands,
    }


def _lacks(app: Application, key: str) -> Iterator[Lack]:
    if key == "user":
        yield from _account_lacks(app)
    elif key == "environment_file" and app.environment_file is not None:
        try:
            environment_of("", "", app, None)
        except CmappdError as error:
            yield Lack(key, str(error), app.environment_file)
    elif key == "directory" and app.directory is not None:
        path = app.directory
        if not os.path.isdir(path) and _known(path):
            yield Lack(key, f"cannot enter '{path}': there is no such directory", path)
    else:
        path = app.commands[key][0]
        if not os.access(path, os.X_OK) and _known(path):
            text = f"cannot execute '{path}': it is missing, or not executable"
            yield Lack(key, text, path)


def _account_lacks(app: Application) -> Iterator[Lack]:
    """Each key of the account is asked for with what is right of the others."""
    user, group = app.user, app.group
    try:
        users.account(None, group, None)
    except CmappdError as error:
        yield Lack("group", str(error), "/etc/group")
        group = str(os.getegid())
    try:
        users.account(user, group, None)
    except CmappdError as error:
        yield Lack("user", str(error), "/etc/passwd")
        user = None
    try:
        users.account(user, group, app.supplementary_groups)
    except CmappdError as error:
        yield Lack("supplementary_groups", str(error), "/etc/group")


def _known(path: str) -> bool:
    """Whether it is known what is there: root may not see what a user sees on a disk by NFS."""
    try:
        os.stat(path)
    except PermissionError:
        return os.geteuid() != 0
    except OSError:
        pass
    return True
