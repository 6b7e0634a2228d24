"""The configuration from the files: read, checked, and settled against what is in force."""

import fnmatch
import glob
import os
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from cmappd.core.config import (
    Config,
    Parsed,
    Problem,
    Source,
    includes,
    parse,
    settle,
    state_directory,
)
from cmappd.core.state import Goal
from cmappd.errors import ConfigError, TransientError
from cmappd.server.machine import Lack, hindrances
from cmappd.server.shared.store import Kept
from cmappd.system import files
from cmappd.system.paths import default_paths
from cmappd.system.trust import check_trusted

# What editors and package managers leave beside the file that is meant.
LEFTOVERS = (".*", "*~", "#*#", "*.swp", "*.rpmsave", "*.rpmnew", "*.rpmorig", "*.dpkg-*")


class Loader:
    """Reads one configuration again and again; the last good one stays in force."""

    def __init__(self, path: str) -> None:
        """Raises ConfigError for a user without a home directory, who has nowhere for logs."""
        self.path = path
        self._parsed: Parsed | None = None
        self._config: Config | None = None
        self._unread: ConfigError | None = None  # why the main file could not be read
        self._lacks: list[Lack] = []
        self._save: Callable[[Config], None] | None = None
        self._kept: object = None  # what was saved last
        self._warn: Callable[[str], None] = lambda _text: None
        self.missed: list[str] = []  # in sentences: the patterns that match nothing
        self._files: tuple[str, ...] = ()
        self._patterns: tuple[str, ...] = ()
        self._logs = default_paths(os.geteuid() == 0, os.environ).log_directory

    def load(self, up: Container[str] = ()) -> Config:
        """What is in force now, with its problems; ``up`` are the applications that are up.

        Raises ConfigError, with a line for each problem, when nothing good was ever loaded, and
        TransientError where the main file may be readable later.
        """
        sources, failures = self._read()
        if self._config is None and isinstance(self._unread, TransientError):
            raise self._unread
        self._parsed = parse(self.path, sources, failures, self._parsed)
        return self._settle(self._config, self._parsed, up)

    def named_state_directory(self) -> str | None:
        """The state directory that the main file names, as far as that can be read."""
        sources: list[Source] = []
        _read_one(self.path, sources, [])
        return state_directory(sources[0]) if sources else None

    def resume(self, last: Config) -> None:
        """Go on from what was in force of the main file before."""
        self._config, self._patterns = last, last.server.include

    def attach(self, save: Callable[[Config], None], warn: Callable[[str], None]) -> None:
        """From now on have kept what is in force of the main file, and have told what is no
        problem, but may not be meant. ``save`` may raise OSError.
        """
        self._save, self._warn = save, warn
        for text in self.missed:
            warn(text)

    def recall(self, kept: Mapping[str, Kept]) -> Config:
        """What is in force when these were the last good ones of an earlier cmappserver.

        In which files they were is not known: what hides something may hide them.
        """
        assert self._config is not None, "something was loaded"
        assert self._parsed is not None
        apps = {name: one.app.definition for name, one in kept.items()}
        up = [name for name, one in kept.items() if one.app.goal is Goal.UP]
        last = replace(self._config, apps=apps, origins=dict.fromkeys(apps, ""))
        return self._settle(last, self._parsed, up)

    def _settle(self, last: Config | None, parsed: Parsed, up: Container[str]) -> Config:
        found = {}
        for name, app in last.apps.items() if last is not None else ():
            new = parsed.apps.get(name, app)
            if new is not app and (hindering := hindrances(new, app, up=name in up)):
                found[name] = hindering
        self._lacks = [lack for hindering in found.values() for lack in hindering]
        lacks = {name: [one[:2] for one in hindering] for name, hindering in found.items()}
        self._config = settle(last, parsed, self._logs, lacks)
        self._config = self._keep(self._config)
        return self._config

    def _keep(self, config: Config) -> Config:
        """Have it kept, if it is not; with the problem if that fails."""
        general = config.server, config.tls, config.managers, config.manager_origins
        if self._save is None or general == self._kept:
            return config
        try:
            self._save(config)
            self._kept = general
        except OSError as error:
            text = f"cannot keep what is in force for the next start: {error.strerror}"
            problem = Problem(self.path, None, "server.state_directory", text)
            return replace(config, problems=(*config.problems, problem))
        return config

    @property
    def waits(self) -> bool:
        """Whether a change waits for what the machine lacks for it."""
        return bool(self._lacks)

    def _read(self) -> tuple[list[Source], list[Problem]]:
        """The main file and what it includes, and a problem for each that cannot be read."""
        sources: list[Source] = []
        failures: list[Problem] = []
        self._unread = _read_one(self.path, sources, failures)
        # While the main file cannot be read, it still includes what it last did.
        self._patterns = includes(sources[0]) if sources else self._patterns
        included = self._included(failures)
        for path in included:
            _read_one(path, sources, failures)
        self._files = (self.path, *included)
        return sources, failures

    def _included(self, failures: list[Problem]) -> list[str]:
        found: set[str] = set()
        missed = []
        for pattern in self._patterns:
            try:
                matching = expand(pattern)
            except ConfigError as error:
                failures.append(Problem(os.path.dirname(pattern), None, "", str(error)))
                continue
            found.update(matching)
            if not matching:
                missed.append(f"include '{pattern}' matches nothing")
        for text in missed:
            if text not in self.missed:
                self._warn(text)
        self.missed = missed
        return sorted(found - {self.path})

    def watched(self) -> tuple[str, ...]:
        """The files that were read, the directories where others may come, and what is lacking."""
        directories = (found for one in self._patterns for found in _directories_of(one))
        lacking = (lack.place for lack in self._lacks)
        return tuple(dict.fromkeys((*self._files, *directories, *lacking)))


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
        raise files.cannot(f"list {directory}", error) from error


def _is_leftover(path: str) -> bool:
    name = os.path.basename(path)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFTOVERS)


def _directories_of(pattern: str) -> list[str]:
    """The directories that have, or may come to have, files of an absolute pattern."""
    directory = PurePosixPath(pattern).parent
    found = glob.glob(str(directory))
    while glob.has_magic(str(directory)):
        directory = directory.parent
        found += glob.glob(str(directory))
    return [*found, str(directory)]


def _read_one(path: str, sources: list[Source], failures: list[Problem]) -> ConfigError | None:
    """Read a file into the sources; or note why that failed, and return it."""
    try:
        check_trusted(path)
        sources.append(Source(path, files.read_text(path)))
    except ConfigError as error:
        failures.append(Problem(path, None, "", str(error)))
        return error
    return None
