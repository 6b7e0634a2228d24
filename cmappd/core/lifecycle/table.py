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

Each launch of what requires others goes through WAITING, until those are ready. A Stop that
has the patience lets those that require it end first: STOPPING begins without a signal then,
and the run yields until it is released.

A run is over when its process tree is empty, and only then. Instants and intervals are
monotonic seconds.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from cmappd.core.events import (
    Action,
    Asked,
    Awaited,
    CheckDue,
    Checked,
    Define,
    Event,
    Exited,
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
    Start,
    Stop,
    StopDependants,
    TimedOut,
)
from cmappd.core.lifecycle import (
    definition,
    ending,
    health,
    maintenance,
    notice,
    over,
    starting,
    watchdog,
)
from cmappd.core.lifecycle.app import App, Step, concerns, enter, is_up
from cmappd.core.state import Announced, Goal, Phase

Cell = Callable[[App, Any, float], Step]
P = Phase

TABLE: Mapping[tuple[Phase, type[Event]], Cell] = {
    (P.STOPPED, Start): starting.start,
    (P.STOPPED, Restart): starting.start,
    (P.FAILED, Start): starting.start,
    (P.FAILED, Restart): starting.start,
    (P.FAILED, Stop): ending.stop_failed,
    (P.FAILED, Kill): ending.stop_failed,
    (P.WAITING, Awaited): starting.awaited,
    (P.WAITING, Provided): starting.provided,
    (P.WAITING, NotProvided): over.not_provided,
    (P.WAITING, TimedOut): over.not_provided_in_time,
    (P.WAITING, Stop): over.stop_before_launch,
    (P.WAITING, Kill): over.stop_before_launch,
    (P.WAITING, Restart): starting.restart_waiting,
    (P.WAITING, Remove): over.remove_before_launch,
    (P.STARTING, Launched): starting.launched,
    (P.STARTING, NotLaunched): over.not_launched,
    (P.STARTING, TimedOut): starting.start_timed_out,
    (P.STARTING, CheckDue): health.check,
    (P.STARTING, Checked): health.checked,
    (P.STARTING, OomKilled): over.oom_killed,
    (P.STARTING, Exited): over.exited_starting,
    (P.STARTING, MainFound): starting.main_found,
    (P.STARTING, Gone): over.gone_starting,
    (P.STARTING, Notified): notice.notified_starting,
    (P.STARTING, Stop): ending.stop,
    (P.STARTING, Kill): ending.kill,
    (P.STARTING, Restart): ending.restart,
    (P.RUNNING, CheckDue): health.check,
    (P.RUNNING, Checked): health.checked,
    (P.RUNNING, OomKilled): over.oom_killed,
    (P.RUNNING, Exited): over.exited,
    (P.RUNNING, MainFound): starting.main_changed,
    (P.RUNNING, Notified): notice.notified_running,
    (P.RUNNING, PingDue): watchdog.ping_missed,
    (P.RUNNING, Stop): ending.stop,
    (P.RUNNING, Kill): ending.kill,
    (P.RUNNING, Restart): ending.restart,
    (P.STOPPING, Launched): starting.launched_too_late,
    (P.STOPPING, NotLaunched): over.not_launched,
    (P.STOPPING, TimedOut): ending.stop_timed_out,
    (P.STOPPING, Exited): over.exited_stopping,
    (P.STOPPING, Asked): ending.asked,
    (P.STOPPING, Gone): over.gone,
    (P.STOPPING, Notified): notice.notified_stopping,
    (P.STOPPING, Start): starting.want_up,
    (P.STOPPING, Released): ending.released,
    (P.STOPPING, Stop): ending.stop_ending,
    (P.STOPPING, Kill): ending.kill,
    (P.STOPPING, Restart): ending.restart_ending,
    (P.KILLING, Launched): starting.launched_too_late,
    (P.KILLING, NotLaunched): over.not_launched,
    (P.KILLING, TimedOut): ending.stop_timed_out,
    (P.KILLING, Exited): over.exited_killing,
    (P.KILLING, Gone): over.gone,
    (P.KILLING, Start): starting.want_up,
    (P.KILLING, Stop): ending.want_down,
    (P.KILLING, Kill): ending.want_down,
    (P.KILLING, Restart): ending.restart_ending,
    (P.BACKOFF, TimedOut): lambda app, _event, now: starting.launch(app, now),
    (P.BACKOFF, Start): maintenance.start_waiting,
    (P.BACKOFF, Stop): over.stop_waiting,
    (P.BACKOFF, Kill): over.stop_waiting,
    (P.BACKOFF, Restart): starting.start,
    (P.BACKOFF, Remove): over.remove_waiting,
    **{(phase, Define): definition.define for phase in Phase},
    **{(phase, Maintain): maintenance.maintain for phase in Phase},
    (P.BACKOFF, Maintain): maintenance.maintain_waiting,
    **{(phase, MaintenanceOver): maintenance.over for phase in Phase},
    (P.STOPPED, MaintenanceOver): maintenance.over_stopped,
    (P.WAITING, MaintenanceOver): maintenance.over_required,
    (P.STARTING, MaintenanceOver): maintenance.over_starting,
    (P.RUNNING, MaintenanceOver): maintenance.over_running,
    (P.BACKOFF, MaintenanceOver): maintenance.over_waiting,
    **{
        (phase, Remove): definition.remove for phase in Phase if phase not in (P.BACKOFF, P.WAITING)
    },
}


def step(app: App, event: Event, now: float) -> Step:
    """The application after the event, and what is to be done."""
    if not concerns(app, event):
        return app, ()
    cell = TABLE.get((app.phase, type(event)))
    return cell(app, event, now) if cell is not None else (app, ())


def resume(app: App, now: float, *, heard: bool = False) -> App:
    """The application as an earlier supervisor left it: no health check of it is under way.

    What it said while nobody was there is lost, and was refused to it, unless all was ``heard``.
    So the time of its watchdog begins anew; and of one that was starting nobody knows whether it
    has said that it is ready. What may not have heard that it is to end has its time to end anew,
    unless another guest counts on its end.
    """
    if app.phase is Phase.BACKOFF:
        return _resume_waiting(app, now)
    if app.run is None:
        return app
    run = replace(app.run, checking=False, check_due=None, ping_due=None)
    if run.announced is Announced.STOPPING:
        run = replace(run, excused=now + app.definition.stop.timeout)
    if run.socket and not heard:
        run = replace(run, unheard=True, status_text="")
    app = replace(app, run=run)
    if app.phase is Phase.WAITING:  # nobody was there to be told what is ready
        app, _ = starting.wait(app, run, now)
    if app.phase is Phase.STARTING:
        app = starting.starting(app, run, now)
    if ending.is_owed_signal(app) and app.definition.manager.on_lost != "stop":
        app = enter(app, Phase.STOPPING, now + app.definition.stop.timeout, run)
    app = watchdog.rewind(app, now)
    if is_up(app):
        app = health.plan_check(app, now, run.chance)
    return app


def _resume_waiting(app: App, now: float) -> App:
    """Its restart is put off where that is so now, and not where it was so then."""
    assert app.deadline is not None
    if app.maintenance is not None:
        return replace(app, deadline=max(app.deadline, app.maintenance.until))
    return replace(app, deadline=min(app.deadline, now + app.definition.restart.max_delay))


def pending(app: App) -> tuple[Action, ...]:
    """What was asked of other applications, and of itself where it may not have heard that, for
    its next supervisor to ask again.
    """
    if app.run is None:
        return ()
    if app.phase is Phase.WAITING:
        return (Require(app.run.id, app.definition.requires),)
    actions: tuple[Action, ...] = ()
    if app.goal is Goal.DOWN and app.run.ending is not None:
        actions = (StopDependants(app.run.ending),)
    return (*actions, *ending.ask(app)[1]) if ending.is_owed_signal(app) else actions


def wake(app: App) -> float | None:
    """When time alone brings the next event; None if it brings none."""
    instants = [app.deadline]
    if app.maintenance is not None:
        instants.append(app.maintenance.until)
    if app.run is not None:
        instants += [app.run.check_due, app.run.ping_due]
    return min((one for one in instants if one is not None), default=None)


def due(app: App, now: float) -> Event | None:
    """The event that the time has brought, if any."""
    # First, because it says what the others mean.
    if app.maintenance is not None and now >= app.maintenance.until:
        return MaintenanceOver()
    if app.deadline is not None and now >= app.deadline:
        return TimedOut()
    if app.run is not None and app.run.ping_due is not None and now >= app.run.ping_due:
        return PingDue()
    if app.run is not None and app.run.check_due is not None and now >= app.run.check_due:
        return CheckDue()
    return None
