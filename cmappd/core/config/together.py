"""Whether applications go together: a question to all of them at once.

Each must be able to have what it requires, and a log of its own. A stanza that did not change can
become wrong, or right, because another one changed. So this is asked at each reload, of what would
be in force.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from cmappd.core.config.problems import KeyPath, Problem
from cmappd.core.config.schema import Application
from cmappd.core.config.stanzas import Stanza

REQUIRES, LOG_PATH = ("requires",), ("log", "path")
DEVICES = "/dev/"  # what is there may be written to by many

Apps = Mapping[str, Application]
Wrong = tuple[str, KeyPath, str]  # the application, the key, and what is wrong with it


def quarantine(
    apps: dict[str, Application], last: Apps, stanzas: Mapping[str, Stanza], log_directory: str
) -> list[Problem]:
    """Put back, in ``apps``, the last good definitions of those that do not go with the others.

    ``stanzas`` are those of the definitions that are none of the last good ones. What has no last
    good definition leaves ``apps``; that may leave others without it, and a definition that is put
    back may require other things. So it is asked until all is well, which it becomes, because each
    time there are fewer that are new. Logs that have no path are in ``log_directory``.
    """
    fresh = {name: stanza for name, stanza in stanzas.items() if name in apps}
    problems = []
    while wrong := [one for one in _wrong(apps, last, log_directory) if one[0] in fresh]:
        for name, key, text in wrong:
            problems.append(fresh[name].problem(("apps", name, *key), text, name))
        for name in {name for name, _, _ in wrong}:
            del apps[name], fresh[name]
            if name in last:
                apps[name] = last[name]
    return problems


def _wrong(apps: Apps, last: Apps, log_directory: str) -> Iterator[Wrong]:
    """The applications that ask for what cannot be, and what is wrong with that."""
    for name, app in apps.items():
        missing = [f"'{one}'" for one in app.requires if one not in apps]
        if missing:
            yield name, REQUIRES, f"there is no good definition of {', '.join(missing)}"
    for name, circle in _circle(apps):
        yield name, REQUIRES, f"it requires itself: {' requires '.join(circle)}"
    yield from _shared_logs(_logs(apps, log_directory), _logs(last, log_directory))


def _circle(apps: Apps) -> Iterator[tuple[str, tuple[str, ...]]]:
    """One circle of requirements, if there is any: as each of its members has to see it."""
    try:
        TopologicalSorter({name: app.requires for name, app in apps.items()}).prepare()
    except CycleError as error:
        members = error.args[1][:0:-1]  # the first is there twice, and requires the last
        for at, name in enumerate(members):
            yield name, (*members[at:], *members[:at], name)


# Logs ---------------------------------------------------------------------------------

_BACKUP = re.compile(r"(.+)\.([1-9][0-9]{0,3})")  # the name of a log and a number
_LOST = "lines would be lost; choose another file"


class _Log(NamedTuple):
    path: str
    backups: int
    usual: bool  # nobody has said which file

    def __str__(self) -> str:
        return f"is {self.path}, which is" if self.usual else "is"


def _logs(apps: Apps, log_directory: str) -> dict[str, _Log]:
    """The files that applications write to, as they are without detours."""
    found = {}
    for name, app in apps.items():
        path = app.log.path or f"{log_directory}/{name}.log"
        path = "/" + posixpath.normpath(path).lstrip("/")
        if app.log.destination == "file" and not path.startswith(DEVICES):
            found[name] = _Log(path, app.log.backups, app.log.path is None)
    return found


def _shared_logs(logs: Mapping[str, _Log], last: Mapping[str, _Log]) -> Iterator[Wrong]:
    """Who would write to a file of another one; what has it already may keep it."""
    writers = defaultdict(list)
    for name, log in logs.items():
        writers[log.path].append(name)
    for path, names in writers.items():
        had = [one for one in names if one in last and last[one].path == path]
        for name in names if len(names) > 1 else []:
            if name not in had:
                other = next(one for one in (*had, *names) if one != name)
                yield name, LOG_PATH, f"{logs[name]} the log of '{other}', too: {_LOST}"
    for name, log in logs.items():
        backup = _BACKUP.fullmatch(log.path)
        for owner in writers.get(backup[1], []) if backup else []:
            if backup and int(backup[2]) <= logs[owner].backups:
                yield _backup(name, owner, had=last.get(name) == log)


def _backup(name: str, owner: str, had: bool) -> Wrong:
    """The log of one is a backup of that of the other, which it may have had before."""
    if had:
        return owner, LOG_PATH, f"would have the log of '{name}' for a backup: {_LOST}"
    return name, LOG_PATH, f"is a backup of the log of '{owner}': {_LOST}"
