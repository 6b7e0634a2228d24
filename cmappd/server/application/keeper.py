"""Keeps the record of one application up to date, with no more writing than is needed."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from cmappd.core.config import Application
from cmappd.core.lifecycle import App
from cmappd.core.ownership import Owner
from cmappd.core.state import Part
from cmappd.server.application.custody import Custody
from cmappd.server.application.runner import Runner
from cmappd.server.application.status import Notes
from cmappd.server.shared.store import VERSION, Record, text_of
from cmappd.server.shared.world import World


class Keeper:
    """Writes a record when what it holds has changed."""

    __slots__ = ("_saved", "_world")

    def __init__(self, world: World) -> None:
        self._world = world
        self._saved: tuple[object, ...] = ()

    def resume(self, app: App, custody: Custody, notes: Notes) -> None:
        """What is known now is what was read from the record."""
        self._saved = (*_durable(app, custody, notes), None)

    def save(
        self, app: App, custody: Custody, runner: Runner, notes: Notes, *, always: bool
    ) -> None:
        """Write it, if need be or ``always``; what went wrong is logged once, and noted."""
        durable = (*_durable(app, custody, notes), runner.asking)
        if durable == self._saved and not always:
            return
        try:
            self._world.store.save(self._record(app, custody, runner, notes))
        except OSError as error:
            where, told = self._world.state_directory, notes.unsaved
            notes.unsaved = f"cannot keep its record in {where}: {error.strerror}"
            if not told:
                self._world.log_of(app.name).error("%s", notes.unsaved)
            return
        notes.unsaved = ""
        self._saved = durable

    def _record(self, app: App, custody: Custody, runner: Runner, notes: Notes) -> Record:
        run = app.run
        launched = run is not None and run.launched
        asking = run is not None and (run.asking or run.part is Part.AFTER)
        return Record(
            VERSION,
            self._world.boot_id,
            app.name,
            app.epoch,
            app.serial,
            app.goal,
            app.phase,
            msgspec.Raw(text_of(app.definition)),
            deadline=app.deadline,
            run=run,
            restarts=app.restarts,
            last=app.last,
            main=runner.main if launched else None,
            asking=runner.asking if asking else None,
            owner=custody.owner,
            undelivered=custody.undelivered,
            concluded=custody.concluded,
            since=notes.since,
            started=notes.started,
            launched_as=notes.launched_as,
            history=notes.history,
            asker=notes.asker,
        )


def owner_in(record: Record, definition: Application, now: float) -> Owner | None:
    """The owner in a record. One that was connected may have been heard without a new record."""
    owner = record.owner
    if owner is None or not owner.connected or _notes_words(definition):
        return owner
    return owner.refreshed(now)


def _notes_words(definition: Application) -> bool:
    return definition.manager.on_lost == "stop"


_COMES_AND_GOES: Mapping[str, Any] = {
    "check_due": None,
    "checking": False,
    "streak": 0,
    "ping_due": None,
    "status_text": "",
}


def _durable(app: App, custody: Custody, notes: Notes) -> tuple[object, ...]:
    """All that is worth a new record. Health checks, pings and words of status come and go without
    one, and so do polls, but where the silence of the owner ends the application."""
    run, owner = app.run, custody.owner
    told = run and replace(run, **_COMES_AND_GOES)
    if owner is not None and not _notes_words(app.definition):
        owner = owner.refreshed(0.0)
    return (
        *(app.phase, app.goal, app.deadline, app.restarts, app.last, app.definition, told),
        *(owner, custody.undelivered, custody.concluded, notes.launched_as),
    )
