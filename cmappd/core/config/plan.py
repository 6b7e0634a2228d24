"""What is in force after a reload, and what that changes.

A broken edit changes nothing: what is wrong, or cannot be seen, keeps its last good
definition. What is gone from a file that can be read is removed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TypeVar

from cmappd.core.config.parse import Parsed
from cmappd.core.config.problems import Problem
from cmappd.core.config.schema import Application, Manager, Server, Tls
from cmappd.core.config.together import quarantine
from cmappd.errors import ConfigError

T = TypeVar("T")

Lacks = Sequence[tuple[str, str]]  # keys, dotted, and what the machine lacks for their values
NO_LACKS: Mapping[str, Lacks] = {}

# A changed launch key waits for the next launch; a live one applies at once. See `_to_be_told`.
LAUNCH = frozenset(
    {
        "command",
        "directory",
        "environment",
        "environment_file",
        "group",
        "limits",
        "nice",
        "no_new_privileges",
        "pid_file",
        "supplementary_groups",
        "type",
        "umask",
        "user",
    }
)
LIVE = frozenset(
    {
        "autostart",
        "description",
        "health",
        "log",
        "manager",
        "reload",
        "requires",
        "resources",
        "restart",
        "start",
        "stop",
    }
)


@dataclass(frozen=True, slots=True)
class Config:
    """What is in force, and the problems with what the files say now.

    ``origins`` are the files of applications, also of those that were never right; "" where
    nobody knows it any more.
    """

    server: Server
    tls: Tls | None
    managers: dict[str, Manager]
    apps: dict[str, Application]
    origins: dict[str, str]
    problems: tuple[Problem, ...]
    manager_origins: dict[str, str] = field(default_factory=dict)

    def problem_of(self, app: str) -> str | None:
        """The lines of the problems of an application, or of its file as a whole."""
        origin = self.origins.get(app)
        lines = [
            str(problem)
            for problem in self.problems
            if problem.app == app
            or (origin is not None and _of_file(problem) and _covers(problem.file, origin))
        ]
        return "\n".join(lines) or None


@dataclass(frozen=True, slots=True)
class Change:
    """The keys of an application whose values differ; ``launch`` has some of live tables, too."""

    live: frozenset[str]
    launch: frozenset[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do to come from one configuration to another; names are sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: dict[str, Change]
    server_changed: bool
    tls_changed: bool
    managers_changed: bool


def settle(
    last: Config | None, parsed: Parsed, log_directory: str, lacks: Mapping[str, Lacks] = NO_LACKS
) -> Config:
    """What is in force: what the files define, and the last good of what is wrong in them.

    [server] and [tls] are kept or replaced together. ``log_directory`` is where the logs are that
    have no path. ``lacks`` are applications that keep their last good definitions, because of what
    the machine lacks for the new ones. Raises ConfigError, with a line for each problem, when
    there is nothing to run with: no last configuration, and no server.
    """
    if parsed.server is None and last is None:
        raise ConfigError("\n".join(map(str, parsed.problems)))
    server, tls = parsed.server, parsed.tls
    apps, origins = dict(parsed.apps), dict(parsed.origins)
    managers, manager_origins = dict(parsed.managers), dict(parsed.manager_origins)
    if last is not None:
        _keep(last.apps, last.origins, apps, origins, parsed)
        _keep(last.managers, last.manager_origins, managers, manager_origins, parsed)
        if server is None:
            server, tls = last.server, last.tls
        apps |= {name: last.apps[name] for name in lacks}
    assert server is not None
    fresh = {name: one for name, one in parsed.stanzas.items() if name not in lacks}
    wrong = quarantine(apps, last.apps if last is not None else {}, fresh, log_directory)
    problems = (*parsed.problems, *_held_back(parsed, lacks), *wrong)
    return Config(server, tls, managers, apps, origins, problems, manager_origins)


def compare(old: Config, new: Config) -> Plan:
    """What differs between two configurations."""
    changed = {}
    for name in sorted(old.apps.keys() & new.apps.keys()):
        change = change_of(old.apps[name], new.apps[name])
        if change.live or change.launch:
            changed[name] = change
    return Plan(
        added=tuple(sorted(new.apps.keys() - old.apps.keys())),
        removed=tuple(sorted(old.apps.keys() - new.apps.keys())),
        changed=changed,
        server_changed=old.server != new.server,
        tls_changed=old.tls != new.tls,
        managers_changed=old.managers != new.managers,
    )


def launch_hash(app: Application) -> str:
    """Names the launch keys: equal hashes, equal launches."""
    return _hash(app, LAUNCH)


def definition_hash(app: Application) -> str:
    """Names the whole definition."""
    return _hash(app, LAUNCH | LIVE)


def _keep(
    last: Mapping[str, T],
    last_origins: Mapping[str, str],
    now: dict[str, T],
    origins: dict[str, str],
    parsed: Parsed,
) -> None:
    """Add to what is defined now what was, and is wrong or cannot be seen."""
    for name, definition in last.items():
        if name not in now and (name in origins or _unseen(last_origins[name], parsed)):
            now[name] = definition
            origins.setdefault(name, last_origins[name])


def _held_back(parsed: Parsed, lacks: Mapping[str, Lacks]) -> Iterator[Problem]:
    """Why definitions that are right are not in force."""
    for name, found in lacks.items():
        for key, text in found:
            path = ("apps", name, *key.split("."))
            for line in text.splitlines():
                yield parsed.stanzas[name].problem(path, line, name)


def _unseen(file: str, parsed: Parsed) -> bool:
    """Whether what a file said before may still be meant, though it is not found now.

    Without a good main file nobody knows which others are included. A table of an unknown
    name may be a misspelt one.
    """
    return (
        parsed.server is None
        or any(_covers(unreadable, file) for unreadable in parsed.unreadable)
        or any(_of_file(problem) and _covers(problem.file, file) for problem in parsed.problems)
    )


def _of_file(problem: Problem) -> bool:
    """Whether the problem hides what the file means to define: no table, or no text, is known."""
    return problem.app is None and "." not in problem.key


def _covers(unreadable: str, file: str) -> bool:
    """Whether it is the file, or a directory that the file is in; "" may be any file."""
    return file in ("", unreadable) or PurePosixPath(unreadable) in PurePosixPath(file).parents


def change_of(old: Application, new: Application) -> Change:
    """What differs between two definitions of one application."""
    if old is new:
        return Change(frozenset(), frozenset())
    keys = {key for key in LAUNCH | LIVE if getattr(old, key) != getattr(new, key)}
    return Change(LIVE & keys, (LAUNCH & keys) | frozenset(_to_be_told(old, new)))


def _to_be_told(old: Application, new: Application) -> Iterator[str]:
    """The keys of live tables that it is told at its launch, and not again."""
    if new.start.ready == "notify" and not old.notifies:
        yield "start.ready"
    if new.watchdog not in (None, old.watchdog):
        yield "health.watchdog"


def _hash(app: Application, keys: frozenset[str]) -> str:
    # Without defaults, so that a key which a later version adds does not change every hash.
    content = app.model_dump(mode="json", include=set(keys), exclude_defaults=True)
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
