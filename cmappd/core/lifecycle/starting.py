"""How a run begins, until it is ready."""

from msgspec.structs import replace

from cmappd.core.config import Application
from cmappd.core.events import Destroy, Event, Launched, MainFound, Spawn, TimedOut
from cmappd.core.lifecycle.app import App, Run, Step, enter, live_run
from cmappd.core.lifecycle.ending import end, termination
from cmappd.core.lifecycle.health import plan_check
from cmappd.core.state import Cause, Goal, Health, Part, Phase


def start(app: App, _event: Event, now: float) -> Step:
    """A start that was asked for has the whole budget before it."""
    if app.removed:
        return app, ()
    return launch(replace(app, restarts=()), now)


def launch(app: App, now: float) -> Step:
    serial = app.serial + 1
    health = Health.NONE if app.definition.health is None else Health.UNKNOWN
    part = Part.MAIN if app.definition.start.command is None else Part.START
    run_id, kind = f"{app.name}.{app.epoch}.{serial}", app.definition.type
    run = Run(run_id, now, kind=kind, part=part, health=health)
    app = replace(app, goal=Goal.UP, serial=serial)
    return starting(app, run, now), (Spawn(run.id, part),)


def found(name: str, definition: Application, run_id: str, pid: int, now: float) -> App:
    """An application of which a run was found that nobody had written down."""
    _, epoch, serial = run_id.rsplit(".", 2)
    health = Health.NONE if definition.health is None else Health.UNKNOWN
    app = App(name, epoch, definition, goal=Goal.UP, serial=int(serial))
    run = Run(run_id, now, launched=True, pid=pid, health=health)
    return plan_check(starting(app, run, now), now, run.chance)


def starting(app: App, run: Run, now: float) -> App:
    """Wait from now on for what is under way: a command, or readiness once there is a process."""
    ready, timeout = app.definition.start.ready, app.definition.start.timeout
    wait = timeout if run.pid is None or ready == "health" else ready
    return enter(app, Phase.STARTING, now + wait, run)


def launched(app: App, event: Launched, now: float) -> Step:
    run = replace(live_run(app), launched=True)
    if event.part is not Part.MAIN:
        return replace(app, run=run), ()
    if run.kind == "simple":
        return _has_main(app, run, event.pid, now)
    return starting(app, replace(run, started=now), now), ()


def launched_too_late(app: App, event: Launched, _now: float) -> Step:
    run = replace(live_run(app), launched=True)
    if event.part is Part.MAIN and run.kind == "simple":
        run = replace(run, pid=event.pid)
    app = replace(app, run=run)
    if app.phase is Phase.KILLING:
        return app, (Destroy(run.id),)
    return app, (termination(app, run),) if event.part in (Part.START, Part.MAIN) else ()


def main_found(app: App, event: MainFound, now: float) -> Step:
    run = replace(live_run(app), searching=False)
    return _has_main(app, run, event.pid, now)


def _has_main(app: App, run: Run, pid: int, now: float) -> Step:
    """The application is there; now it must become ready."""
    run = replace(run, pid=pid, started=now)
    return plan_check(starting(app, run, now), now, run.chance), ()


def start_timed_out(app: App, _event: TimedOut, now: float) -> Step:
    start, run = app.definition.start, live_run(app)
    if start.ready != "health" and run.pid is not None:
        return enter(app, Phase.RUNNING, None, run), ()
    if app.maintenance is not None:
        limit = None if run.limit is None else now + start.timeout
        return enter(app, Phase.STARTING, now + start.timeout, replace(run, limit=limit)), ()
    if run.part is Part.START:
        detail = f"start.command did not end within {start.timeout:g} s"
        return end(app, Cause.NOT_STARTED, detail, now)
    return end(app, Cause.NOT_READY, f"not ready within {start.timeout:g} s", now)


def want_up(app: App, _event: Event, _now: float) -> Step:
    """While it is ending as asked: launch it again when it is gone, with the whole budget."""
    if app.removed or app.goal is Goal.UP:
        return app, ()
    return replace(app, goal=Goal.UP, restarts=()), ()
