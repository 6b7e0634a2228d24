"""How a run begins, until it is ready."""

from msgspec.structs import replace

from cmappd.core.config import Application
from cmappd.core.events import (
    Awaited,
    Destroy,
    Event,
    Launched,
    MainFound,
    Require,
    Restart,
    Spawn,
    TimedOut,
)
from cmappd.core.lifecycle.app import App, Run, Step, enter, live_run, readiness
from cmappd.core.lifecycle.ending import ask, end
from cmappd.core.lifecycle.health import plan_check
from cmappd.core.lifecycle.notice import ready_if_said
from cmappd.core.lifecycle.watchdog import ready
from cmappd.core.state import Cause, ExitStatus, Goal, Health, Part, Phase


def start(app: App, _event: Event, now: float) -> Step:
    """A start that was asked for has the whole budget before it."""
    if app.removed:
        return app, ()
    return launch(replace(app, restarts=()), now)


def launch(app: App, now: float) -> Step:
    """The next run: at once, or when all that it requires is ready."""
    app = replace(app, goal=Goal.UP, serial=app.serial + 1)
    run = _next_run(app, now)
    return wait(app, run, now) if app.definition.requires else begin(app, run, now)


def _next_run(app: App, now: float) -> Run:
    health = Health.NONE if app.definition.health is None else Health.UNKNOWN
    part = Part.MAIN if app.definition.start.command is None else Part.START
    run_id = f"{app.name}.{app.epoch}.{app.serial}"
    return as_defined(Run(run_id, now, part=part, health=health), app.definition)


def wait(app: App, run: Run, now: float) -> Step:
    """Have started what the run requires, and wait from now on until it is ready."""
    app = enter(app, Phase.WAITING, now + app.definition.start.timeout, run)
    return app, (Require(run.id, app.definition.requires),)


def begin(app: App, run: Run, now: float) -> Step:
    return starting(app, run, now), (Spawn(run.id, run.part),)


def provided(app: App, _event: Event, now: float) -> Step:
    """All is ready; what is defined now is launched."""
    return begin(app, _next_run(app, now), now)


def awaited(app: App, event: Awaited, _now: float) -> Step:
    return replace(app, run=replace(live_run(app), detail=event.detail)), ()


def restart_waiting(app: App, _event: Restart, _now: float) -> Step:
    """What it waits to launch is a new run already; now with the whole budget."""
    return replace(app, restarts=()), ()


def as_defined(run: Run, definition: Application) -> Run:
    """The run with what its command, which is launched now, is and is told for good."""
    watchdog = definition.watchdog or 0.0
    return replace(run, kind=definition.type, socket=definition.notifies, watchdog=watchdog)


def found(name: str, definition: Application, run_id: str, pid: int, now: float) -> App:
    """An application of which a run was found that nobody had written down."""
    _, epoch, serial = run_id.rsplit(".", 2)
    health = Health.NONE if definition.health is None else Health.UNKNOWN
    app = App(name, epoch, definition, goal=Goal.UP, serial=int(serial))
    run = as_defined(Run(run_id, now, launched=True, health=health), definition)
    run = replace(run, unheard=True)
    match definition.type:
        case "simple":
            return plan_check(starting(app, replace(run, pid=pid), now), now, run.chance)
        case "forking":  # whoever is left is looked at, as when the command has just ended
            run = replace(run, searching=True, limit=now + definition.start.timeout)
            return enter(app, Phase.STARTING, run.limit, run)
        case "oneshot":  # of its command nobody knows; what runs is what it has left
            app = enter(app, Phase.RUNNING, None, replace(run, status=ExitStatus()))
            return plan_check(app, now, run.chance)


def starting(app: App, run: Run, now: float) -> App:
    """Wait from now on for what is under way: a command, or readiness once there is a process."""
    app = replace(app, run=run)
    ready, timeout = readiness(app), app.definition.start.timeout
    wait = timeout if run.pid is None or isinstance(ready, str) else ready
    return enter(app, Phase.STARTING, now + wait, run)


def launched(app: App, event: Launched, now: float) -> Step:
    run = replace(live_run(app), launched=True)
    if event.part is not Part.MAIN:
        return replace(app, run=run), ()
    if run.kind == "simple":
        return _has_main(app, run, event.pid, now)
    return starting(app, replace(run, started=now), now), ()


def launched_too_late(app: App, event: Launched, now: float) -> Step:
    run = replace(live_run(app), launched=True)
    if event.part is Part.AFTER and app.phase is Phase.STOPPING:
        # Its time begins with it: it may have been launched once more, after a crash.
        return enter(app, Phase.STOPPING, now + app.definition.stop.timeout, run), ()
    if event.part is Part.MAIN and run.kind == "simple":
        run = replace(run, pid=event.pid)
    app = replace(app, run=run)
    if app.phase is Phase.KILLING:
        return app, (Destroy(run.id),)
    if run.yielding or event.part not in (Part.START, Part.MAIN):
        return app, ()
    return ask(app)


def main_found(app: App, event: MainFound, now: float) -> Step:
    run = live_run(app)
    if run.searching:
        return _has_main(app, replace(run, searching=False), event.pid, now)
    return main_changed(app, event, now)


def main_changed(app: App, event: MainFound, _now: float) -> Step:
    """The main process has handed over to another one, which goes on with its work."""
    run = live_run(app)
    return (app, ()) if run.pid is None else (replace(app, run=replace(run, pid=event.pid)), ())


def _has_main(app: App, run: Run, pid: int, now: float) -> Step:
    """The application is there; now it must become ready."""
    asked = app.deadline or now  # later than what it gets anew, if it has asked for that
    run = replace(run, pid=pid, started=now)
    app = starting(app, run, now)
    if isinstance(readiness(app), str):
        app = enter(app, Phase.STARTING, max(app.deadline or now, asked), run)
    return ready_if_said(plan_check(app, now, run.chance), now), ()


def start_timed_out(app: App, _event: TimedOut, now: float) -> Step:
    start, run, awaited = app.definition.start, live_run(app), readiness(app)
    survives = isinstance(awaited, float) or (awaited == "notify" and run.unheard)
    if survives and run.pid is not None:
        return ready(app, run, now), ()
    if app.maintenance is not None:
        limit = None if run.limit is None else now + start.timeout
        return enter(app, Phase.STARTING, now + start.timeout, replace(run, limit=limit)), ()
    if run.part is Part.START:
        detail = f"start.command did not end within {start.timeout:g} s"
        return end(app, Cause.NOT_STARTED, detail, now)
    detail, file = f"not ready within {start.timeout:g} s", app.definition.pid_file
    if run.searching and file is not None:
        detail += f": its pid_file {file} does not name a process of it, or may not be read"
    return end(app, Cause.NOT_READY, detail, now)


def want_up(app: App, _event: Event, _now: float) -> Step:
    """While it is ending as asked: launch it again when it is gone, with the whole budget."""
    if app.removed or app.goal is Goal.UP:
        return app, ()
    return replace(app, goal=Goal.UP, restarts=()), ()
