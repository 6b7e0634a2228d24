"""A changed definition: what of it applies to the live run at once."""

from msgspec.structs import replace

from cmappd.core.config import Application
from cmappd.core.events import Define, Remove
from cmappd.core.lifecycle import watchdog
from cmappd.core.lifecycle.app import App, Run, Step, is_up
from cmappd.core.lifecycle.health import plan_check
from cmappd.core.lifecycle.notice import ready_if_said
from cmappd.core.lifecycle.starting import starting, wait
from cmappd.core.state import Phase


def define(app: App, event: Define, now: float) -> Step:
    old, new, run = app.definition, event.definition, app.run
    app = replace(app, definition=new, removed=False)
    if run is not None and app.phase is Phase.WAITING:
        return _define_waiting(app, run, old, now)
    if run is None or not is_up(app):
        return app, ()
    if app.phase is Phase.STARTING and old.start != new.start:
        app = ready_if_said(starting(app, run, now), now)
    if old.health != new.health:
        app = watchdog.rewind(plan_check(app, now, run.chance), now)
    return app, ()


def _define_waiting(app: App, run: Run, old: Application, now: float) -> Step:
    new = app.definition
    if (old.requires, old.start) == (new.requires, new.start):
        return app, ()
    return wait(app, run, now)


def untold(app: App) -> bool:
    """Whether the live run lacks what its command is told at its launch, and not again."""
    run, definition = app.run, app.definition
    if run is None:
        return False
    unheard = definition.notifies and not run.socket
    return unheard or definition.watchdog not in (None, run.watchdog)


def remove(app: App, _event: Remove, _now: float) -> Step:
    return replace(app, removed=True), ()
