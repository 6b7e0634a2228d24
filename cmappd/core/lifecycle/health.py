"""Health checks: when the next one is due, and what the last one means."""

from msgspec.structs import replace

from cmappd.core.events import Check, CheckDue, Checked
from cmappd.core.lifecycle import watchdog
from cmappd.core.lifecycle.app import App, Step, is_up, live_run, readiness
from cmappd.core.lifecycle.ending import end
from cmappd.core.state import Cause, Health, Phase

# While an application starts and its readiness is its health, ask this often.
STARTING_CHECK_INTERVAL = 0.5


def plan_check(app: App, now: float, share: float) -> App:
    """Set the next check to ``share`` of an interval from now, unless one is under way."""
    run, health = live_run(app), app.definition.health
    if health is None:
        return replace(app, run=replace(run, check_due=None, health=Health.NONE, streak=0))
    known = Health.UNKNOWN if run.health is Health.NONE else run.health
    if not health.checks:
        return replace(app, run=replace(run, check_due=None, health=known, streak=0))
    interval = health.interval
    if _awaits_health(app):
        interval = min(interval, STARTING_CHECK_INTERVAL)
    check_due = None if run.checking else now + share * interval
    return replace(app, run=replace(run, check_due=check_due, health=known))


def check(app: App, _event: CheckDue, _now: float) -> Step:
    run = replace(live_run(app), check_due=None, checking=True)
    return replace(app, run=run), (Check(run.id),)


def checked(app: App, event: Checked, now: float) -> Step:
    run, health = replace(live_run(app), checking=False), app.definition.health
    app = replace(app, run=run)
    if health is None or not health.checks or not is_up(app):
        return app, ()
    if event.passed is None:
        return plan_check(app, now, 1), ()
    if event.passed:
        return _passed(app, now), ()
    if _is_excused(app, now):
        return plan_check(app, now, 1), ()
    streak = min(run.streak, 0) - 1
    run = replace(run, streak=streak)
    if -streak < health.failures:
        return plan_check(replace(app, run=run), now, 1), ()
    app = replace(app, run=replace(run, health=Health.UNHEALTHY))
    if health.action == "report" or app.maintenance is not None:
        return plan_check(app, now, 1), ()
    return end(app, Cause.UNHEALTHY, f"unhealthy: its health check {event.detail}", now)


def _passed(app: App, now: float) -> App:
    run, health = live_run(app), app.definition.health
    streak = max(run.streak, 0) + 1
    # The first word on a run's health needs no confirmation; only a recovery does.
    if run.health is Health.UNKNOWN or (health is not None and streak >= health.successes):
        run = replace(run, health=Health.HEALTHY)
    app = replace(app, run=replace(run, streak=streak))
    if _awaits_health(app):
        app = watchdog.ready(app, live_run(app), now)
    return plan_check(app, now, 1)


def _awaits_health(app: App) -> bool:
    """Also where it may have said that it is ready, while nobody listened."""
    ready = readiness(app)
    awaited = ready == "health" or (ready == "notify" and live_run(app).unheard)
    return app.phase is Phase.STARTING and awaited


def _is_excused(app: App, now: float) -> bool:
    """Whether a failed check does not count: while it is not ready, or not any more."""
    run = live_run(app)
    stopping = run.excused is not None and now < run.excused
    starting = app.phase is Phase.STARTING and isinstance(readiness(app), str)
    return stopping or starting or _in_start_period(app, now)


def _in_start_period(app: App, now: float) -> bool:
    """Early, and before the first success."""
    run, health = live_run(app), app.definition.health
    if health is None or run.health is not Health.UNKNOWN:
        return False
    return now - run.started < health.start_period
