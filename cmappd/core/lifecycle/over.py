"""When a run is over, and what follows: up again, later, or no more."""

from msgspec.structs import replace

from cmappd.core import policy
from cmappd.core.events import Conclude, Exited, Gone, Kill, NotLaunched, Remove, Stop
from cmappd.core.lifecycle.app import App, Step, enter, last_outcome, live_run
from cmappd.core.lifecycle.ending import termination
from cmappd.core.lifecycle.starting import launch
from cmappd.core.state import REQUESTED, Cause, ExitStatus, Goal, Outcome, Phase


def not_launched(app: App, event: NotLaunched, now: float) -> Step:
    run = live_run(app)
    ending = run.ending or Cause.NOT_STARTED
    return over(replace(app, run=replace(run, ending=ending, detail=event.detail)), now)


def exited(app: App, event: Exited, now: float) -> Step:
    """The main process has ended by itself; its tree may not outlive it."""
    run = replace(live_run(app), status=event.status)
    app = replace(app, run=run)
    if event.empty:
        return over(app, now)
    app = enter(app, Phase.STOPPING, now + app.definition.stop.timeout, run)
    return app, (termination(app, run),)


def exited_stopping(app: App, event: Exited, now: float) -> Step:
    run = replace(live_run(app), status=event.status)
    app = replace(app, run=run)
    return over(app, now) if event.empty else (app, (termination(app, run),))


def exited_killing(app: App, event: Exited, now: float) -> Step:
    app = replace(app, run=replace(live_run(app), status=event.status))
    return over(app, now) if event.empty else (app, ())


def gone(app: App, _event: Gone, now: float) -> Step:
    return over(app, now)


def over(app: App, now: float) -> Step:
    """The run is over: its tree is empty. Up again, later, or no more."""
    outcome = _outcome(app)
    app = replace(app, last=outcome)
    if app.goal is Goal.DOWN or app.removed:
        return conclude(app, outcome)
    if outcome.cause in REQUESTED:
        return launch(app, now)
    return _apply_policy(app, outcome, now)


def _outcome(app: App) -> Outcome:
    run = live_run(app)
    status = run.status or ExitStatus()
    known = status.code is not None or status.signal is not None
    cause = run.ending or (Cause.EXIT if known else Cause.UNKNOWN)
    success = policy.succeeded(cause, status, app.definition.restart.success_codes)
    return Outcome(run.id, cause, status, success, run.detail)


def _apply_policy(app: App, outcome: Outcome, now: float) -> Step:
    rule, chance = app.definition.restart, live_run(app).chance
    restarts = policy.recent(app.restarts, now, rule.window)
    app = replace(app, restarts=restarts)
    wanted = rule.policy == "always" or (rule.policy == "on-failure" and not outcome.success)
    if not wanted or len(restarts) >= rule.limit:
        return conclude(app, outcome)
    delay = policy.back_off(len(restarts), rule.delay, rule.max_delay, chance)
    app = replace(app, restarts=(*restarts, now))
    return enter(app, Phase.BACKOFF, now + delay, None), ()


def conclude(app: App, outcome: Outcome) -> Step:
    """It comes to rest: FAILED when that was neither asked for nor a success."""
    wanted = outcome.success or outcome.cause in REQUESTED
    phase = Phase.STOPPED if wanted else Phase.FAILED
    app = enter(replace(app, goal=Goal.DOWN, last=outcome), phase, None, None)
    return app, (Conclude(outcome),)


def stop_waiting(app: App, event: Stop | Kill, _now: float) -> Step:
    """Nothing runs, and what would have been launched again will not be."""
    last = last_outcome(app)
    return conclude(app, Outcome(last.run, event.cause, last.status, False, last.detail))


def remove_waiting(app: App, _event: Remove, _now: float) -> Step:
    """It was to be launched again, and may not be: what it ended with is the result."""
    return conclude(replace(app, removed=True), last_outcome(app))
