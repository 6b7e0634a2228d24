"""From the texts of the configuration's files to what they define, and what is wrong.

The main file may hold everything, included files applications and managers only. A wrong
stanza is a problem of its own application: the others are defined all the same. [server]
and [tls] only make sense together, so a problem in one leaves both undefined; and so does
an unknown table in the main file, which may be one of them misspelt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from cmappd.core.config.problems import KeyPath, Problem, explain, unknown_key
from cmappd.core.config.schema import Application, Manager, Server, Tls
from cmappd.core.config.stanzas import (
    Document,
    Known,
    Source,
    Stanza,
    decode,
    loads,
    not_toml,
    split,
)
from cmappd.core.config.values import BAD_NAME, NAME

DEFAULT_LISTEN = "0.0.0.0:5315"

T = TypeVar("T", bound=BaseModel)

_TABLES = ["server", "tls", "managers", "apps"]
_INCLUDED_TABLES = ["managers", "apps"]
_MODELS: dict[str, type[BaseModel]] = {"managers": Manager, "apps": Application}


@dataclass(frozen=True, slots=True)
class Parsed:
    """What the files define. ``origins`` are the files of applications, of wrong ones too.

    ``server`` is None when the main file is unreadable, or [server] or [tls] is wrong.
    ``unreadable`` files are not TOML, or could not be read at all. ``stanzas`` are those of the
    applications that are right as far as their own text tells.
    """

    server: Server | None
    tls: Tls | None
    managers: dict[str, Manager]
    apps: dict[str, Application]
    origins: dict[str, str]
    problems: tuple[Problem, ...]
    unreadable: frozenset[str]
    manager_origins: dict[str, str] = field(default_factory=dict)
    known: Known = field(default_factory=dict, repr=False, compare=False)
    stanzas: dict[str, Stanza] = field(default_factory=dict, repr=False, compare=False)


def includes(main: Source) -> tuple[str, ...]:
    """The absolute patterns of the files that the main file includes; () if they are wrong."""
    for stanza in split(main):
        # The file may hold 1,000 applications: only what speaks of including is read.
        if "include" in stanza.text:
            try:
                table = loads(stanza.text).get("server")
            except (ValueError, RecursionError):
                continue
            patterns = table.get("include") if isinstance(table, dict) else None
            if patterns is not None:
                return _absolute(patterns, stanza.directory)
    return ()


def _absolute(patterns: object, directory: str) -> tuple[str, ...]:
    try:
        return Server.model_validate({"include": patterns}, context=directory).include
    except ValidationError:
        return ()


def state_directory(main: Source) -> str | None:
    """The state directory that the main file names, as far as one line of it tells.

    That is a guess where the file is wrong, and good enough to look there for what was right.
    """
    directory = str(PurePosixPath(main.path).parent)
    for line in main.text.splitlines():
        if line.lstrip().startswith("state_directory"):
            try:
                return Server.model_validate(loads(line), context=directory).state_directory
            except (ValueError, RecursionError):
                continue
    return None


def parse(
    main: str,
    sources: Sequence[Source],
    failures: Sequence[Problem] = (),
    previous: Parsed | None = None,
) -> Parsed:
    """What the files define; ``main`` is the path of the main file. Never raises for bad input.

    ``failures`` are files that could not be read; the main file may be one. Stanzas that
    ``previous`` knows are taken from it.
    """
    reader = _Reader(previous.known if previous else {})
    reader.problems += failures
    reader.unreadable.update(failure.file for failure in failures)
    # Two patterns may match the same file.
    for source in {source.path: source for source in sources}.values():
        reader.read(source, main=source.path == main)
    return reader.parsed()


class _Place(NamedTuple):
    stanza: Stanza
    path: KeyPath

    def __str__(self) -> str:
        line = self.stanza.line(self.path)
        return self.stanza.file if line is None else f"{self.stanza.file}:{line}"


class _Reader:
    """Collects what the files define, one file after the other."""

    def __init__(self, known: Known) -> None:
        self.problems: list[Problem] = []
        self.unreadable: set[str] = set()
        self._before = known
        self._known: dict[bytes, tuple[str, Application]] = {}
        self._server: Server | None = None
        self._tls: Tls | None = None
        self._named: dict[str, dict[str, Any]] = {kind: {} for kind in _MODELS}
        self._places: dict[str, dict[str, _Place]] = {kind: {} for kind in _MODELS}

    def read(self, source: Source, main: bool) -> None:
        try:
            parts = decode(source, self._before)
        except (ValueError, RecursionError) as error:
            self.problems.append(not_toml(source, error))
            self.unreadable.add(source.path)
            self._remember_unread(source)
            return
        problems = len(self.problems)
        for stanza, document in parts:
            self._unknown_tables(stanza, document, main)
        if main:
            self._program(parts, wrong_already=len(self.problems) > problems)
        for stanza, document in parts:
            for kind in _MODELS:
                self._table(kind, stanza, document)
            self._remember(stanza, document)
        self.problems[problems:] = sorted(self.problems[problems:], key=lambda p: p.line or 0)

    def parsed(self) -> Parsed:
        apps, managers = self._places["apps"], self._places["managers"]
        return Parsed(
            server=self._server,
            tls=self._tls,
            managers=self._named["managers"],
            apps=self._named["apps"],
            origins={name: place.stanza.file for name, place in apps.items()},
            problems=tuple(self.problems),
            unreadable=frozenset(self.unreadable),
            manager_origins={name: place.stanza.file for name, place in managers.items()},
            known=self._known,
            stanzas={name: apps[name].stanza for name in self._named["apps"]},
        )

    def _unknown_tables(self, stanza: Stanza, document: Document, main: bool) -> None:
        allowed = _TABLES if main else _INCLUDED_TABLES
        for key in document:
            if key not in allowed:
                message = unknown_key(key, allowed)
                if key in _TABLES:
                    message = "belongs in the main file: an included one has apps and managers only"
                self._problem(stanza, (key,), message)

    def _program(self, parts: list[tuple[Stanza, Document]], wrong_already: bool) -> None:
        """[server] and [tls], of the main file."""
        tables = {key: (s, d[key]) for s, d in parts for key in d if key in ("server", "tls")}
        stanza, table = tables.get("server", (parts[0][0], {}))
        if isinstance(table, dict) and "tls" in tables:
            table = {"listen": [DEFAULT_LISTEN], **table}
        server = self._model(Server, table, stanza, ("server",))
        tls = None
        if "tls" in tables:
            tls = self._model(Tls, tables["tls"][1], tables["tls"][0], ("tls",))
            wrong_already |= tls is None
        elif server and server.listen:
            self._problem(stanza, ("server", "listen"), "needs a [tls] table")
            return
        if server and not wrong_already:
            self._server, self._tls = server, tls

    def _table(self, kind: str, stanza: Stanza, document: Document) -> None:
        """All of [apps] or [managers] in a stanza."""
        table = document.get(kind, {})
        if not isinstance(table, dict):
            self._problem(stanza, (kind,), "must be a table")
            return
        for name, value in table.items():
            place = _Place(stanza, (kind, name))
            if not NAME.fullmatch(name):
                self._problem(stanza, place.path, BAD_NAME)
            elif self._is_new(place, kind, name):
                app = name if kind == "apps" else None
                model = self._model(_MODELS[kind], value, stanza, place.path, app)
                if model is not None:
                    self._named[kind][name] = model

    def _is_new(self, place: _Place, kind: str, name: str) -> bool:
        """Whether no other file defines it; else neither file does."""
        other = self._places[kind].setdefault(name, place)
        if other is place:
            return True
        self._named[kind].pop(name, None)
        message = f"is defined in {other} too: remove one of them"
        self._problem(place.stanza, place.path, message, name if kind == "apps" else None)
        return False

    def _model(
        self,
        model: type[T],
        table: object,
        stanza: Stanza,
        path: KeyPath,
        app: str | None = None,
    ) -> T | None:
        try:
            return model.model_validate(table, context=stanza.directory)
        except ValidationError as error:
            for key, message in explain(error, model):
                self._problem(stanza, (*path, *key), message, app)
            return None

    def _remember(self, stanza: Stanza, document: Document) -> None:
        apps = document.get("apps")
        if document.keys() == {"apps"} and isinstance(apps, dict) and len(apps) == 1:
            (name,) = apps
            definition = self._named["apps"].get(name)
            if definition is not None and self._places["apps"][name].stanza is stanza:
                self._known[stanza.digest] = (name, definition)

    def _remember_unread(self, source: Source) -> None:
        """Keep what was known, so that the mended file is not read from scratch."""
        digests = {stanza.digest for stanza in split(source)}
        self._known.update({d: self._before[d] for d in digests & self._before.keys()})

    def _problem(self, stanza: Stanza, path: KeyPath, message: str, app: str | None = None) -> None:
        self.problems.append(stanza.problem(path, message, app))
