"""Maintenance: somebody works on the application, and nothing is done to it that nobody asked for.

What would have been done is left undone or put off, in the cells that would do it: a failed
check is reported and ends nothing, a start that takes too long is waited for, a restart by the
policy is due when the maintenance is over, and costs none of the budget. What follows from a
request, from the lease, or from the end of the main process is done as ever.
"""

from msgspec.structs import replace

from cmappd.core.events import Maintain, MaintenanceOver, Start
from cmappd.core.lifecycle.app import App, Step, enter, live_run
from cmappd.core.lifecycle.starting import launch, start, starting
from cmappd.core.lifecycle.watchdog import wound
from cmappd.core.state import Cause, Phase


def maintain(app: App, event: Maintain, _now: float) -> Step:
    return replace(app, maintenance=event.maintenance), ()


def maintain_waiting(app: App, event: Maintain, _now: float) -> Step:
    """A restart that is due is put off."""
    app = replace(app, maintenance=event.maintenance)
    return enter(app, Phase.BACKOFF, event.maintenance.until, None), ()


def over(app: App, _event: MaintenanceOver, _now: float) -> Step:
    return replace(app, maintenance=None), ()


def over_starting(app: App, _event: MaintenanceOver, now: float) -> Step:
    """From now on it has the time to become ready that it would have had."""
    return starting(replace(app, maintenance=None), live_run(app), now), ()


def over_running(app: App, _event: MaintenanceOver, now: float) -> Step:
    """A ping that was missed may have been, and the next may not."""
    return replace(app, maintenance=None, run=wound(app, live_run(app), now)), ()


def over_required(app: App, _event: MaintenanceOver, now: float) -> Step:
    """From now on what it requires has its usual time."""
    app = replace(app, maintenance=None)
    return enter(app, Phase.WAITING, now + app.definition.start.timeout, live_run(app)), ()


def over_waiting(app: App, _event: MaintenanceOver, now: float) -> Step:
    """The restart that was put off."""
    app = replace(app, maintenance=None)
    return enter(app, Phase.BACKOFF, now + app.definition.restart.delay, None), ()


def over_stopped(app: App, event: MaintenanceOver, now: float) -> Step:
    """What runs from boot on is started, unless somebody has stopped it."""
    app = replace(app, maintenance=None)
    stopped = app.last is not None and app.last.cause is not Cause.SHUTDOWN
    if stopped or not app.definition.autostart:
        return app, ()
    return start(app, event, now)


def start_waiting(app: App, _event: Start, now: float) -> Step:
    """Who asks for what is due does not make it due sooner, but where that was put off."""
    if app.maintenance is None:
        return app, ()
    return launch(replace(app, restarts=()), now)
