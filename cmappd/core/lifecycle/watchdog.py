"""The watchdog: an application that is ready says again and again that it is well.

It pings by sd_notify(3), at least once in the interval that it was told at its launch (see
sd_watchdog_enabled(3)), or has asked for since. What it was not told it need not keep: a watchdog
that is added, or another interval, counts from the next launch on; one that is removed, at once.
"""

from msgspec.structs import replace

from cmappd.core.events import PingDue
from cmappd.core.lifecycle.app import App, Run, Step, enter, live_run
from cmappd.core.lifecycle.ending import end
from cmappd.core.state import Cause, Health, Phase

# Seconds. Whoever looks later than this was away, and the application with it, it may be: a
# virtual machine that stood still, or is overloaded. So it gets its time anew.
LATE = 1.0


def ready(app: App, run: Run, now: float) -> App:
    """It is ready; from now on pings are awaited, where they are."""
    return enter(app, Phase.RUNNING, None, wound(app, run, now))


def wound(app: App, run: Run, now: float) -> Run:
    """The run with the whole interval before it, until the next ping."""
    awaited = app.definition.watchdog is not None and run.ping_interval > 0
    due = max(now + run.ping_interval, run.excused or now) if awaited else None
    return replace(run, ping_due=due, silent=False)


def rewind(app: App, now: float) -> App:
    """Follow the definition: what has become of no interest is awaited no more."""
    run = live_run(app)
    if app.phase is not Phase.RUNNING or (app.definition.watchdog is not None and run.silent):
        return app
    fresh = wound(app, run, now)
    kept = run.ping_due is not None and fresh.ping_due is not None
    return replace(app, run=replace(fresh, ping_due=run.ping_due) if kept else fresh)


def pinged(app: App, now: float) -> App:
    """It is well, it says; where nobody asks, that is its health."""
    run, health = wound(app, live_run(app), now), app.definition.health
    if health is not None and not health.checks and run.ping_due is not None:
        run = replace(run, health=Health.HEALTHY)
    return replace(app, run=run)


def ping_missed(app: App, _event: PingDue, now: float) -> Step:
    run = live_run(app)
    if run.ping_due is not None and now - run.ping_due > LATE:
        return replace(app, run=wound(app, run, now)), ()
    return fail(app, f"no ping of its watchdog within {run.ping_interval:g} s", now)


def fail(app: App, detail: str, now: float) -> Step:
    """It is not well, whatever the checks say, until it pings again."""
    health = app.definition.health
    if health is None or health.watchdog is None:
        return app, ()
    app = replace(app, run=replace(live_run(app), ping_due=None, silent=True))
    if health.action == "report" or app.maintenance is not None:
        return app, ()
    return end(app, Cause.UNHEALTHY, f"unhealthy: {detail}", now)
