"""What must survive cmappserver: a record of each application, in a file of its own.

A record is written when something durable has changed, before the application's task sleeps. It
is for this boot only: instants are monotonic, and processes do not outlive it. So it need not
reach the disk, only the kernel, which keeps what a killed process has written.

A record that cannot be read, or that another version wrote with what is not known here, is never
guessed at: it is put aside, and said so; what runs of that application is then found by its marks,
and not started twice.
"""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
from pydantic import ValidationError

from cmappd.core.config import Application
from cmappd.core.config.problems import dotted, explain
from cmappd.core.lifecycle import App, Run
from cmappd.core.messages import Ended, Past
from cmappd.core.ownership import Owner
from cmappd.core.state import Cause, Goal, Outcome, Phase
from cmappd.errors import CmappdError
from cmappd.system.proc import Identity
from cmappd.system.trust import private_directory

VERSION = 1
SUFFIX = ".json"
REFUSED = ".refused"

Apps = Mapping[str, Application]


class RecordError(CmappdError):
    """A record cannot be used."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One application: what the lifecycle knows, whose it is, and which process is the main one.

    ``heard`` and all instants of the lifecycle are monotonic, ``since`` and ``started`` wall times.
    ``definition`` is the one in force, without what is default: the last good one, should the
    files be wrong when the next server reads them.
    """

    version: int
    boot_id: str
    name: str
    epoch: str
    serial: int
    goal: Goal
    phase: Phase
    definition: msgspec.Raw
    deadline: float | None = None
    run: Run | None = None
    restarts: tuple[float, ...] = ()
    last: Outcome | None = None
    main: tuple[int, int] | None = None
    asking: tuple[int, int] | None = None  # of stop.command or stop.after, while that is under way
    owner: Owner | None = None
    undelivered: Ended | None = None
    concluded: tuple[Ended, ...] = ()
    since: float = 0.0
    started: float | None = None
    launched_as: str = ""
    history: tuple[Past, ...] = ()
    asker: str = ""

    @property
    def matters(self) -> bool:
        """Whether there is something to supervise or to deliver, whatever the files say."""
        waits = self.phase is Phase.BACKOFF
        return self.run is not None or waits or self.undelivered is not None

    @property
    def awaits_us(self) -> bool:
        """Whether it rests because cmappserver ended, or because maintenance held it back from
        its first start; and not because anybody asked.
        """
        if self.run is not None:
            return self.run.ending is Cause.SHUTDOWN
        return self.last is None or self.last.cause is Cause.SHUTDOWN

    @property
    def processes(self) -> tuple[Identity | None, Identity | None]:
        """The main process, and that of stop.command or stop.after, if there are any."""
        main, asking = (None if one is None else Identity(*one) for one in (self.main, self.asking))
        return main, asking

    def app(self, configured: Application | None) -> App:
        """The application as it was. Raises RecordError where its definition is none here.

        Where that is the ``configured`` one, as with most, it need not be checked again.
        """
        if configured is not None and text_of(configured) == bytes(self.definition):
            definition = configured
        else:
            definition = _definition(self.definition)
        return App(
            self.name,
            self.epoch,
            definition,
            goal=self.goal,
            phase=self.phase,
            deadline=self.deadline,
            serial=self.serial,
            run=self.run,
            restarts=self.restarts,
            last=self.last,
        )


class Kept(NamedTuple):
    """What a record has kept: all that is in it, and the application with its definition."""

    record: Record
    app: App


def _definition(text: msgspec.Raw) -> Application:
    """The definition in a record. Raises RecordError: another version may have other keys."""
    try:
        return Application.model_validate(msgspec.json.decode(text))
    except ValidationError as error:
        wrong = [
            f"{dotted(key)}: {why}" if key else why for key, why in explain(error, Application)
        ]
        raise RecordError(f"its definition cannot be used: {'; '.join(wrong)}") from None


def text_of(definition: Application) -> bytes:
    """A definition as it stands in a record: without what is default."""
    return definition.model_dump_json(exclude_defaults=True).encode()


class _Head(msgspec.Struct, frozen=True):
    """What a record of any version begins with."""

    version: int
    boot_id: str


class Store:
    """The records of one state directory."""

    def __init__(self, state_directory: str, boot_id: str) -> None:
        self._directory = os.path.join(state_directory, "apps")
        self._boot_id = boot_id

    def open(self) -> None:
        """Have the directory for them. Raises ConfigError where it cannot be had."""
        private_directory(self._directory)

    def save(self, record: Record) -> None:
        """Replace the record of an application. Raises OSError."""
        path = self._path(record.name)
        fresh = f"{path}.new"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            data = msgspec.json.encode(record)
            if os.write(fd, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)
        os.rename(fresh, path)

    def forget(self, name: str) -> None:
        """Remove the record of an application that has left."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def load(self, configured: Apps) -> tuple[dict[str, Kept], dict[str, str]]:
        """What is kept of this boot by application, and what is wrong with the records refused.

        ``configured`` are definitions that are known to be good.
        """
        found: dict[str, Kept] = {}
        refused: dict[str, str] = {}
        for name in self._names():
            path = self._path(name)
            try:
                kept = self._read(path, configured)
            except RecordError as error:
                refused[name] = f"{_put_aside(path)}: {error}"
                continue
            if kept is not None:
                found[name] = kept
            else:
                self.forget(name)
        return found, refused

    def matters(self) -> bool:
        """Whether there is something of this boot to supervise or to deliver."""
        for name in self._names():
            with contextlib.suppress(RecordError):
                kept = self._read(self._path(name), {})
                if kept is not None and kept.record.matters:
                    return True
        return False

    def unreadable(self, configured: Apps) -> dict[str, str]:
        """What is wrong with the records that `load` would refuse; nothing is changed."""
        wrong = {}
        for name in self._names():
            try:
                self._read(self._path(name), configured)
            except RecordError as error:
                wrong[name] = str(error)
        return wrong

    def _names(self) -> Iterator[str]:
        try:
            entries = sorted(os.listdir(self._directory))
        except FileNotFoundError:  # it was never opened
            return
        for entry in entries:
            if entry.endswith(SUFFIX):
                yield entry.removesuffix(SUFFIX)

    def _read(self, path: str, configured: Apps) -> Kept | None:
        """What a file has kept; None if it is of an earlier boot. Raises RecordError."""
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise RecordError(f"it cannot be read: {error.strerror}") from None
        try:
            head = msgspec.json.decode(data, type=_Head)
            if head.version > VERSION:
                raise RecordError(f"a newer cmappserver wrote it (version {head.version})")
            if head.boot_id != self._boot_id:
                return None
            record = msgspec.json.decode(data, type=Record)
            app = record.app(configured.get(record.name))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RecordError(f"it is damaged: {error}") from None
        if self._path(record.name) != path:
            raise RecordError(f"it speaks of '{record.name}'")
        return Kept(record, app)

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name + SUFFIX)


def _put_aside(path: str) -> str:
    """Give a record of no use another name, and say so; one that cannot be renamed stays."""
    try:
        os.rename(path, path + REFUSED)
    except OSError as error:
        return f"its record {path} cannot be put aside ({error.strerror})"
    return f"its record is put aside as {path + REFUSED}"
