"""Every state that an application can come into, and what must hold in each.

Beside the lifecycle walks a world: a model of the processes, which does what the actions
say, or does not, and ends when it likes. From a fresh application all events that the
world can bring are given in every state, breadth first, until nothing new is found.
States that differ only in run ids, serial numbers and absolute times are one.

What must hold, by the name of the check below:

never_two           no command is launched while another one of its kind lives, or while a
                    launch has not been answered: start.command into nothing, the command
                    after it, stop.command beside what it is to end, stop.after into nothing
never_lies          in STOPPED, FAILED, WAITING and BACKOFF no process lives; in RUNNING the main
                    process does, and its pid is known, or a oneshot has succeeded
searches            the main process of a daemon is looked for when its command has ended
                    and has left something
run_is_there        a run is there exactly in the phases in which a process may live, and in
                    WAITING, which is for it
deadlines           WAITING, STARTING, STOPPING, KILLING and BACKOFF have a deadline, not over
                    when they are entered; RUNNING, STOPPED and FAILED have none
goals               the goal is DOWN in STOPPED and FAILED, UP in WAITING, STARTING, RUNNING and
                    BACKOFF; a stop always turns it DOWN, a start UP unless it is removed
checks              one that could not be made changes nothing but when the next is due;
                    at most one health check is under way; while it starts or runs with a
                    health command, one is due or under way, and without, none is due
asks                what is STOPPING, and will be killed, was sent the stop signal, or its
                    stop.command was launched, also where cmappserver died before that; and what
                    is known to have been sent is not sent again
signals             the stop signal and SIGKILL go to the live run only, once it has a
                    process, and to the whole tree when the main process has ended; what
                    is launched while it is being ended is told so
concludes           it concludes exactly when it comes to rest, once, with the last outcome
requests            what ends while its goal is DOWN, or concludes with the cause of a
                    request, is STOPPED; what concludes FAILED was neither asked for nor a
                    success
requires            what requires others is launched when it is told that those are ready, and
                    at no other time; it asks each time that it waits
yields              those that require it are stopped exactly when a stop or a kill turns the
                    goal DOWN, and once more if cmappserver dies before the run is over, as
                    they may not have heard it; while it waits for them it is neither asked
                    to end nor signalled, until they have gone, the deadline has come, or
                    somebody has asked who has no patience
accounted_for       every run that ends has its outcome recorded, under its own id
earlier_runs        words of an earlier run change nothing
memory              a run ends as killed for memory exactly when its process ended by SIGKILL,
                    nobody had asked for its end, and the kernel had killed one more by then
budget              the policy restarts what it is for, and after somebody asked at most
                    ``limit`` times within the window, each after a doubled delay
maintenance         while it is on, no run begins that nobody asked for, none is ended but by a
                    request or by the end of its main process, and the budget is not touched;
                    when it is over, what was put off is due, and within its usual time
readiness           what is to say that it is ready is RUNNING once it has, and its main process
                    is known, and not before; but after a crash of cmappserver, which may
                    have missed the word, also when it has passed a check, or survived
time_asked_for      a word prolongs STARTING and STOPPING, never shortens them, and only so far;
                    it changes the phase in no other way than by readiness and by the watchdog,
                    and that it stops by itself asks for nothing
main_process        the pid is that of the main process, whoever that has become
watchdog            a ping is awaited exactly while it runs, has a watchdog and has not missed
                    one; a missed one, or the word that it is not well, ends it or is reported
removed             what is removed gets no new run, and is not wished up
time_moves          what the time brings is known to the phase, and is not brought again
                    at once
stop_ends           from every state Stop reaches STOPPED, in a world that obeys SIGTERM
                    and in one that only obeys SIGKILL
restart_renews      from every state Restart reaches RUNNING in a new run, unless removed

and over all definitions together: every phase is reached, and every cell of the table.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil

import pytest

from cmappd.core import lifecycle
from cmappd.core.config import Application, Resources
from cmappd.core.events import (
    Action,
    Asked,
    Awaited,
    Check,
    Checked,
    Conclude,
    Define,
    Destroy,
    Event,
    Exited,
    FindMain,
    Gone,
    Kill,
    Launched,
    MainFound,
    Maintain,
    MaintenanceOver,
    Notified,
    NotLaunched,
    NotProvided,
    OomKilled,
    PingDue,
    Provided,
    Released,
    Remove,
    Require,
    Restart,
    Spawn,
    Start,
    Stop,
    StopDependants,
    Terminate,
    TimedOut,
)
from cmappd.core.lifecycle import App, Run
from cmappd.core.lifecycle.app import is_up, readiness
from cmappd.core.lifecycle.notice import LONGEST_EXTENSION
from cmappd.core.lifecycle.table import TABLE
from cmappd.core.sd_notify import Notification
from cmappd.core.state import (
    ALIVE,
    REQUESTED,
    Announced,
    Cause,
    ExitStatus,
    Goal,
    Health,
    Maintenance,
    Part,
    Phase,
)
from tests.core.definitions import LIMIT, WINDOW, definition, fresh, health, watched

TIMED = {Phase.WAITING, Phase.STARTING, Phase.STOPPING, Phase.KILLING, Phase.BACKOFF}
REST = {Phase.STOPPED, Phase.FAILED}
CHECKED = {Phase.STARTING, Phase.RUNNING}
MAIN_PID, NEXT_MAIN_PID = 4711, 4713
REQUESTS = (Start, Stop, Kill, Restart)
PATIENCE = 45.0  # seconds for those that require it
MAINTENANCE = 5000.0  # seconds; longer than all that it puts off
ENDINGS = (ExitStatus(code=0), ExitStatus(code=1), ExitStatus(signal=9), ExitStatus())
WORDS = (
    Notification(ready=True, status="up"),
    Notification(reloading=True),
    Notification(stopping=True),
    Notification(watchdog="ping"),
    Notification(watchdog="trigger"),
    Notification(watchdog_timeout=12.0),
    Notification(watchdog_timeout=0.0),
    Notification(extend_timeout=1.5),
)

# Each is walked with changes to its twin and back, which has other health checks. The start
# timeouts let few checks fit in, so that the walk comes to the end of them.
DEFINITIONS: dict[str, tuple[Application, Application]] = {
    "plain": (definition(), definition(health=health())),
    "survives, unhealthy restarts": (
        definition("on-failure", ready=25.0, health=health(start_period=12.0)),
        definition("on-failure", ready="health", start_timeout=1.2, health=health()),
    ),
    "ready by health": (
        definition("on-failure", ready="health", start_timeout=1.2, health=health()),
        definition("on-failure"),
    ),
    "health reports": (
        definition("on-failure", tree=True, health=health("report", start_period=12.0)),
        definition("on-failure", health=health("restart", failures=1)),
    ),
    "always": (definition("always", tree=True), definition("never", tree=True)),
    "always, at once": (definition("always", delay=0.0), definition("on-failure")),
    "always, no budget": (definition("always", limit=0), definition("on-failure")),
    "daemonises": (
        definition("on-failure", kind="forking", commands=(1, 1, 1)),
        definition("on-failure", kind="forking"),
    ),
    "daemonises, checked": (
        definition("on-failure", kind="forking", health=health(failures=1)),
        definition("never", kind="forking", ready="health", start_timeout=1.2, health=health()),
    ),
    "one shot": (
        definition("on-failure", kind="oneshot", commands=(0, 1, 0), health=health(failures=1)),
        definition("never", kind="oneshot", commands=(1, 0, 1)),
    ),
    "with all commands": (
        definition("on-failure", commands=(1, 1, 1)),
        definition("on-failure", tree=True),
    ),
    "survives, autostart": (
        definition("on-failure", autostart=True),
        definition("never", ready="health", start_timeout=1.2, health=health(failures=1)),
    ),
    "killed for memory": (
        definition("on-failure", commands=(1, 0, 0), resources=Resources(memory=2**30)),
        definition("on-failure", kind="forking", resources=Resources(memory=2**30)),
    ),
    "ready by notification": (
        definition("on-failure", ready="notify"),
        definition("on-failure", ready="health", start_timeout=1.2, health=health()),
    ),
    "ready by notification, checked": (
        definition(ready="notify", start_timeout=1.2, health=health("report")),
        definition(ready="notify", start_timeout=1.2, health=watched("report")),
    ),
    "watchdog": (
        definition("on-failure", stop_timeout=7.0, health=watched()),
        definition(health=health("report", failures=1, watchdog=12.0)),
    ),
    "daemonises, notifies": (
        definition(ready="notify", kind="forking", commands=(1, 0, 0), health=watched()),
        definition(kind="forking"),
    ),
    "requires": (
        definition("on-failure", requires=("listener",)),
        definition("always", requires=("listener", "disk"), start_timeout=50.0),
    ),
    "requires, with all commands": (
        definition(commands=(1, 1, 1), requires=("listener",), health=health(failures=1)),
        definition(commands=(0, 1, 0), kind="oneshot"),
    ),
    "requires, daemonises": (
        definition("on-failure", kind="forking", commands=(1, 1, 0), requires=("listener",)),
        definition("on-failure", kind="forking", commands=(1, 0, 0)),
    ),
    "never, ready by health": (
        definition(ready="health", start_timeout=1.2, health=health("report")),
        definition(ready="health", start_timeout=1.2, health=health("restart", failures=1)),
    ),
}


# These are also walked under maintenance, which doubles them.
MAINTAINED = {"requires", "ready by health", "always", "daemonises, checked", "survives, autostart"}


# The world ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class World:
    """What is really the case, in ids of runs."""

    spawning: tuple[str, Part] | None = None  # to be launched; not yet known whether it was
    main: str | None = None  # its main process lives
    pid: int | None = None  # of that, or of the one before
    helper: tuple[str, Part] | None = None  # another command lives, or one that will daemonise
    # Its processes that were launched have ended, others live; or nobody lives, and who asks
    # to signal them is told that they are gone.
    left: str | None = None
    asked: str | None = None  # this run was sent the stop signal, or stop.command was launched
    behind: str | None = None  # what stop.after has left of itself lives
    required: str | None = None  # it has asked for what this run requires
    checking: str | None = None  # a health check of it is under way
    restarts: tuple[float, ...] = ()  # by the policy, since somebody asked for it

    @property
    def is_empty(self) -> bool:
        return not (self.spawning or self.main or self.helper or self.left or self.behind)


def happen(world: World, event: Event) -> World:
    """The world in which the event has come to pass."""
    match event:
        case Launched(run, pid, part):
            if pid == MAIN_PID:
                return replace(world, spawning=None, main=run, pid=pid)
            return replace(world, spawning=None, helper=(run, part))
        case NotLaunched():
            return replace(world, spawning=None)
        case Exited(run, _, empty, Part.AFTER):
            return replace(world, helper=None, behind=None if empty else run)
        case Exited(run, _, empty, part):
            main = None if part is Part.MAIN else world.main
            helper = world.helper if part is Part.MAIN and world.main is not None else None
            left = None if empty or main is not None or helper is not None else run
            return replace(world, main=main, helper=helper, left=left)
        case MainFound(run, pid):
            return replace(world, main=run, pid=pid, left=None)
        case Gone(_, part):
            return replace(world, behind=None) if part is Part.AFTER else replace(world, left=None)
        case Checked():
            return replace(world, checking=None)
    return world


def obey(world: World, app: App, action: Action) -> World:
    """The world after an action; asserts that the action makes sense in it."""
    live = app.run.id if app.run is not None else None
    match action:
        case Require(run, names):
            assert run == live, "requires"
            assert app.phase is Phase.WAITING, "requires"
            assert names == app.definition.requires, "requires"
            assert world.is_empty, "never_two"
            return replace(world, required=run)
        case Spawn(run, part):
            assert run == live, "never_two"
            assert world.spawning is None, "never_two"
            assert world.helper is None, "never_two"
            if part is Part.STOP:
                assert world.main == run or is_oneshot(app), "never_two"
            else:
                # Of start.command something may be left: then it is part of this run.
                own = run if part is Part.MAIN else None
                assert replace(world, left=None).is_empty, "never_two"
                assert world.left in (None, own), "never_two"
            asked = run if part is Part.STOP else world.asked
            return replace(world, spawning=(run, part), asked=asked)
        case FindMain(run):
            assert run == live == world.left, "searches"
            assert world.main is None, "searches"
            assert world.helper is None, "searches"
        case Check(run):
            assert run == live, "checks"
            assert world.main == run or is_oneshot(app), "checks"
            assert world.checking is None, "checks: one is under way"
            return replace(world, checking=run)
        case Terminate(run, whole):
            assert run == live, "signals"
            assert app.run is not None
            assert app.run.launched, "signals"
            assert whole == (app.definition.stop.tree or world.main is None), "signals"
            return replace(world, asked=run, left=run if world.is_empty else world.left)
        case Destroy(run):
            assert run == live, "signals"
            assert app.run is not None
            assert app.run.launched, "signals"
            return replace(world, left=run) if world.is_empty else world
    return world


def is_oneshot(app: App) -> bool:
    return app.run is not None and app.run.kind == "oneshot"


# One step ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class State:
    app: App
    world: World
    now: float
    twins: tuple[Application, Application]  # the definitions that may be in force
    maintained: bool = False  # whether somebody may work on it


COVERED: set[tuple[Phase, type[Event]]] = set()


def advance(state: State, event: Event, later: float | None = None) -> State:
    """Give the event at its time; assert all that speaks of one step."""
    before, now = state.app, state.now if later is None else later
    COVERED.add((before.phase, type(event)))
    after, actions = lifecycle.step(before, event, now)
    world = happen(state.world, event)
    for action in actions:
        world = obey(world, after, action)
    if after.phase is not Phase.WAITING:
        world = replace(world, required=None)
    if not is_to_be_asked(after):
        world = replace(world, asked=None)
    if after.phase not in CHECKED or after.run is None or after.run.id != world.checking:
        world = replace(world, checking=None)
    world = replace(world, restarts=_restarts(before, after, event, world, now))
    step_holds(before, event, after, actions, now)
    state = replace(state, app=after, world=world, now=now)
    state_holds(state)
    return state


def is_to_be_asked(app: App) -> bool:
    """Whether it is being ended, and has a process that could heed that."""
    run = app.run
    if run is None or app.phase is not Phase.STOPPING:
        return False
    return run.launched and run.part is not Part.AFTER and not run.yielding


def _ended(before: App, after: App) -> bool:
    return before.run is not None and (after.run is None or after.run.id != before.run.id)


def _restarts(before: App, after: App, event: Event, world: World, now: float) -> tuple[float, ...]:
    if isinstance(event, Start | Restart) and after.restarts == ():
        return ()
    recent = tuple(instant for instant in world.restarts if now - instant < WINDOW)
    if not _ended(before, after) or before.goal is Goal.DOWN or before.removed:
        return recent
    assert after.last is not None
    if after.last.cause in REQUESTED or before.phase is Phase.WAITING:
        return recent  # what it requires had a budget of its own
    rule = before.definition.restart
    wanted = rule.policy == "always" or (rule.policy == "on-failure" and not after.last.success)
    assert (after.phase not in REST) == (wanted and len(recent) < rule.limit), "budget"
    if after.phase in REST:
        return recent
    assert after.phase is Phase.BACKOFF, "budget: at once"
    assert after.deadline is not None
    if after.maintenance is not None:
        assert after.deadline == after.maintenance.until, "maintenance"
        return recent
    full = min(rule.delay * 2 ** len(recent), rule.max_delay)
    assert 0.75 * full <= after.deadline - now <= full, "budget: delay"
    return (*recent, now)


def step_holds(
    before: App, event: Event, after: App, actions: tuple[Action, ...], now: float
) -> None:
    kinds = [type(action) for action in actions]
    if isinstance(event, Stop | Kill):
        assert after.goal is Goal.DOWN, "goals"
    if isinstance(event, Start | Restart) and not before.removed:
        assert after.goal is Goal.UP, "goals"
    if before.removed and not isinstance(event, Define):
        runs = {action.run for action in actions if isinstance(action, Spawn)}
        assert runs <= ({before.run.id} if before.run else set()), "removed"
    if before.removed and isinstance(event, Start | Restart):
        assert (after, kinds) == (before, []), "removed"
    main = isinstance(event, Launched) and event.part in (Part.START, Part.MAIN)
    if main and before.phase is Phase.STOPPING:
        assert before.run is not None
        assert kinds == ([] if before.run.yielding else [Terminate]), "signals"
    if isinstance(event, Launched) and before.phase is Phase.KILLING:
        assert kinds == [Destroy], "signals"
    if after.deadline is not None and after.phase is not before.phase:
        assert after.deadline >= now, "deadlines"
    _conclusion_holds(before, after, actions)
    _order_holds(before, event, after, actions)
    if before.maintenance is not None:
        _maintenance_holds(before, event, after, now)
    _memory_holds(before, event, after)
    _notification_holds(before, event, after, actions, now)
    if isinstance(event, Checked) and event.passed is None:
        assert (after.phase, actions) == (before.phase, ()), "checks: not made"
        assert before.run is None or after.run is not None, "checks: not made"
        if before.run is not None and after.run is not None and is_up(before):
            assert after.run.health is before.run.health, "checks: not made"
            assert after.run.streak == before.run.streak, "checks: not made"
    if _ended(before, after):
        assert before.run is not None
        assert after.last is not None, "accounted_for"
        assert after.last.run == before.run.id, "accounted_for"


def _order_holds(before: App, event: Event, after: App, actions: tuple[Action, ...]) -> None:
    """What requires others, and what others require."""
    runs = {action.run for action in actions if isinstance(action, Spawn)}
    if before.phase is Phase.WAITING:
        assert not runs or isinstance(event, Provided), "requires"
    elif after.definition.requires:
        assert runs <= ({before.run.id} if before.run else set()), "requires"
    told: list[Cause | None] = [
        action.cause for action in actions if isinstance(action, StopDependants)
    ]
    if isinstance(event, Stop | Kill) and before.goal is Goal.UP:
        assert told == [event.cause], "yields"
    else:
        assert told == [], "yields"
    if after.run is not None and after.goal is Goal.DOWN:
        again = [one.cause for one in lifecycle.pending(after) if isinstance(one, StopDependants)]
        assert again == (told or [after.run.ending]), "yields"
    if before.run is None or not before.run.yielding:
        return
    over = isinstance(event, Released | TimedOut | Kill) or event == IMPATIENT
    kinds = {type(one) for one in actions}
    assert over or not kinds & {Terminate, Destroy}, "yields"
    assert over or Part.STOP not in {one.part for one in actions if isinstance(one, Spawn)}
    assert not (over and after.run and after.run.yielding), "yields"


def _maintenance_holds(before: App, event: Event, after: App, now: float) -> None:
    if isinstance(event, MaintenanceOver):
        assert after.maintenance is None, "maintenance"
        usual = {
            Phase.WAITING: after.definition.start.timeout,
            Phase.STARTING: max(1.0, after.definition.start.timeout),
            Phase.BACKOFF: after.definition.restart.delay,
        }.get(after.phase)
        if usual is not None:
            assert after.deadline is not None
            assert after.deadline <= now + usual, "maintenance: its usual time"
        return
    asked = isinstance(event, REQUESTS)
    restarted = before.run is not None and before.run.ending in REQUESTED
    renewed = before.goal is Goal.UP and after.last is not None and after.last.cause in REQUESTED
    if after.serial != before.serial:
        assert asked or restarted or renewed or before.phase in TIMED - {Phase.BACKOFF}, (
            "maintenance: nobody asked for a run"
        )
    if not asked:
        assert len(after.restarts) <= len(before.restarts), "maintenance: budget"
    if not asked and is_up(before) and not isinstance(event, Exited | Gone):
        assert after.phase in CHECKED, "maintenance: ended, and nobody asked"


def _notification_holds(
    before: App, event: Event, after: App, actions: tuple[Action, ...], now: float
) -> None:
    run = after.run
    if run is not None and (before.phase, after.phase) == (Phase.STARTING, Phase.RUNNING):
        later = run.unheard and isinstance(event, TimedOut | Checked)
        said = run.announced is Announced.READY
        assert readiness(after) != "notify" or said or later, "readiness"
    failed = isinstance(event, PingDue) or (
        isinstance(event, Notified)
        and (event.word.watchdog == "trigger" and before.phase is Phase.RUNNING)
        and before.definition.watchdog is not None
    )
    if failed:
        assert run is not None
        assert run.silent, "watchdog"
        rule = before.definition.health
        if rule is not None and rule.action == "restart" and before.maintenance is None:
            assert (after.phase, run.ending) == (Phase.STOPPING, Cause.UNHEALTHY), "watchdog"
            return
    if failed or isinstance(event, Notified):
        ready = before.phase is Phase.STARTING and after.phase is Phase.RUNNING
        assert after.phase is before.phase or ready, "time_asked_for"
        assert not actions, "time_asked_for"
    if isinstance(event, Notified) and after.deadline is not None:
        assert before.deadline is not None
        latest = max(before.deadline, now + LONGEST_EXTENSION)
        assert before.deadline <= after.deadline <= latest, "time_asked_for"


def _conclusion_holds(before: App, after: App, actions: tuple[Action, ...]) -> None:
    concluded = [action.outcome for action in actions if isinstance(action, Conclude)]
    if after.phase not in REST or before.phase in REST:
        assert not concluded, "concludes"
        return
    assert concluded == [after.last], "concludes"
    (outcome,) = concluded
    wanted = outcome.success or outcome.cause in REQUESTED
    assert after.phase is (Phase.STOPPED if wanted else Phase.FAILED), "requests"
    if before.goal is Goal.DOWN:
        assert outcome.cause in REQUESTED, "requests"


def _memory_holds(before: App, event: Event, after: App) -> None:
    if not isinstance(event, Exited) or before.run is None or before.phase not in CHECKED:
        return
    last = after.last.cause if _ended(before, after) and after.last is not None else None
    cause = last or (after.run and after.run.ending)
    one_more = event.oom_kills > before.run.oom_kills and event.status == ExitStatus(signal=9)
    assert (cause is Cause.OUT_OF_MEMORY) == one_more, "memory"


def state_holds(state: State) -> None:
    app, world, run = state.app, state.world, state.app.run
    assert (run is not None) == (app.phase in ALIVE | {Phase.WAITING}), "run_is_there"
    assert (app.deadline is not None) == (app.phase in TIMED), "deadlines"
    if app.phase not in ALIVE:
        assert world.is_empty, "never_lies"
    if app.phase is Phase.RUNNING:
        assert run is not None
        if run.kind == "oneshot":
            assert run.status is not None, "never_lies"
            assert run.status.code in app.definition.restart.success_codes, "never_lies"
        else:
            assert run.id == world.main, "never_lies"
            assert run.pid == world.pid, "main_process"
            assert run.pid is not None, "never_lies"
    if app.phase in REST:
        assert app.goal is Goal.DOWN, "goals"
    if app.phase in CHECKED | {Phase.WAITING, Phase.BACKOFF}:
        assert app.goal is Goal.UP, "goals"
    if app.phase is Phase.WAITING:
        assert run is not None
        assert world.required == run.id, "requires"
    if run is not None and run.yielding:
        assert app.phase is Phase.STOPPING, "yields"
    if run is not None and is_to_be_asked(app):
        assert world.asked == run.id, "asks"
    if run is None and app.serial:
        assert app.last is not None, "accounted_for"
        assert app.last.run == f"db.e.{app.serial}", "accounted_for"
    if app.removed:
        assert app.phase not in (Phase.WAITING, Phase.BACKOFF), "removed"
    _checks_hold(state)
    if run is not None:
        awaited = app.definition.watchdog is not None and run.ping_interval > 0 and not run.silent
        due = app.phase is Phase.RUNNING and awaited
        assert (run.ping_due is not None) == due, "watchdog"
        assert not run.silent or run.condition is Health.UNHEALTHY, "watchdog"
    if app.phase is Phase.STARTING and run is not None and readiness(app) == "notify":
        assert run.announced is not Announced.READY or run.pid is None, "readiness"


def _checks_hold(state: State) -> None:
    app, world, run = state.app, state.world, state.app.run
    if run is None or not is_up(app):
        assert run is None or run.check_due is None, "checks"
        return
    due, under_way = run.check_due is not None, world.checking is not None
    assert not (due and under_way), "checks: two"
    if app.definition.health is None:
        assert not due, "checks: none is configured"
        assert run.health is Health.NONE, "checks: none is configured"
    elif not app.definition.health.checks:
        assert not due, "checks: none is configured"
    else:
        assert due or under_way, "checks: none to come"
        assert run.health is not Health.NONE, "checks"


# Where a state can lead --------------------------------------------------------------


IMPATIENT = Stop(Cause.MANAGER)


def asked(state: State) -> Iterator[Event]:
    """What people may ask for at any time."""
    yield Start()
    yield IMPATIENT
    if any(twin.requires for twin in state.twins):  # as if others required it, too
        yield Stop(Cause.MANAGER, patience=PATIENCE)
    yield Kill(Cause.MANAGER)
    yield Restart(Cause.OPERATOR)
    yield Remove()
    for twin in state.twins:
        yield Define(twin)
    if state.maintained:
        yield Maintain(Maintenance(state.now + MAINTENANCE, "uid 0", 1e9))
        if state.app.maintenance is not None:
            yield MaintenanceOver()


def launched(app: App, run: str, part: Part) -> Launched:
    """The word of a launch; only a simple application's command is its main process."""
    simple = app.run is not None and app.run.kind == "simple" and part is Part.MAIN
    return Launched(run, MAIN_PID if simple else 4712, part)


def answered(world: World, app: App) -> Iterator[Event]:
    """What the world may have to tell."""
    if world.required is not None:
        yield Awaited(world.required, "listener (starting)")
        yield Provided(world.required)
        yield NotProvided(world.required, "'listener', which it requires, is gone")
    if app.run is not None and app.run.yielding:
        yield Released(app.run.id)
    if world.spawning is not None:
        run, part = world.spawning
        yield launched(app, run, part)
        yield NotLaunched(run, "no such file", part)
    if world.main is not None:
        for status in ENDINGS:
            yield Exited(world.main, status, empty=False)
            if world.helper is None:
                yield Exited(world.main, status, empty=True)
    yield from for_memory(world, app)
    if world.helper is not None:
        run, part = world.helper
        for status in ENDINGS:
            yield Exited(run, status, empty=False, part=part)
            if world.main is None:
                yield Exited(run, status, empty=True, part=part)
    if world.asked is not None:
        yield Asked(world.asked)
    if world.left is not None and not (world.main or world.helper or world.spawning):
        yield Gone(world.left)
        if app.run is not None and app.run.searching:
            yield MainFound(world.left, MAIN_PID)
    if world.behind is not None:
        yield Gone(world.behind, Part.AFTER)
    if world.checking is not None:
        yield Checked(world.checking, True, "")
        yield Checked(world.checking, False, "no answer")
        yield Checked(world.checking, None, "not made")
    if app.run is not None and app.run.socket and app.phase is not Phase.KILLING:
        yield from said(world, app.run.id)


def said(world: World, run: str) -> Iterator[Event]:
    """What the application may say of itself, while anything of it lives."""
    if world.main or world.helper or world.left:
        for word in WORDS:
            yield Notified(run, word)
    if world.main is not None:
        yield MainFound(run, NEXT_MAIN_PID)


def for_memory(world: World, app: App) -> Iterator[Event]:
    """What the kernel may kill where the memory is limited: a child, or what was launched."""
    if app.run is None or app.definition.resources.memory is None:
        return
    killed, kills = ExitStatus(signal=9), app.run.oom_kills
    if world.main is not None:
        yield Exited(world.main, killed, empty=False, oom_kills=kills + 1)
        if kills == 0:
            yield OomKilled(world.main, 1)
    if world.helper is not None:
        yield Exited(world.helper[0], killed, False, world.helper[1], oom_kills=kills + 1)


def let_time_pass(state: State) -> State | None:
    """The state when time alone has brought the next event; None if it brings none."""
    wake = lifecycle.wake(state.app)
    if wake is None:
        return None
    event = lifecycle.due(state.app, wake)
    assert event is not None, "time_moves"
    assert (state.app.phase, type(event)) in TABLE, "time_moves"
    after = advance(state, event, wake)
    assert lifecycle.due(after.app, wake) != event, "time_moves"
    return after


def wait_long(state: State) -> State | None:
    """The state when the window is over, if nothing happens until then."""
    if lifecycle.wake(state.app) is not None:
        return None
    return replace(state, now=state.now + WINDOW)


def crash(state: State) -> State | None:
    """The state when another supervisor has taken up what this one has left."""
    if state.app.run is None:
        return None
    app = lifecycle.resume(state.app, state.now)
    # What is not known to have been sent may not have been: it died before.
    known = state.app.run.asked or state.app.run.asking
    world = replace(state.world, checking=None, asked=state.world.asked if known else None)
    again = [one for one in lifecycle.pending(app) if isinstance(one, Terminate)]
    assert not (again and known), "asks"
    for action in again:
        world = obey(world, app, action)
    after = replace(state, app=app, world=world)
    state_holds(after)
    return after


def successors(state: State) -> Iterator[State]:
    for event in (*asked(state), *answered(state.world, state.app)):
        yield advance(state, event)
    for passed in (let_time_pass(state), wait_long(state), crash(state)):
        if passed is not None:
            yield passed


def earlier_words(state: State) -> Iterator[Event]:
    """What may still be heard of a run before this one, or of this one when it is over."""
    app = state.app
    for serial in range(max(app.serial - 1, 0), app.serial + (app.run is None)):
        run = f"db.e.{serial}"
        yield Awaited(run, "")
        yield Provided(run)
        yield NotProvided(run, "")
        yield Released(run)
        yield Launched(run, 1)
        yield NotLaunched(run, "")
        yield Exited(run, ExitStatus(code=1), True)
        yield OomKilled(run, 1)
        yield Asked(run)
        yield Gone(run)
        yield Gone(run, Part.AFTER)
        yield MainFound(run, 1)
        yield Notified(run, WORDS[0])
        yield Checked(run, False, "")


# What makes two states one -----------------------------------------------------------


def key(state: State) -> object:
    """The state without ids, serials and absolute times."""
    app, world, now = state.app, state.world, state.now
    held = [part[1] if part else None for part in (world.spawning, world.helper)]
    lives = [one is not None for one in (world.main, world.left, world.behind)]
    last = (app.last.cause, app.last.success) if app.last and app.run is None else None
    autostart = app.definition.autostart and app.last is None
    recent = sum(now - instant < WINDOW for instant in app.restarts)
    counted = sum(now - instant < WINDOW for instant in world.restarts)
    return (
        app.definition is state.twins[0],
        *(app.maintenance is not None, autostart),
        *(app.goal, app.phase, app.removed, app.serial > 0, last, recent, counted),
        *(*held, *lives, world.checking is not None, len(app.restarts), _run_key(app, now)),
    )


def _run_key(app: App, now: float) -> object:
    run = app.run
    if run is None:
        return None
    steps = run.kind, run.part, run.launched, run.searching, run.asking, run.yielding, run.asked
    ended = (
        *steps,
        run.socket,
        run.pid is None,
        run.ending,
        run.status,
        min(run.kills, 1),
        run.oom_kills,
    )
    if app.phase not in CHECKED:
        return ended
    rule, due = app.definition.health, run.check_due
    ahead, early, streak = 0, False, 0
    if rule is not None:
        early = (due or now) - run.started < rule.start_period
        streak = max(-rule.failures, min(run.streak, rule.successes))
    if due is not None and app.deadline is not None:
        ahead = max(-1, min(ceil((app.deadline - due) / 0.5), 3))
    return ended, run.health, streak, due is None, early, ahead, _said_key(app, run, now)


def _said_key(app: App, run: Run, now: float) -> object:
    """What it has said of itself, as far as anything may follow from that in this phase."""
    if app.phase is Phase.STARTING:
        return run.announced, run.unheard, run.ping_interval
    base = now if run.check_due is None else run.check_due
    ahead = [one and max(0, min(ceil((one - base) / 6), 2)) for one in (run.ping_due, run.excused)]
    return run.announced is Announced.STOPPING, run.silent, run.ping_interval, ahead[0], ahead[1]


# The walk ----------------------------------------------------------------------------


@dataclass
class Walk:
    """All states of one definition, and the cells of the table that led to them."""

    states: dict[object, State] = field(default_factory=dict)
    cells: set[tuple[Phase, type[Event]]] = field(default_factory=set)


@cache
def walk(name: str) -> Walk:
    """Breadth first from a fresh application, until nothing new is found."""
    COVERED.clear()
    first = State(
        fresh(DEFINITIONS[name][0]), World(), 1000.0, DEFINITIONS[name], name in MAINTAINED
    )
    found = Walk({key(first): first})
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        try:
            for after in successors(state):
                if key(after) not in found.states:
                    found.states[key(after)] = after
                    waiting.append(after)
        except AssertionError as error:
            error.add_note(f"after {state}")
            raise
    found.cells = set(COVERED)
    return found


each = pytest.mark.parametrize("name", DEFINITIONS)
# These walk through all, where others in this process have not: 40 s and more of processor time.
all_walks = pytest.mark.timeout(300)


@each
def test_invariants_hold_in_every_state(name: str) -> None:
    assert len(walk(name).states) > 100


@each
def test_words_of_an_earlier_run_change_nothing(name: str) -> None:
    for state in walk(name).states.values():
        for event in earlier_words(state):
            assert lifecycle.step(state.app, event, state.now) == (state.app, ()), event


@all_walks
def test_all_phases_are_reached() -> None:
    states = (state for name in DEFINITIONS for state in walk(name).states.values())
    assert {state.app.phase for state in states} == set(Phase)


@all_walks
def test_every_cell_of_the_table_is_walked() -> None:
    cells = set().union(*(walk(name).cells for name in DEFINITIONS))
    assert set(TABLE) - cells == set()


@each
def test_the_budget_is_spent_where_there_is_one(name: str) -> None:
    policies = {twin.restart.policy for twin in DEFINITIONS[name]}
    spent = max(len(state.world.restarts) for state in walk(name).states.values())
    assert spent == (0 if policies == {"never"} else LIMIT)


# What follows from a request ---------------------------------------------------------

Reached = Callable[[App], bool]


def obeys_stop_signal(state: State, actions: tuple[Action, ...]) -> Event | None:
    """The world's next word: what is told to end, ends."""
    run = state.world.main
    told = any(isinstance(one, Terminate | Destroy) for one in actions)
    asked = state.app.definition.stop.command is not None and state.app.phase is Phase.STOPPING
    if run is not None and (told or asked):
        return Exited(run, ExitStatus(code=0), empty=True)
    return None


def obeys_sigkill_only(state: State, actions: tuple[Action, ...]) -> Event | None:
    """The world's next word: what is killed ends, the main process before the rest."""
    run = state.world.main
    if run is not None and any(isinstance(one, Destroy) for one in actions):
        return Exited(run, ExitStatus(signal=9), empty=False)
    return None


Manners = Callable[[State, tuple[Action, ...]], Event | None]


def follow(state: State, request: Event, manners: Manners, reached: Reached) -> State:
    """Give the request, then let the world do its part, until it is reached."""
    event: Event | None = request
    for _ in range(40):
        actions: tuple[Action, ...] = ()
        if event is not None:
            _, actions = lifecycle.step(state.app, event, state.now)
            state = advance(state, event)
        else:
            wake = lifecycle.wake(state.app)
            assert wake is not None, f"stuck in {state}"
            event = lifecycle.due(state.app, wake)
            assert event is not None
            _, actions = lifecycle.step(state.app, event, wake)
            state = advance(state, event, wake)
        if reached(state.app):
            return state
        event = _reply(state, actions, manners)
    pytest.fail(f"does not come to an end: {state}")


def _reply(state: State, actions: tuple[Action, ...], manners: Manners) -> Event | None:
    world = state.world
    told = any(isinstance(one, Terminate | Destroy) for one in actions)
    if world.required is not None:
        return Provided(world.required)
    if state.app.run is not None and state.app.run.yielding:
        return Released(state.app.run.id)
    if world.spawning is not None:
        return launched(state.app, *world.spawning)
    if world.helper is not None:
        run, part = world.helper
        assert state.app.run is not None
        daemonises = part is Part.MAIN and state.app.run.kind == "forking"
        empty = world.main is None and not daemonises
        return Exited(run, ExitStatus(code=0), empty=empty, part=part)
    if world.left is not None and state.app.run is not None and state.app.run.searching:
        return MainFound(world.left, MAIN_PID)
    if world.left is not None and world.main is None and told:
        return Gone(world.left)
    if world.behind is not None and told:
        return Gone(world.behind, Part.AFTER)
    if world.checking is not None:
        return Checked(world.checking, True, "")
    if state.app.phase is Phase.STARTING and world.main and readiness(state.app) == "notify":
        return Notified(world.main, WORDS[0])
    return manners(state, actions)


@each
@pytest.mark.parametrize("manners", [obeys_stop_signal, obeys_sigkill_only])
def test_stop_reaches_stopped_from_every_state(name: str, manners: Manners) -> None:
    for state in walk(name).states.values():
        rest = follow(state, Stop(Cause.MANAGER), manners, lambda app: app.phase in REST)
        assert rest.app.phase is Phase.STOPPED, state


def runs_after(serial: int) -> Reached:
    return lambda app: app.phase is Phase.RUNNING and app.serial > serial


@each
@pytest.mark.parametrize("manners", [obeys_stop_signal, obeys_sigkill_only])
def test_restart_reaches_running_in_a_new_run(name: str, manners: Manners) -> None:
    for state in walk(name).states.values():
        if not state.app.removed:
            not_yet = state.app.phase is Phase.WAITING  # its run is a new one
            reached = runs_after(state.app.serial - not_yet)
            follow(state, Restart(Cause.OPERATOR), manners, reached)
