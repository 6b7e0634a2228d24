"""The life of one application: a pure table keyed by phase and event.

Goal and fact are two things: ``goal`` is what somebody wished for, ``phase`` what is the
case. ``step`` takes an application, an event and the time, and gives the application
after it and the actions to carry out. An absent cell means that the event is of no
consequence in that phase. All changes of phase go through ``enter``, so that a deadline
cannot outlive its phase. Events that speak of a run are dropped in ``step`` when it is
not the live one.

    STOPPED, FAILED ──launch──▶ STARTING ──ready──▶ RUNNING
          ▲     ▲                  │ end                │ end
          │     │                  ▼                    ▼
          │     └──── over ◀── STOPPING ──timeout──▶ KILLING (until the tree is empty)
          └── Stop ── BACKOFF ◀── over, and a restart is due

A run is over when its process tree is empty, and only then. Instants and intervals are
monotonic seconds.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from cmappd.core import policy
from cmappd.core.config import Application
from cmappd.core.events import (
    Action,
    Check,
    CheckDue,
    Checked,
    Conclude,
    Define,
    Destroy,
    Event,
    Exited,
    Gone,
    Kill,
    Launched,
    NotLaunched,
    Remove,
    Restart,
    Spawn,
    Start,
    Stop,
    Terminate,
    TimedOut,
)
from cmappd.core.state import REQUESTED, Cause, ExitStatus, Goal, Health, Outcome, Phase

# While an application starts and its readiness is its health, ask this often.
STARTING_CHECK_INTERVAL = 0.5
# SIGKILL is repeated, because a tree can fork while it is being killed.
FIRST_KILL_INTERVAL, LAST_KILL_INTERVAL = 0.1, 5.0


class Run(Struct, frozen=True):
    """One launch of an application, until its tree is empty."""

    id: str
    started: float
    pid: int | None = None  # None until it has been launched
    ending: Cause | None = None  # why it is being ended, if it is
    detail: str = ""
    status: ExitStatus | None = None  # of the main process, once it has ended
    health: Health = Health.NONE
    streak: int = 0  # consecutive passes above 0, consecutive failures below
    check_due: float | None = None  # None while a check is under way, or there is none
    checking: bool = False  # a check is under way
    kills: int = 0  # how often SIGKILL was sent to what is left

    @property
    def chance(self) -> float:
        """A number from 0 to 1 that spreads what is periodic: run ids are as good as random."""
        return zlib.crc32(self.id.encode()) / 2**32


class App(Struct, frozen=True):
    """One application. ``run`` is there exactly in the phases in which a process may live."""

    name: str
    epoch: str  # makes run ids of different servers differ
    definition: Application
    goal: Goal = Goal.DOWN
    phase: Phase = Phase.STOPPED
    deadline: float | None = None  # when the phase ends by itself
    serial: int = 0  # of the last launch
    run: Run | None = None
    restarts: tuple[float, ...] = ()  # when the guest restarted it
    last: Outcome | None = None  # how the run before ended
    removed: bool = False  # its stanza is gone: it may end, and not start


Step = tuple[App, tuple[Action, ...]]


# The machine -------------------------------------------------------------------------


def step(app: App, event: Event, now: float) -> Step:
    """The application after the event, and what is to be done."""
    run_id = getattr(event, "run", None)
    if run_id is not None and (app.run is None or app.run.id != run_id):
        return app, ()
    cell = TABLE.get((app.phase, type(event)))
    return cell(app, event, now) if cell is not None else (app, ())


def wake(app: App) -> float | None:
    """When time alone brings the next event; None if it brings none."""
    check_due = app.run.check_due if app.run is not None else None
    if app.deadline is None or check_due is None:
        return app.deadline if check_due is None else check_due
    return min(app.deadline, check_due)


def due(app: App, now: float) -> Event | None:
    """The event that the time has brought, if any."""
    if app.deadline is not None and now >= app.deadline:
        return TimedOut()
    if app.run is not None and app.run.check_due is not None and now >= app.run.check_due:
        return CheckDue()
    return None


def enter(app: App, phase: Phase, deadline: float | None, run: Run | None) -> App:
    """The one way into a phase: its deadline comes with it, and so does its run."""
    if run is not None and phase not in _CHECKED_PHASES:
        run = replace(run, check_due=None)
    return replace(app, phase=phase, deadline=deadline, run=run)


_CHECKED_PHASES = frozenset({Phase.STARTING, Phase.RUNNING})


def _live(app: App) -> Run:
    if app.run is None:  # the walk of all states proves that this cannot be
        raise AssertionError(f"{app.name} is {app.phase} without a run")
    return app.run


def _last(app: App) -> Outcome:
    if app.last is None:  # it waits because a run has ended
        raise AssertionError(f"{app.name} is {app.phase} without an outcome")
    return app.last


# Up ----------------------------------------------------------------------------------


def _start(app: App, _event: Event, now: float) -> Step:
    """A start that was asked for has the whole budget before it."""
    if app.removed:
        return app, ()
    return _launch(replace(app, restarts=()), now)


def _launch(app: App, now: float) -> Step:
    serial = app.serial + 1
    health = Health.NONE if app.definition.health is None else Health.UNKNOWN
    run = Run(f"{app.name}.{app.epoch}.{serial}", now, health=health)
    app = replace(app, goal=Goal.UP, serial=serial)
    return _starting(app, run, now), (Spawn(run.id),)


def _starting(app: App, run: Run, now: float) -> App:
    """Wait from now on for the run to be launched, and then to be ready."""
    ready, timeout = app.definition.start.ready, app.definition.start.timeout
    wait = timeout if run.pid is None or ready == "health" else ready
    return enter(app, Phase.STARTING, now + wait, run)


def _launched(app: App, event: Launched, now: float) -> Step:
    run = replace(_live(app), pid=event.pid, started=now)
    return _plan_check(_starting(app, run, now), now, run.chance), ()


def _launched_too_late(app: App, event: Launched, _now: float) -> Step:
    run = replace(_live(app), pid=event.pid)
    action = Destroy(run.id) if app.phase is Phase.KILLING else _termination(app, run)
    return replace(app, run=run), (action,)


def _not_launched(app: App, event: NotLaunched, now: float) -> Step:
    run = _live(app)
    ending = run.ending or Cause.NOT_STARTED
    return _over(replace(app, run=replace(run, ending=ending, detail=event.detail)), now)


def _start_timed_out(app: App, _event: TimedOut, now: float) -> Step:
    start, run = app.definition.start, _live(app)
    if start.ready != "health" and run.pid is not None:
        return enter(app, Phase.RUNNING, None, run), ()
    return _end(app, Cause.NOT_READY, f"not ready within {start.timeout:g} s", now)


def _want_up(app: App, _event: Event, _now: float) -> Step:
    """While it is ending as asked: launch it again when it is gone, with the whole budget."""
    if app.removed or app.goal is Goal.UP:
        return app, ()
    return replace(app, goal=Goal.UP, restarts=()), ()


# Health ------------------------------------------------------------------------------


def _plan_check(app: App, now: float, share: float) -> App:
    """Set the next check to ``share`` of an interval from now, unless one is under way."""
    run, health = _live(app), app.definition.health
    if health is None:
        return replace(app, run=replace(run, check_due=None, health=Health.NONE, streak=0))
    interval = health.interval
    if _awaits_health(app):
        interval = min(interval, STARTING_CHECK_INTERVAL)
    known = Health.UNKNOWN if run.health is Health.NONE else run.health
    check_due = None if run.checking else now + share * interval
    return replace(app, run=replace(run, check_due=check_due, health=known))


def _awaits_health(app: App) -> bool:
    return app.phase is Phase.STARTING and app.definition.start.ready == "health"


def _check(app: App, _event: CheckDue, _now: float) -> Step:
    run = replace(_live(app), check_due=None, checking=True)
    return replace(app, run=run), (Check(run.id),)


def _checked(app: App, event: Checked, now: float) -> Step:
    run, health = replace(_live(app), checking=False), app.definition.health
    app = replace(app, run=run)
    if health is None:
        return app, ()
    if event.passed:
        return _passed(app, now), ()
    if _awaits_health(app) or _in_start_period(app, now):
        return _plan_check(app, now, 1), ()
    streak = min(run.streak, 0) - 1
    run = replace(run, streak=streak)
    if -streak < health.failures:
        return _plan_check(replace(app, run=run), now, 1), ()
    app = replace(app, run=replace(run, health=Health.UNHEALTHY))
    if health.action == "report":
        return _plan_check(app, now, 1), ()
    return _end(app, Cause.UNHEALTHY, f"unhealthy: {event.detail}", now)


def _passed(app: App, now: float) -> App:
    run, health = _live(app), app.definition.health
    streak = max(run.streak, 0) + 1
    # The first word on a run's health needs no confirmation; only a recovery does.
    if run.health is Health.UNKNOWN or (health is not None and streak >= health.successes):
        run = replace(run, health=Health.HEALTHY)
    app = replace(app, run=replace(run, streak=streak))
    if _awaits_health(app):
        app = enter(app, Phase.RUNNING, None, _live(app))
    return _plan_check(app, now, 1)


def _in_start_period(app: App, now: float) -> bool:
    """Whether a failed check is still excused: early, and before the first success."""
    run, health = _live(app), app.definition.health
    if health is None or run.health is not Health.UNKNOWN:
        return False
    return now - run.started < health.start_period


# Down --------------------------------------------------------------------------------


def _stop(app: App, event: Stop, now: float) -> Step:
    return _end(replace(app, goal=Goal.DOWN), event.cause, "", now)


def _restart(app: App, event: Restart, now: float) -> Step:
    if app.removed:
        return app, ()
    return _end(replace(app, restarts=()), event.cause, "", now)


def _restart_ending(app: App, event: Restart, _now: float) -> Step:
    if app.removed:
        return app, ()
    run = _ended_by(_live(app), event.cause)
    return replace(app, goal=Goal.UP, run=run, restarts=()), ()


def _want_down(app: App, event: Stop | Kill, _now: float) -> Step:
    """Who turns the goal down ends the run, whatever it was ending for until then."""
    if app.goal is Goal.DOWN:
        return app, ()
    return replace(app, goal=Goal.DOWN, run=_ended_by(_live(app), event.cause)), ()


def _ended_by(run: Run, cause: Cause) -> Run:
    """The run that was ending already, with a new cause; what it was ending for stays told."""
    by_itself = run.ending is None and run.status is not None
    detail = "its main process had ended by itself" if by_itself else run.detail
    return replace(run, ending=cause, detail=detail)


def _kill(app: App, event: Kill, now: float) -> Step:
    app, _ = _want_down(app, event, now)
    return _destroy(app, now)


def _end(app: App, cause: Cause, detail: str, now: float) -> Step:
    """Begin to end the live run, for this cause."""
    run = replace(_live(app), ending=cause, detail=detail)
    app = enter(app, Phase.STOPPING, now + app.definition.stop.timeout, run)
    return app, () if run.pid is None else (_termination(app, run),)


def _termination(app: App, run: Run) -> Terminate:
    return Terminate(run.id, whole=app.definition.stop.tree or run.status is not None)


def _stop_timed_out(app: App, _event: TimedOut, now: float) -> Step:
    return _destroy(app, now)


def _destroy(app: App, now: float) -> Step:
    run = _live(app)
    interval = min(FIRST_KILL_INTERVAL * 2.0 ** min(run.kills, 10), LAST_KILL_INTERVAL)
    run = replace(run, kills=run.kills + 1)
    app = enter(app, Phase.KILLING, now + interval, run)
    return app, () if run.pid is None else (Destroy(run.id),)


def _stop_waiting(app: App, event: Stop | Kill, _now: float) -> Step:
    """Nothing runs, and what would have been launched again will not be."""
    last = _last(app)
    return _conclude(app, Outcome(last.run, event.cause, last.status, False, last.detail))


def _stop_failed(app: App, _event: Stop | Kill, _now: float) -> Step:
    """Somebody has taken note of the failure; how it failed stays known."""
    return enter(app, Phase.STOPPED, None, None), ()


# The end -----------------------------------------------------------------------------


def _exited(app: App, event: Exited, now: float) -> Step:
    """The main process has ended by itself; its tree may not outlive it."""
    run = replace(_live(app), status=event.status)
    app = replace(app, run=run)
    if event.empty:
        return _over(app, now)
    app = enter(app, Phase.STOPPING, now + app.definition.stop.timeout, run)
    return app, (_termination(app, run),)


def _exited_stopping(app: App, event: Exited, now: float) -> Step:
    run = replace(_live(app), status=event.status)
    app = replace(app, run=run)
    return _over(app, now) if event.empty else (app, (_termination(app, run),))


def _exited_killing(app: App, event: Exited, now: float) -> Step:
    app = replace(app, run=replace(_live(app), status=event.status))
    return _over(app, now) if event.empty else (app, ())


def _gone(app: App, _event: Gone, now: float) -> Step:
    return _over(app, now)


def _over(app: App, now: float) -> Step:
    """The run is over: its tree is empty. Up again, later, or no more."""
    outcome = _outcome(app)
    app = replace(app, last=outcome)
    if app.goal is Goal.DOWN or app.removed:
        return _conclude(app, outcome)
    if outcome.cause in REQUESTED:
        return _launch(app, now)
    return _apply_policy(app, outcome, now)


def _outcome(app: App) -> Outcome:
    run = _live(app)
    status = run.status or ExitStatus()
    known = status.code is not None or status.signal is not None
    cause = run.ending or (Cause.EXIT if known else Cause.UNKNOWN)
    success = policy.succeeded(cause, status, app.definition.restart.success_codes)
    return Outcome(run.id, cause, status, success, run.detail)


def _apply_policy(app: App, outcome: Outcome, now: float) -> Step:
    rule, chance = app.definition.restart, _live(app).chance
    restarts = policy.recent(app.restarts, now, rule.window)
    app = replace(app, restarts=restarts)
    wanted = rule.policy == "always" or (rule.policy == "on-failure" and not outcome.success)
    if not wanted or len(restarts) >= rule.limit:
        return _conclude(app, outcome)
    delay = policy.back_off(len(restarts), rule.delay, rule.max_delay, chance)
    app = replace(app, restarts=(*restarts, now))
    return enter(app, Phase.BACKOFF, now + delay, None), ()


def _conclude(app: App, outcome: Outcome) -> Step:
    """It comes to rest: FAILED when that was neither asked for nor a success."""
    wanted = outcome.success or outcome.cause in REQUESTED
    phase = Phase.STOPPED if wanted else Phase.FAILED
    app = enter(replace(app, goal=Goal.DOWN, last=outcome), phase, None, None)
    return app, (Conclude(outcome),)


# The definition ----------------------------------------------------------------------


def _define(app: App, event: Define, now: float) -> Step:
    old, new, run = app.definition, event.definition, app.run
    app = replace(app, definition=new, removed=False)
    if run is None or run.pid is None or app.phase not in _CHECKED_PHASES:
        return app, ()
    if app.phase is Phase.STARTING and old.start != new.start:
        app = _starting(app, run, now)
    if old.health != new.health:
        app = _plan_check(app, now, run.chance)
    return app, ()


def _remove(app: App, _event: Remove, _now: float) -> Step:
    return replace(app, removed=True), ()


def _remove_waiting(app: App, _event: Remove, _now: float) -> Step:
    """It was to be launched again, and may not be: what it ended with is the result."""
    return _conclude(replace(app, removed=True), _last(app))


Cell = Callable[[App, Any, float], Step]
P = Phase

TABLE: Mapping[tuple[Phase, type[Event]], Cell] = {
    (P.STOPPED, Start): _start,
    (P.STOPPED, Restart): _start,
    (P.FAILED, Start): _start,
    (P.FAILED, Restart): _start,
    (P.FAILED, Stop): _stop_failed,
    (P.FAILED, Kill): _stop_failed,
    (P.STARTING, Launched): _launched,
    (P.STARTING, NotLaunched): _not_launched,
    (P.STARTING, TimedOut): _start_timed_out,
    (P.STARTING, CheckDue): _check,
    (P.STARTING, Checked): _checked,
    (P.STARTING, Exited): _exited,
    (P.STARTING, Stop): _stop,
    (P.STARTING, Kill): _kill,
    (P.STARTING, Restart): _restart,
    (P.RUNNING, CheckDue): _check,
    (P.RUNNING, Checked): _checked,
    (P.RUNNING, Exited): _exited,
    (P.RUNNING, Stop): _stop,
    (P.RUNNING, Kill): _kill,
    (P.RUNNING, Restart): _restart,
    (P.STOPPING, Launched): _launched_too_late,
    (P.STOPPING, NotLaunched): _not_launched,
    (P.STOPPING, TimedOut): _stop_timed_out,
    (P.STOPPING, Exited): _exited_stopping,
    (P.STOPPING, Gone): _gone,
    (P.STOPPING, Start): _want_up,
    (P.STOPPING, Stop): _want_down,
    (P.STOPPING, Kill): _kill,
    (P.STOPPING, Restart): _restart_ending,
    (P.KILLING, Launched): _launched_too_late,
    (P.KILLING, NotLaunched): _not_launched,
    (P.KILLING, TimedOut): _stop_timed_out,
    (P.KILLING, Exited): _exited_killing,
    (P.KILLING, Gone): _gone,
    (P.KILLING, Start): _want_up,
    (P.KILLING, Stop): _want_down,
    (P.KILLING, Kill): _want_down,
    (P.KILLING, Restart): _restart_ending,
    (P.BACKOFF, TimedOut): lambda app, _event, now: _launch(app, now),
    (P.BACKOFF, Stop): _stop_waiting,
    (P.BACKOFF, Kill): _stop_waiting,
    (P.BACKOFF, Restart): _start,
    (P.BACKOFF, Remove): _remove_waiting,
    **{(phase, Define): _define for phase in Phase},
    **{(phase, Remove): _remove for phase in Phase if phase is not P.BACKOFF},
}
