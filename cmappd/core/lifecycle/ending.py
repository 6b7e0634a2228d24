"""How a run is brought to its end: it is asked to go, and then it is killed."""

from msgspec.structs import replace

from cmappd.core.events import (
    Asked,
    Destroy,
    Event,
    Kill,
    Restart,
    Spawn,
    Stop,
    StopDependants,
    Terminate,
    TimedOut,
)
from cmappd.core.lifecycle.app import App, Run, Step, enter, has_main, live_run
from cmappd.core.state import Cause, Goal, Part, Phase

# SIGKILL is repeated, because a tree can fork while it is being killed.
FIRST_KILL_INTERVAL, LAST_KILL_INTERVAL = 0.1, 5.0


def end(app: App, cause: Cause, detail: str, now: float) -> Step:
    """Begin to end the live run, for this cause."""
    run = replace(live_run(app), ending=cause, detail=detail, yielding=False)
    command = app.definition.stop.command is not None and has_main(run)
    run = replace(run, asking=command)
    app = enter(app, Phase.STOPPING, now + app.definition.stop.timeout, run)
    if command:
        return app, (Spawn(run.id, Part.STOP),)
    return ask(app) if run.launched else (app, ())


def stop(app: App, event: Stop, now: float) -> Step:
    """Those that require it end first, as long as that may be waited for."""
    app = replace(app, goal=Goal.DOWN)
    if event.patience:
        run = replace(live_run(app), ending=event.cause, detail=event.detail, yielding=True)
        app = enter(app, Phase.STOPPING, now + event.patience, run)
        return app, (StopDependants(event.cause),)
    app, actions = end(app, event.cause, event.detail, now)
    return app, (StopDependants(event.cause), *actions)


def released(app: App, _event: Event, now: float) -> Step:
    """What it was waiting for is over: now it is asked to end itself."""
    run = live_run(app)
    if not run.yielding or run.ending is None:
        return app, ()
    return end(app, run.ending, run.detail, now)


def restart(app: App, event: Restart, now: float) -> Step:
    if app.removed:
        return app, ()
    return end(replace(app, restarts=()), event.cause, "", now)


def restart_ending(app: App, event: Restart, _now: float) -> Step:
    if app.removed:
        return app, ()
    run = _ended_by(live_run(app), event)
    return replace(app, goal=Goal.UP, run=run, restarts=()), ()


def want_down(app: App, event: Stop | Kill, _now: float) -> Step:
    """Who turns the goal down ends the run, whatever it was ending for until then."""
    if app.goal is Goal.DOWN:
        return app, ()
    app = replace(app, goal=Goal.DOWN, run=_ended_by(live_run(app), event))
    return app, (StopDependants(event.cause),)


def stop_ending(app: App, event: Stop, now: float) -> Step:
    """Who may not wait for those that require it does not, though another would."""
    app, actions = want_down(app, event, now)
    if event.patience:
        return app, actions
    app, more = released(app, event, now)
    return app, (*actions, *more)


def kill(app: App, event: Kill, now: float) -> Step:
    app, actions = want_down(app, event, now)
    app, more = destroy(app, now)
    return app, (*actions, *more)


def stop_timed_out(app: App, event: TimedOut, now: float) -> Step:
    return released(app, event, now) if live_run(app).yielding else destroy(app, now)


def destroy(app: App, now: float) -> Step:
    run = live_run(app)
    interval = min(FIRST_KILL_INTERVAL * 2.0 ** min(run.kills, 10), LAST_KILL_INTERVAL)
    run = replace(run, kills=run.kills + 1, yielding=False)
    app = enter(app, Phase.KILLING, now + interval, run)
    return app, (Destroy(run.id),) if run.launched else ()


def stop_failed(app: App, _event: Stop | Kill, _now: float) -> Step:
    """Somebody has taken note of the failure; how it failed stays known."""
    return enter(app, Phase.STOPPED, None, None), ()


def ask(app: App) -> Step:
    """The stop signal: to the main process, or to all where there is none or that is asked for."""
    run = live_run(app)
    alone = run.pid is not None and run.status is None
    app = replace(app, run=replace(run, asked=False))
    return app, (Terminate(run.id, whole=app.definition.stop.tree or not alone),)


def asked(app: App, _event: Asked, _now: float) -> Step:
    return replace(app, run=replace(live_run(app), asked=True)), ()


def is_owed_signal(app: App) -> bool:
    """Whether it is to end, and nobody knows that it was asked to: not by this supervisor."""
    run = app.run
    if run is None or app.phase is not Phase.STOPPING or run.part is Part.AFTER:
        return False
    return run.launched and not (run.asked or run.asking or run.yielding)


def _ended_by(run: Run, event: Stop | Kill | Restart) -> Run:
    """The run that was ending already, with a new cause; what it was ending for stays told."""
    by_itself = run.ending is None and run.status is not None
    detail = "its main process had ended by itself" if by_itself else run.detail
    if isinstance(event, Stop) and event.detail:
        detail = event.detail
    return replace(run, ending=event.cause, detail=detail)
