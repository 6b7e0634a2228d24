"""Somebody works on an application: what is left undone, and what follows when it is over."""

from msgspec.structs import replace

from cmappd.core import lifecycle
from cmappd.core.config import Application
from cmappd.core.events import (
    Checked,
    Conclude,
    Event,
    Exited,
    Launched,
    Maintain,
    MaintenanceOver,
    Start,
    Stop,
    TimedOut,
)
from cmappd.core.lifecycle import App
from cmappd.core.state import Cause, ExitStatus, Goal, Health, Maintenance, Phase
from tests.core.definitions import definition, fresh, health

ON = Maintain(Maintenance(7200.0, "uid 0", 1e9, "new disks"))
KILLED = Exited("db.e.1", ExitStatus(signal=9), empty=True)


def at(app: App, *events: tuple[float, Event]) -> App:
    """The application after these events, each at its time."""
    for now, event in events:
        app, _ = lifecycle.step(app, event, now)
    return app


def running(defined: Application) -> App:
    """One that has run since second 1, and is maintained from second 10."""
    started = (0.0, Start()), (0.0, Launched("db.e.1", 7)), (1.0, TimedOut())
    app = at(fresh(defined), *started, (10.0, ON))
    assert app.phase is Phase.RUNNING
    return app


def test_failed_checks_are_reported_and_end_nothing() -> None:
    failed = Checked("db.e.1", False, "no answer")
    app = at(running(definition(health=health())), (20.0, failed), (30.0, failed), (40.0, failed))
    assert (app.phase, app.run and app.run.health) == (Phase.RUNNING, Health.UNHEALTHY)
    assert at(app, (50.0, MaintenanceOver()), (60.0, failed)).phase is Phase.STOPPING


def test_an_end_is_not_restarted_while_it_is_on_and_costs_no_budget() -> None:
    app = at(running(definition("on-failure")), (20.0, KILLED))
    assert (app.phase, app.goal, app.restarts) == (Phase.BACKOFF, Goal.UP, ())
    assert lifecycle.due(app, 7199.9) is None
    assert lifecycle.due(app, 7200.0) == MaintenanceOver()
    app = at(app, (100.0, MaintenanceOver()))
    assert (app.phase, app.deadline) == (Phase.BACKOFF, 101.0)


def test_an_end_without_a_policy_comes_to_rest() -> None:
    app, actions = lifecycle.step(running(definition()), KILLED, 20.0)
    assert app.phase is Phase.FAILED
    assert [type(action) for action in actions] == [Conclude]
    assert at(app, (30.0, MaintenanceOver())).phase is Phase.FAILED


def test_a_restart_that_was_due_is_put_off_and_who_asks_for_it_gets_it() -> None:
    app = at(running(definition("on-failure")), (15.0, MaintenanceOver()), (20.0, KILLED))
    assert app.deadline is not None
    assert app.deadline < 22.0
    assert at(app, (20.5, Start())) == app
    app = at(app, (20.5, ON))
    assert app.deadline == 7200.0
    assert at(app, (30.0, Start())).phase is Phase.STARTING
    assert at(app, (30.0, Stop(Cause.OPERATOR))).phase is Phase.STOPPED


def test_a_start_that_takes_too_long_is_waited_for() -> None:
    slow = definition(ready="health", start_timeout=60.0, health=health())
    app = at(fresh(slow), (0.0, ON), (0.0, Start()), (0.0, Launched("db.e.1", 7)))
    app = at(app, (60.0, TimedOut()))
    assert (app.phase, app.deadline) == (Phase.STARTING, 120.0)
    app = at(app, (90.0, MaintenanceOver()))
    assert (app.phase, app.deadline) == (Phase.STARTING, 150.0)
    assert at(app, (150.0, TimedOut())).phase is Phase.STOPPING


def test_what_runs_from_boot_on_is_started_when_it_is_over_unless_somebody_stopped_it() -> None:
    app = at(fresh(definition(autostart=True)), (0.0, ON))
    assert at(app, (9.0, MaintenanceOver())).phase is Phase.STARTING
    stopped = at(running(definition(autostart=True)), (20.0, Stop(Cause.OPERATOR)), (21.0, KILLED))
    assert at(stopped, (30.0, MaintenanceOver())).phase is Phase.STOPPED


def test_other_words_replace_the_first() -> None:
    again = Maintenance(100.0, "uid 1000", 2e9, "only a look")
    app = at(running(definition()), (20.0, Maintain(again)))
    assert app.maintenance == again
    assert lifecycle.wake(app) == 100.0


def test_a_restart_is_taken_up_as_it_is_put_off_now() -> None:
    waiting = at(running(definition("on-failure")), (20.0, KILLED))
    assert lifecycle.resume(waiting, 50.0).deadline == 7200.0
    assert lifecycle.resume(replace(waiting, maintenance=None), 50.0).deadline == 58.0
