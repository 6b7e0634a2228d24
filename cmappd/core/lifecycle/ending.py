"""How a run is brought to its end: it is asked to go, and then it is killed."""

from msgspec.structs import replace

from cmappd.core.events import Destroy, Kill, Restart, Spawn, Stop, Terminate, TimedOut
from cmappd.core.lifecycle.app import App, Run, Step, enter, is_up, live_run
from cmappd.core.state import Cause, Goal, Part, Phase

# SIGKILL is repeated, because a tree can fork while it is being killed.
FIRST_KILL_INTERVAL, LAST_KILL_INTERVAL = 0.1, 5.0


def end(app: App, cause: Cause, detail: str, now: float) -> Step:
    """Begin to end the live run, for this cause."""
    run = replace(live_run(app), ending=cause, detail=detail)
    command = app.definition.stop.command is not None and is_up(app)
    run = replace(run, asking=command)
    app = enter(app, Phase.STOPPING, now + app.definition.stop.timeout, run)
    if command:
        return app, (Spawn(run.id, Part.STOP),)
    return app, (termination(app, run),) if run.launched else ()


def stop(app: App, event: Stop, now: float) -> Step:
    return end(replace(app, goal=Goal.DOWN), event.cause, "", now)


def restart(app: App, event: Restart, now: float) -> Step:
    if app.removed:
        return app, ()
    return end(replace(app, restarts=()), event.cause, "", now)


def restart_ending(app: App, event: Restart, _now: float) -> Step:
    if app.removed:
        return app, ()
    run = _ended_by(live_run(app), event.cause)
    return replace(app, goal=Goal.UP, run=run, restarts=()), ()


def want_down(app: App, event: Stop | Kill, _now: float) -> Step:
    """Who turns the goal down ends the run, whatever it was ending for until then."""
    if app.goal is Goal.DOWN:
        return app, ()
    return replace(app, goal=Goal.DOWN, run=_ended_by(live_run(app), event.cause)), ()


def kill(app: App, event: Kill, now: float) -> Step:
    app, _ = want_down(app, event, now)
    return destroy(app, now)


def stop_timed_out(app: App, _event: TimedOut, now: float) -> Step:
    return destroy(app, now)


def destroy(app: App, now: float) -> Step:
    run = live_run(app)
    interval = min(FIRST_KILL_INTERVAL * 2.0 ** min(run.kills, 10), LAST_KILL_INTERVAL)
    run = replace(run, kills=run.kills + 1)
    app = enter(app, Phase.KILLING, now + interval, run)
    return app, (Destroy(run.id),) if run.launched else ()


def stop_failed(app: App, _event: Stop | Kill, _now: float) -> Step:
    """Somebody has taken note of the failure; how it failed stays known."""
    return enter(app, Phase.STOPPED, None, None), ()


def termination(app: App, run: Run) -> Terminate:
    """The stop signal: to the main process, or to all where there is none or that is asked for."""
    alone = run.pid is not None and run.status is None
    return Terminate(run.id, whole=app.definition.stop.tree or not alone)


def _ended_by(run: Run, cause: Cause) -> Run:
    """The run that was ending already, with a new cause; what it was ending for stays told."""
    by_itself = run.ending is None and run.status is not None
    detail = "its main process had ended by itself" if by_itself else run.detail
    return replace(run, ending=cause, detail=detail)
