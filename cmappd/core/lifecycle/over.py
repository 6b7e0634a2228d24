"""When a run is over, and what follows: up again, later, or no more."""

from msgspec.structs import replace

from cmappd.core import policy, signals, units
from cmappd.core.events import (
    Conclude,
    Destroy,
    Exited,
    FindMain,
    Gone,
    Kill,
    NotLaunched,
    NotProvided,
    OomKilled,
    Remove,
    Spawn,
    Stop,
    StopDependants,
    TimedOut,
)
from cmappd.core.lifecycle.app import App, Run, Step, enter, last_outcome, live_run
from cmappd.core.lifecycle.ending import ask, destroy
from cmappd.core.lifecycle.health import plan_check
from cmappd.core.lifecycle.starting import as_defined, launch, starting
from cmappd.core.state import REQUESTED, Cause, ExitStatus, Goal, Outcome, Part, Phase
from cmappd.core.wording import status_text

# A command has ended, or was never launched -------------------------------------------


def not_launched(app: App, event: NotLaunched, now: float) -> Step:
    if event.part is Part.STOP:
        return _not_asked(app)
    if event.part is Part.AFTER:
        return over(app, now)
    return _fail_start(app, event.detail, empty=not live_run(app).launched, now=now)


def exited_starting(app: App, event: Exited, now: float) -> Step:
    """A command has ended while the run is not ready: that may be as it should."""
    run = live_run(app)
    if event.part is Part.START:
        if _for_memory(run, event):
            return _fail_start(app, "start.command", event.empty, now, Cause.OUT_OF_MEMORY)
        if not event.status.known and event.empty:  # nobody saw its end: once more, as it is safe
            return starting(app, run, now), (Spawn(run.id, Part.START),)
        if event.status.known and event.status.code != 0:
            detail = f"start.command ended with {status_text(event.status)}"
            return _fail_start(app, detail, event.empty, now)
        run = as_defined(replace(run, part=Part.MAIN), app.definition)
        return starting(app, run, now), (Spawn(run.id, Part.MAIN),)
    if run.kind == "oneshot" and event.status.code in app.definition.restart.success_codes:
        app = enter(app, Phase.RUNNING, None, replace(run, status=event.status))
        return plan_check(app, now, run.chance), ()
    # Of a launcher whose end nobody saw, what it has left says that it did its work.
    unseen = not event.status.known and not event.empty and run.pid is None
    if run.kind == "forking" and (event.status.code == 0 or unseen):
        # Also of one that was taken for the main process, and was a step on the way to it.
        if event.empty:
            return _fail_start(app, _NOTHING_LEFT, event.empty, now)
        run = replace(run, pid=None, searching=True, check_due=None)
        if run.limit is None:  # not one that was found already, and was not the last
            limit = now + app.definition.start.timeout
            run = replace(
                run, limit=max(limit, app.deadline or limit)
            )  # it may have asked for more
        return enter(app, Phase.STARTING, run.limit, run), (FindMain(run.id),)
    return exited(app, event, now)


def exited(app: App, event: Exited, now: float) -> Step:
    """The main process has ended by itself; its tree may not outlive it."""
    run = replace(live_run(app), status=event.status)
    if _for_memory(run, event):
        run = replace(run, ending=Cause.OUT_OF_MEMORY)
    elif event.oom_kills > run.oom_kills and event.status == ExitStatus():
        run = replace(run, detail="the kernel has killed processes of it for memory")
    return _clear(replace(app, run=run), event.empty, now)


def _for_memory(run: Run, event: Exited) -> bool:
    """Whether the kernel killed it for memory: nobody else has, of those who say so."""
    return event.oom_kills > run.oom_kills and event.status.signal == signals.KILL


def oom_killed(app: App, event: OomKilled, _now: float) -> Step:
    """The kernel has taken some of it, and not the main process: to be told, and no end."""
    return replace(app, run=replace(live_run(app), oom_kills=event.oom_kills)), ()


def exited_stopping(app: App, event: Exited, now: float) -> Step:
    if event.part is Part.AFTER:
        return over(app, now) if event.empty else destroy(app, now)
    if event.part is Part.STOP:
        return _asked(app, event, now)
    app = _note_status(app, event)
    run = live_run(app)
    if run.part is Part.AFTER:  # told late: nothing was left of the run before
        return app, ()
    if run.asking:  # that the tree is empty was found before stop.command was launched
        return app, ()
    return _clear(app, event.empty, now)


def exited_killing(app: App, event: Exited, now: float) -> Step:
    app = _note_status(app, event)
    if event.part is Part.STOP:
        app = replace(app, run=replace(live_run(app), asking=False))
    if not event.empty or live_run(app).asking:
        return app, ()
    if event.part is Part.AFTER:
        return over(app, now)
    return (app, ()) if live_run(app).part is Part.AFTER else tree_gone(app, now)


def gone_starting(app: App, event: Gone, now: float) -> Step:
    """What a command left when it daemonised has ended before anybody could look at it."""
    if not live_run(app).searching:
        return app, ()
    return _fail_start(app, _NOTHING_LEFT, empty=True, now=now)


def gone(app: App, event: Gone, now: float) -> Step:
    run = live_run(app)
    if run.part is not Part.AFTER:
        # What was found empty before stop.command was launched: the end of that tells more.
        return (app, ()) if run.asking else tree_gone(app, now)
    return over(app, now) if event.part is Part.AFTER else (app, ())


_NOTHING_LEFT = "the command ended, and left no process behind"


def _note_status(app: App, event: Exited) -> App:
    run = live_run(app)
    alone = event.part is Part.MAIN and (run.pid is not None or run.kind != "forking")
    return replace(app, run=replace(run, status=event.status)) if alone else app


def _fail_start(
    app: App, detail: str, empty: bool, now: float, cause: Cause = Cause.NOT_STARTED
) -> Step:
    """It could not be started; a stop that was asked for meanwhile stays the cause."""
    run = live_run(app)
    run = replace(run, ending=run.ending or cause, detail=detail)
    return _clear(replace(app, run=run), empty, now)


def _clear(app: App, empty: bool, now: float) -> Step:
    """The run is at its end but for what is left of its tree."""
    if empty:
        return tree_gone(app, now)
    run = live_run(app)
    if app.phase is Phase.KILLING:
        return app, (Destroy(run.id),)
    if run.yielding:  # also with what is left
        return app, ()
    if app.phase is not Phase.STOPPING:
        app = enter(app, Phase.STOPPING, now + app.definition.stop.timeout, run)
    return ask(app)


def _asked(app: App, event: Exited, now: float) -> Step:
    """stop.command has ended; where it did not do what it is for, the stop signal follows."""
    app = replace(app, run=replace(live_run(app), asking=False))
    if event.empty:
        return tree_gone(app, now)
    run = live_run(app)
    if event.status.code == 0 and run.pid is not None and run.status is None:
        return replace(app, run=replace(run, asked=True)), ()
    return ask(app)


def _not_asked(app: App) -> Step:
    run = replace(live_run(app), asking=False)
    app = replace(app, run=run)
    return (app, (Destroy(run.id),)) if app.phase is Phase.KILLING else ask(app)


# The run is over ---------------------------------------------------------------------


def tree_gone(app: App, now: float) -> Step:
    """Nothing is left of what was launched; ``stop.after`` cleans up behind it."""
    run = live_run(app)
    if app.definition.stop.after is None or not run.launched or run.part is Part.AFTER:
        return over(app, now)
    run = replace(run, part=Part.AFTER, asking=False, yielding=False)
    app = enter(app, Phase.STOPPING, now + app.definition.stop.timeout, run)
    return app, (Spawn(run.id, Part.AFTER),)


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
    cause = run.ending or (Cause.EXIT if status.known else Cause.UNKNOWN)
    success = policy.succeeded(cause, status, app.definition.restart.success_codes)
    return Outcome(run.id, cause, status, success, run.detail)


def _apply_policy(app: App, outcome: Outcome, now: float) -> Step:
    rule, chance = app.definition.restart, live_run(app).chance
    restarts = policy.recent(app.restarts, now, rule.window)
    app = replace(app, restarts=restarts)
    wanted = rule.policy == "always" or (rule.policy == "on-failure" and not outcome.success)
    if not wanted or len(restarts) >= rule.limit:
        return conclude(app, outcome)
    if app.maintenance is not None:  # put off, and not counted
        return enter(app, Phase.BACKOFF, max(app.maintenance.until, now), None), ()
    delay = policy.back_off(len(restarts), rule.delay, rule.max_delay, chance)
    app = replace(app, restarts=(*restarts, now))
    return enter(app, Phase.BACKOFF, now + delay, None), ()


def conclude(app: App, outcome: Outcome) -> Step:
    """It comes to rest: FAILED when that was neither asked for nor a success."""
    launched = app.run is None or app.run.launched
    wanted = outcome.success or outcome.cause in REQUESTED
    phase = Phase.STOPPED if wanted else Phase.FAILED
    app = enter(replace(app, goal=Goal.DOWN, last=outcome), phase, None, None)
    return app, (Conclude(outcome, launched),)


def stop_waiting(app: App, event: Stop | Kill, _now: float) -> Step:
    """Nothing runs, and what would have been launched again will not be."""
    last = last_outcome(app)
    detail = _detail(event) or last.detail
    app, actions = conclude(app, Outcome(last.run, event.cause, last.status, False, detail))
    return app, (StopDependants(event.cause), *actions)


def remove_waiting(app: App, _event: Remove, _now: float) -> Step:
    """It was to be launched again, and may not be: what it ended with is the result."""
    return conclude(replace(app, removed=True), last_outcome(app))


# Before the launch ----------------------------------------------------------------------


def stop_before_launch(app: App, event: Stop | Kill, _now: float) -> Step:
    """Nothing of it runs; those that require it are not to come up, or not to stay."""
    app, actions = _not_begun(app, event.cause, _detail(event))
    return app, (StopDependants(event.cause), *actions)


def not_provided(app: App, event: NotProvided, _now: float) -> Step:
    """It cannot be launched. What it requires had a budget of its own: ours is of no help."""
    return _not_begun(app, Cause.NOT_STARTED, event.detail)


def not_provided_in_time(app: App, _event: TimedOut, now: float) -> Step:
    run, timeout = live_run(app), app.definition.start.timeout
    if app.maintenance is not None:
        return enter(app, Phase.WAITING, now + timeout, run), ()
    what = run.detail or "what it requires"
    detail = f"waited {units.format_duration(timeout)} for {what}"
    return _not_begun(app, Cause.NOT_STARTED, detail)


def remove_before_launch(app: App, _event: Remove, _now: float) -> Step:
    text = "it was removed from the configuration while it waited for what it requires"
    return _not_begun(replace(app, removed=True), Cause.NOT_STARTED, text)


def _not_begun(app: App, cause: Cause, detail: str) -> Step:
    app = replace(app, run=replace(live_run(app), ending=cause, detail=detail))
    return conclude(app, _outcome(app))


def _detail(event: Stop | Kill) -> str:
    return event.detail if isinstance(event, Stop) else ""
