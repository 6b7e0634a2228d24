"""Health checks: when the next one is due, and what the last one means."""

from msgspec.structs import replace

from cmappd.core.events import Check, CheckDue, Checked
from cmappd.core.lifecycle.app import App, Step, enter, is_up, live_run
from cmappd.core.lifecycle.ending import end
from cmappd.core.state import Cause, Health, Phase

# While an application starts and its readiness is its health, ask this often.
STARTING_CHECK_INTERVAL = 0.5


def plan_check(app: App, now: float, share: float) -> App:
    """Set the next check to ``share`` of an interval from now, unless one is under way."""
    run, health = live_run(app), app.definition.health
    if health is None:
        return replace(app, run=replace(run, check_due=None, health=Health.NONE, streak=0))
    interval = health.interval
    if _awaits_health(app):
        interval = min(interval, STARTING_CHECK_INTERVAL)
    known = Health.UNKNOWN if run.health is Health.NONE else run.health
    check_due = None if run.checking else now + share * interval
    return replace(app, run=replace(run, check_due=check_due, health=known))


def check(app: App, _event: CheckDue, _now: float) -> Step:
    run = replace(live_run(app), check_due=None, checking=True)
    return replace(app, run=run), (Check(run.id),)


def checked(app: App, event: Checked, now: float) -> Step:
    run, health = replace(live_run(app), checking=False), app.definition.health
    app = replace(app, run=run)
    if health is None or not is_up(app):
        return app, ()
    if event.passed:
        return _passed(app, now), ()
    if _awaits_health(app) or _in_start_period(app, now):
        return plan_check(app, now, 1), ()
    streak = min(run.streak, 0) - 1
    run = replace(run, streak=streak)
    if -streak < health.failures:
        return plan_check(replace(app, run=run), now, 1), ()
    app = replace(app, run=replace(run, health=Health.UNHEALTHY))
    if health.action == "report" or app.maintenance is not None:
        return plan_check(app, now, 1), ()
    return end(app, Cause.UNHEALTHY, f"unhealthy: {event.detail}", now)


def _passed(app: App, now: float) -> App:
    run, health = live_run(app), app.definition.health
    streak = max(run.streak, 0) + 1
    # The first word on a run's health needs no confirmation; only a recovery does.
    if run.health is Health.UNKNOWN or (health is not None and streak >= health.successes):
        run = replace(run, health=Health.HEALTHY)
    app = replace(app, run=replace(run, streak=streak))
    if _awaits_health(app):
        app = enter(app, Phase.RUNNING, None, live_run(app))
    return plan_check(app, now, 1)


def _awaits_health(app: App) -> bool:
    return app.phase is Phase.STARTING and app.definition.start.ready == "health"


def _in_start_period(app: App, now: float) -> bool:
    """Whether a failed check is still excused: early, and before the first success."""
    run, health = live_run(app), app.definition.health
    if health is None or run.health is not Health.UNKNOWN:
        return False
    return now - run.started < health.start_period
