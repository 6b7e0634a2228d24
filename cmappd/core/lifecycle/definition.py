"""A changed definition: what of it applies to the live run at once."""

from msgspec.structs import replace

from cmappd.core.events import Define, Remove
from cmappd.core.lifecycle import watchdog
from cmappd.core.lifecycle.app import App, Step, is_up
from cmappd.core.lifecycle.health import plan_check
from cmappd.core.lifecycle.notice import ready_if_said
from cmappd.core.lifecycle.starting import starting
from cmappd.core.state import Phase


def define(app: App, event: Define, now: float) -> Step:
    old, new, run = app.definition, event.definition, app.run
    app = replace(app, definition=new, removed=False)
    if run is None or not is_up(app):
        return app, ()
    if app.phase is Phase.STARTING and old.start != new.start:
        app = ready_if_said(starting(app, run, now), now)
    if old.health != new.health:
        app = watchdog.rewind(plan_check(app, now, run.chance), now)
    return app, ()


def remove(app: App, _event: Remove, _now: float) -> Step:
    return replace(app, removed=True), ()
