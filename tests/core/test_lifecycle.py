"""Lives of applications, told step by step with literal times.

What must hold in every state is the walk's to show; here is what should happen when.
"""

from cmappd.core import lifecycle
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
    FindMain,
    Gone,
    Kill,
    Launched,
    MainFound,
    NotLaunched,
    Remove,
    Restart,
    Spawn,
    Start,
    Stop,
    StopDependants,
    Terminate,
    TimedOut,
)
from cmappd.core.lifecycle import App, Run
from cmappd.core.state import Cause, ExitStatus, Goal, Health, Outcome, Part, Phase
from tests.core.definitions import definition, fresh, health

UNWELL = "unhealthy: its health check gave no answer"
FIRST, SECOND, THIRD = "db.e.1", "db.e.2", "db.e.3"
CODE_0, CODE_1 = ExitStatus(code=0), ExitStatus(code=1)


class Life:
    """An application to which things happen at given times."""

    def __init__(self, defined: Application) -> None:
        self.app: App = fresh(defined)
        self.actions: tuple[Action, ...] = ()

    def at(self, now: float, event: Event) -> tuple[Action, ...]:
        """Give the event; the actions that follow."""
        self.app, self.actions = lifecycle.step(self.app, event, now)
        return self.actions

    def time_is(self, now: float) -> tuple[Action, ...]:
        """Nothing happens before this time, and then what the time brings."""
        assert lifecycle.wake(self.app) is not None
        assert lifecycle.due(self.app, now - 0.001) is None
        event = lifecycle.due(self.app, now)
        assert event is not None
        return self.at(now, event)

    def check_says(self, passed: bool) -> tuple[Action, ...]:
        """Let the next health check come due, and end at once."""
        due = self.run.check_due
        assert due is not None
        assert self.time_is(due) == (Check(self.run.id),)
        return self.at(due, Checked(self.run.id, passed, "gave no answer"))

    @property
    def run(self) -> Run:
        assert self.app.run is not None
        return self.app.run

    def phase(self) -> Phase:
        return self.app.phase

    @property
    def outcome(self) -> Outcome:
        """The result that was concluded by the last step."""
        conclude = self.actions[-1]
        assert isinstance(conclude, Conclude)
        return conclude.outcome


def running(defined: Application, run: str = FIRST) -> Life:
    """A life that is RUNNING since 101: started at 100, and survived for 1 s."""
    life = Life(defined)
    life.at(100.0, Start())
    life.at(100.0, Launched(run, 42))
    if defined.start.ready == "health":
        life.check_says(passed=True)
    else:
        while life.phase() is Phase.STARTING:
            life.time_is(lifecycle.wake(life.app) or 0.0)
            if life.run.checking:
                life.at(100.5, Checked(run, True, ""))
    return life


# Up ----------------------------------------------------------------------------------


def test_start_launches_and_running_is_said_when_it_has_survived() -> None:
    life = Life(definition(ready=2.5))
    assert life.at(100.0, Start()) == (Spawn(FIRST),)
    assert (life.phase(), life.app.goal) == (Phase.STARTING, Goal.UP)
    assert life.at(100.25, Launched(FIRST, 42)) == ()
    assert life.time_is(102.75) == ()
    assert (life.phase(), life.run.pid, life.app.deadline) == (Phase.RUNNING, 42, None)


def test_start_of_what_runs_attaches_to_it() -> None:
    life = running(definition())
    before = life.app
    assert life.at(110.0, Start()) == ()
    assert life.app is before


def test_ready_with_the_first_passed_check() -> None:
    life = Life(definition(ready="health", start_timeout=60.0, health=health()))
    life.at(100.0, Start())
    life.at(100.0, Launched(FIRST, 42))
    assert life.check_says(passed=False) == ()
    assert life.phase() is Phase.STARTING
    assert life.check_says(passed=True) == ()
    assert (life.phase(), life.run.health) == (Phase.RUNNING, Health.HEALTHY)


def test_while_it_starts_it_is_asked_every_half_second_and_then_every_interval() -> None:
    life = Life(definition(ready="health", health=health()))
    life.at(100.0, Start())
    life.at(100.0, Launched(FIRST, 42))
    first = life.run.check_due
    assert first is not None
    assert 100.0 <= first < 100.5
    life.check_says(passed=False)
    assert life.run.check_due == first + 0.5
    life.check_says(passed=True)
    assert life.run.check_due == first + 0.5 + 10.0


def test_not_ready_in_time_is_a_failed_start() -> None:
    life = Life(definition(ready="health", start_timeout=0.25, health=health()))
    life.at(100.0, Start())
    life.at(101.0, Launched(FIRST, 42))
    if lifecycle.due(life.app, 101.25) == CheckDue():
        life.at(101.25, CheckDue())
    assert life.time_is(101.25) == (Terminate(FIRST, whole=False),)
    life.at(102.0, Exited(FIRST, CODE_0, empty=True))
    assert life.outcome.cause is Cause.NOT_READY
    assert life.outcome.detail == "not ready within 0.25 s"
    assert life.phase() is Phase.FAILED


def test_not_launched_fails_with_the_reason() -> None:
    life = Life(definition())
    life.at(100.0, Start())
    life.at(100.0, NotLaunched(FIRST, "no such file"))
    assert life.outcome == Outcome(FIRST, Cause.NOT_STARTED, ExitStatus(), False, "no such file")
    assert life.phase() is Phase.FAILED


def test_a_launch_that_is_not_answered_in_time_is_never_said_to_run() -> None:
    life = Life(definition(ready=1.0, start_timeout=60.0))
    life.at(100.0, Start())
    assert life.time_is(160.0) == ()  # no process is known that could be signalled
    assert life.phase() is Phase.STOPPING
    assert life.at(161.0, Launched(FIRST, 42)) == (Terminate(FIRST, whole=False),)
    life.at(162.0, Exited(FIRST, CODE_0, empty=True))
    assert (life.phase(), life.outcome.cause) == (Phase.FAILED, Cause.NOT_READY)


def test_a_new_start_rule_counts_from_the_change() -> None:
    life = Life(definition(ready=20.0, health=health()))
    life.at(100.0, Start())
    life.at(100.0, Launched(FIRST, 42))
    life.at(115.0, Define(definition(ready="health", start_timeout=60.0, health=health())))
    assert (life.phase(), life.app.deadline) == (Phase.STARTING, 175.0)
    life.at(116.0, Define(definition(ready=20.0, health=health())))
    assert life.app.deadline == 136.0


# Down --------------------------------------------------------------------------------


def test_stop_signals_then_kills_ever_more_slowly_until_nothing_is_left() -> None:
    life = running(definition(stop_timeout=30.0))
    life.at(200.0, Stop(Cause.MANAGER))
    assert life.actions == (StopDependants(Cause.MANAGER), Terminate(FIRST, whole=False))
    assert (life.phase(), life.app.goal) == (Phase.STOPPING, Goal.DOWN)
    now = 230.0
    for pause in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        assert life.time_is(now) == (Destroy(FIRST),)
        assert life.phase() is Phase.KILLING
        now += pause
        assert life.app.deadline == now
    assert life.at(now, Exited(FIRST, ExitStatus(signal=9), empty=False)) == ()
    assert life.phase() is Phase.KILLING
    life.at(now, Gone(FIRST))
    assert life.outcome == Outcome(FIRST, Cause.MANAGER, ExitStatus(signal=9), False)
    assert life.phase() is Phase.STOPPED


def test_stop_signal_to_the_whole_tree() -> None:
    life = running(definition(tree=True))
    life.at(200.0, Stop(Cause.MANAGER))
    assert life.actions == (StopDependants(Cause.MANAGER), Terminate(FIRST, whole=True))


def test_what_outlives_its_stopped_main_process_is_told_to_stop() -> None:
    life = running(definition())
    life.at(200.0, Stop(Cause.MANAGER))
    assert life.at(201.0, Exited(FIRST, CODE_0, empty=False)) == (Terminate(FIRST, whole=True),)
    assert (life.phase(), life.app.deadline) == (Phase.STOPPING, 230.0)


def test_what_outlives_its_crashed_main_process_is_ended_before_it_is_over() -> None:
    life = running(definition())
    assert life.at(200.0, Exited(FIRST, CODE_1, empty=False)) == (Terminate(FIRST, whole=True),)
    assert (life.phase(), life.app.goal) == (Phase.STOPPING, Goal.UP)
    life.at(201.0, Gone(FIRST))
    assert life.outcome == Outcome(FIRST, Cause.EXIT, CODE_1, False)
    assert life.phase() is Phase.FAILED


def test_kill_sends_no_stop_signal() -> None:
    life = running(definition())
    life.at(200.0, Kill(Cause.OPERATOR))
    assert life.actions == (StopDependants(Cause.OPERATOR), Destroy(FIRST))
    life.at(200.1, Exited(FIRST, ExitStatus(signal=9), empty=True))
    assert (life.phase(), life.outcome.cause) == (Phase.STOPPED, Cause.OPERATOR)


def test_kill_hastens_a_stop_and_does_not_take_its_credit() -> None:
    life = running(definition())
    life.at(200.0, Stop(Cause.OPERATOR))
    assert life.at(201.0, Kill(Cause.MANAGER)) == (Destroy(FIRST),)
    life.at(201.1, Exited(FIRST, ExitStatus(signal=9), empty=True))
    assert life.outcome.cause is Cause.OPERATOR


def test_stop_before_the_launch_is_answered_signals_when_it_is() -> None:
    life = Life(definition())
    life.at(100.0, Start())
    assert life.at(100.1, Stop(Cause.MANAGER)) == (StopDependants(Cause.MANAGER),)
    assert life.at(100.2, Launched(FIRST, 42)) == (Terminate(FIRST, whole=False),)
    life.at(100.3, Exited(FIRST, ExitStatus(signal=15), empty=True))
    assert (life.phase(), life.outcome.cause) == (Phase.STOPPED, Cause.MANAGER)


def test_kill_before_the_launch_is_answered_kills_when_it_is() -> None:
    life = Life(definition())
    life.at(100.0, Start())
    assert life.at(100.1, Kill(Cause.MANAGER)) == (StopDependants(Cause.MANAGER),)
    assert life.at(100.15, Launched(FIRST, 42)) == (Destroy(FIRST),)


def test_stop_of_a_launch_that_fails_is_stopped_all_the_same() -> None:
    life = Life(definition("always"))
    life.at(100.0, Start())
    life.at(100.1, Stop(Cause.MANAGER))
    life.at(100.2, NotLaunched(FIRST, "no such file"))
    assert (life.phase(), life.outcome.cause) == (Phase.STOPPED, Cause.MANAGER)


def test_stop_of_what_is_ending_as_unhealthy_is_a_requested_stop() -> None:
    life = running(definition("on-failure", health=health(failures=1)))
    life.check_says(passed=False)
    assert life.phase() is Phase.STOPPING
    life.at(150.0, Stop(Cause.MANAGER))
    life.at(151.0, Exited(FIRST, CODE_1, empty=True))
    assert life.phase() is Phase.STOPPED
    assert life.outcome.cause is Cause.MANAGER
    assert life.outcome.detail == UNWELL


def test_stop_of_what_is_left_of_a_crash_says_both() -> None:
    for event in (Stop(Cause.MANAGER), Kill(Cause.MANAGER)):
        life = running(definition("on-failure"))
        life.at(150.0, Exited(FIRST, CODE_1, empty=False))
        life.at(151.0, event)
        life.at(152.0, Gone(FIRST))
        detail = "its main process had ended by itself"
        assert life.outcome == Outcome(FIRST, Cause.MANAGER, CODE_1, False, detail)


def test_manager_stopping_what_the_operator_restarts_is_told_it_was_the_manager() -> None:
    life = running(definition())
    life.at(150.0, Restart(Cause.OPERATOR))
    life.at(151.0, Stop(Cause.MANAGER))
    life.at(152.0, Exited(FIRST, CODE_0, empty=True))
    assert (life.phase(), life.outcome.cause) == (Phase.STOPPED, Cause.MANAGER)


def test_stop_of_what_is_stopped_changes_nothing() -> None:
    life = Life(definition())
    assert life.at(100.0, Stop(Cause.OPERATOR)) == ()
    assert life.app == fresh(definition())


def test_stop_of_what_has_failed_takes_note_without_another_result() -> None:
    for event in (Stop(Cause.OPERATOR), Kill(Cause.OPERATOR)):
        life = running(definition())
        life.at(150.0, Exited(FIRST, CODE_1, empty=True))
        failure = life.outcome
        assert life.phase() is Phase.FAILED
        assert life.at(160.0, event) == ()
        assert (life.phase(), life.app.last) == (Phase.STOPPED, failure)


# The end by itself -------------------------------------------------------------------


def test_success_ends_stopped() -> None:
    life = running(definition())
    life.at(150.0, Exited(FIRST, CODE_0, empty=True))
    assert life.outcome == Outcome(FIRST, Cause.EXIT, CODE_0, True)
    assert (life.phase(), life.app.goal) == (Phase.STOPPED, Goal.DOWN)


def test_a_status_that_nobody_knows_is_a_failure_that_says_so() -> None:
    life = running(definition())
    life.at(150.0, Exited(FIRST, ExitStatus(), empty=True))
    assert (life.phase(), life.outcome.cause) == (Phase.FAILED, Cause.UNKNOWN)
    assert not life.outcome.success


def test_an_end_while_it_starts_is_an_exit() -> None:
    life = Life(definition(ready=20.0))
    life.at(100.0, Start())
    life.at(100.0, Launched(FIRST, 42))
    life.at(101.0, Exited(FIRST, CODE_1, empty=True))
    assert (life.phase(), life.outcome.cause) == (Phase.FAILED, Cause.EXIT)


# The policy --------------------------------------------------------------------------


def fail_at(life: Life, now: float) -> None:
    """Let the live run, launched or not, fail."""
    run = life.run.id
    life.at(now, Launched(run, 42))
    life.at(now, Exited(run, CODE_1, empty=True))


def test_failures_are_retried_with_growing_delays_and_then_no_more() -> None:
    life = running(definition("on-failure", limit=2))
    assert life.at(200.0, Exited(FIRST, CODE_1, empty=True)) == ()
    assert (life.phase(), life.app.goal, life.app.run) == (Phase.BACKOFF, Goal.UP, None)
    first = life.app.deadline
    assert first is not None
    assert 200.75 <= first <= 201.0
    assert life.time_is(first) == (Spawn(SECOND),)
    fail_at(life, 210.0)
    second = life.app.deadline
    assert second is not None
    assert 211.5 <= second <= 212.0
    assert life.time_is(second) == (Spawn(THIRD),)
    fail_at(life, 220.0)
    assert (life.phase(), life.outcome.run) == (Phase.FAILED, THIRD)


def test_restarts_before_the_window_do_not_count() -> None:
    life = running(definition("on-failure", limit=1))
    life.at(200.0, Exited(FIRST, CODE_1, empty=True))
    life.at(201.0, TimedOut())
    life.at(201.0, Launched(SECOND, 43))
    life.at(202.0, TimedOut())
    assert life.phase() is Phase.RUNNING
    life.at(800.0, Exited(SECOND, CODE_1, empty=True))  # 600 s after the first restart
    assert life.phase() is Phase.BACKOFF


def test_restarts_within_the_window_count() -> None:
    life = running(definition("on-failure", limit=1))
    life.at(200.0, Exited(FIRST, CODE_1, empty=True))
    life.at(201.0, TimedOut())
    life.at(201.0, Launched(SECOND, 43))
    life.at(799.9, Exited(SECOND, CODE_1, empty=True))
    assert life.phase() is Phase.FAILED


def test_on_failure_leaves_a_success_alone_and_always_does_not() -> None:
    life = running(definition("on-failure"))
    life.at(200.0, Exited(FIRST, CODE_0, empty=True))
    assert life.phase() is Phase.STOPPED
    life = running(definition("always"))
    life.at(200.0, Exited(FIRST, CODE_0, empty=True))
    assert life.phase() is Phase.BACKOFF


def test_a_failed_launch_is_retried_too() -> None:
    life = Life(definition("on-failure"))
    life.at(100.0, Start())
    life.at(100.0, NotLaunched(FIRST, "no such file"))
    assert life.phase() is Phase.BACKOFF


def test_a_start_that_was_asked_for_has_the_whole_budget() -> None:
    life = running(definition("on-failure", limit=1))
    life.at(200.0, Exited(FIRST, CODE_1, empty=True))
    life.at(201.0, TimedOut())
    fail_at(life, 202.0)
    assert life.phase() is Phase.FAILED
    assert life.at(203.0, Start()) == (Spawn(THIRD),)
    fail_at(life, 204.0)
    assert life.phase() is Phase.BACKOFF


def test_stop_in_backoff_concludes_as_asked() -> None:
    life = running(definition("on-failure"))
    life.at(200.0, Exited(FIRST, CODE_1, empty=True))
    life.at(200.5, Stop(Cause.MANAGER))
    assert life.outcome == Outcome(FIRST, Cause.MANAGER, CODE_1, False)
    assert (life.phase(), life.app.last) == (Phase.STOPPED, life.outcome)


def test_restart_in_backoff_launches_at_once() -> None:
    life = running(definition("on-failure"))
    life.at(200.0, Exited(FIRST, CODE_1, empty=True))
    assert life.at(200.5, Restart(Cause.OPERATOR)) == (Spawn(SECOND),)
    assert life.app.restarts == ()


def test_start_in_backoff_waits_for_its_end() -> None:
    life = running(definition("on-failure"))
    life.at(200.0, Exited(FIRST, CODE_1, empty=True))
    before = life.app
    assert life.at(200.5, Start()) == ()
    assert life.app is before


# Restart, and changes of mind --------------------------------------------------------


def test_restart_launches_when_the_old_run_is_gone() -> None:
    life = running(definition())
    assert life.at(200.0, Restart(Cause.RELOAD)) == (Terminate(FIRST, whole=False),)
    assert life.at(201.0, Exited(FIRST, CODE_1, empty=False)) == (Terminate(FIRST, whole=True),)
    assert life.at(202.0, Gone(FIRST)) == (Spawn(SECOND),)
    assert life.app.last == Outcome(FIRST, Cause.RELOAD, CODE_1, False)
    assert (life.phase(), life.app.restarts) == (Phase.STARTING, ())


def test_restart_of_what_is_stopped_starts_it() -> None:
    assert Life(definition()).at(100.0, Restart(Cause.OPERATOR)) == (Spawn(FIRST),)


def test_start_while_it_stops_launches_it_again_with_the_whole_budget() -> None:
    life = running(definition("on-failure", limit=1))
    life.at(200.0, Exited(FIRST, CODE_1, empty=True))
    life.at(201.0, TimedOut())
    life.at(201.0, Launched(SECOND, 43))
    life.at(202.0, Stop(Cause.MANAGER))
    assert life.at(203.0, Start()) == ()
    assert life.at(204.0, Exited(SECOND, CODE_0, empty=True)) == (Spawn(THIRD),)
    assert life.app.restarts == ()


def test_start_does_not_help_what_is_ending_as_a_failure() -> None:
    life = running(definition("never"))
    life.at(200.0, Exited(FIRST, CODE_1, empty=False))
    assert life.at(200.5, Start()) == ()
    life.at(201.0, Gone(FIRST))
    assert life.phase() is Phase.FAILED


def test_restart_rescues_what_is_being_stopped_or_has_crashed() -> None:
    for event in (Stop(Cause.MANAGER), Exited(FIRST, CODE_1, empty=False)):
        life = running(definition("never"))
        life.at(200.0, event)
        life.at(200.5, Restart(Cause.OPERATOR))
        life.at(200.7, Exited(FIRST, CODE_1, empty=False))
        assert life.at(201.0, Gone(FIRST)) == (Spawn(SECOND),)


# Health ------------------------------------------------------------------------------


def test_unhealthy_after_consecutive_failures_ends_the_run() -> None:
    life = running(definition(health=health(failures=2, successes=2)))
    assert life.check_says(passed=False) == ()
    assert life.check_says(passed=True) == ()
    assert life.check_says(passed=False) == ()
    assert life.phase() is Phase.RUNNING
    assert life.check_says(passed=False) == (Terminate(FIRST, whole=False),)
    life.at(300.0, Exited(FIRST, CODE_0, empty=True))
    assert life.outcome == Outcome(FIRST, Cause.UNHEALTHY, CODE_0, False, UNWELL)
    assert life.phase() is Phase.FAILED


def test_report_only_says_so_and_recovers_after_consecutive_successes() -> None:
    life = running(definition(health=health("report", failures=2, successes=2)))
    life.check_says(passed=True)
    said = []
    for passed in (False, False, True, False, True, True):
        assert life.check_says(passed=passed) == ()
        said.append(life.run.health)
    sick = Health.UNHEALTHY
    assert said == [Health.HEALTHY, sick, sick, sick, sick, Health.HEALTHY]
    assert life.phase() is Phase.RUNNING


def test_failures_are_excused_in_the_start_period_until_the_first_success() -> None:
    rule = health(failures=1, start_period=30.0)
    life = running(definition(ready=0.25, health=rule))
    excused = 0
    while life.phase() is Phase.RUNNING:
        due = life.run.check_due
        assert due is not None
        life.check_says(passed=False)
        excused += life.phase() is Phase.RUNNING
        assert (life.phase() is Phase.RUNNING) == (due - 100.0 < 30.0)
    assert excused == 3
    life = running(definition(ready=0.25, health=rule))
    life.check_says(passed=True)
    life.check_says(passed=False)
    assert life.phase() is Phase.STOPPING


def test_no_check_while_it_ends() -> None:
    life = running(definition(health=health()))
    life.at(150.0, Stop(Cause.MANAGER))
    assert life.run.check_due is None
    assert life.at(151.0, Checked(FIRST, False, "")) == ()
    assert lifecycle.wake(life.app) == 180.0


def test_checks_come_and_go_with_the_definition() -> None:
    life = running(definition())
    life.at(150.0, Define(definition(health=health())))
    assert life.run.health is Health.UNKNOWN
    assert life.run.check_due is not None
    assert 150.0 <= life.run.check_due < 160.0
    life.at(151.0, Define(definition()))
    run = life.run
    assert (run.health, run.check_due) == (Health.NONE, None)


def test_a_check_under_way_is_the_only_one_whatever_the_definitions() -> None:
    life = running(definition(health=health()))
    due = life.run.check_due
    assert due is not None
    life.time_is(due)
    life.at(due, Define(definition()))
    life.at(due, Define(definition(health=health())))
    assert life.run.check_due is None
    life.at(due + 1.0, Checked(FIRST, True, ""))
    assert life.run.check_due == due + 11.0


def test_a_health_command_that_comes_before_the_launch_is_used() -> None:
    life = Life(definition())
    life.at(100.0, Start())
    life.at(100.0, Define(definition(health=health())))
    life.at(100.0, Launched(FIRST, 42))
    assert life.run.health is Health.UNKNOWN
    assert life.run.check_due is not None


# Removed -----------------------------------------------------------------------------


def test_removed_runs_on_and_is_not_started_again() -> None:
    life = running(definition("always"))
    assert life.at(150.0, Remove()) == ()
    assert life.phase() is Phase.RUNNING
    assert life.at(151.0, Restart(Cause.OPERATOR)) == ()
    assert life.phase() is Phase.RUNNING
    life.at(152.0, Exited(FIRST, CODE_1, empty=True))
    assert (life.phase(), life.outcome.cause) == (Phase.FAILED, Cause.EXIT)
    assert life.at(153.0, Start()) == ()


def test_removed_in_backoff_ends_with_what_it_was_waiting_after() -> None:
    for status, phase in ((CODE_1, Phase.FAILED), (CODE_0, Phase.STOPPED)):
        life = running(definition("always"))
        life.at(150.0, Exited(FIRST, status, empty=True))
        life.at(150.5, Remove())
        assert life.outcome == Outcome(FIRST, Cause.EXIT, status, status is CODE_0)
        assert life.phase() is phase


def test_removed_during_a_requested_restart_is_no_failure() -> None:
    life = running(definition())
    life.at(150.0, Restart(Cause.OPERATOR))
    life.at(151.0, Remove())
    life.at(152.0, Exited(FIRST, CODE_0, empty=True))
    assert (life.phase(), life.outcome.cause) == (Phase.STOPPED, Cause.OPERATOR)


def test_defined_again_it_can_be_started() -> None:
    life = Life(definition())
    life.at(100.0, Remove())
    life.at(101.0, Define(definition("always")))
    assert life.at(102.0, Start()) == (Spawn(FIRST),)


# Time --------------------------------------------------------------------------------


def test_wake_is_the_first_of_deadline_and_check() -> None:
    life = Life(definition(ready=60.0, health=health()))
    assert lifecycle.wake(life.app) is None
    assert lifecycle.due(life.app, 1e9) is None
    life.at(100.0, Start())
    assert lifecycle.wake(life.app) == 160.0
    life.at(110.0, Launched(FIRST, 42))
    assert life.run.check_due is not None
    assert lifecycle.wake(life.app) == life.run.check_due < 170.0
    assert lifecycle.due(life.app, 169.9) == CheckDue()
    assert lifecycle.due(life.app, 170.0) == TimedOut()


def test_the_first_checks_of_many_applications_are_spread() -> None:
    due = []
    for number in range(100):
        app = App(f"app{number}", "e", definition(health=health()))
        app, _ = lifecycle.step(app, Start(), 100.0)
        app, _ = lifecycle.step(app, Launched(f"app{number}.e.1", 42), 100.0)
        assert app.run is not None
        assert app.run.check_due is not None
        due.append(app.run.check_due)
    for second in range(100, 110):
        assert 1 <= sum(second <= instant < second + 1 for instant in due) <= 25


# Words that come late ----------------------------------------------------------------


def test_the_late_end_of_the_main_process_is_not_that_of_stop_after() -> None:
    """Of one that is not our child the tree can be known to be gone before its status is."""
    life = running(definition(commands=(0, 0, 1)))
    life.at(110.0, Stop(Cause.MANAGER))
    assert life.at(110.1, Gone(FIRST)) == (Spawn(FIRST, Part.AFTER),)
    life.at(110.1, Launched(FIRST, 43, Part.AFTER))
    assert life.at(110.2, Exited(FIRST, CODE_0, empty=True)) == ()
    assert life.phase() is Phase.STOPPING
    life.at(110.3, Exited(FIRST, CODE_1, empty=True, part=Part.AFTER))
    assert (life.phase(), life.outcome.status) == (Phase.STOPPED, CODE_0)


def test_the_time_of_stop_after_begins_when_it_is_launched() -> None:
    """Which may be long after it should have been, where a crash came between."""
    life = running(definition(commands=(0, 0, 1), stop_timeout=30.0))
    life.at(110.0, Stop(Cause.MANAGER))
    assert life.at(110.1, Gone(FIRST)) == (Spawn(FIRST, Part.AFTER),)
    life.at(500.0, Launched(FIRST, 43, Part.AFTER))
    assert (life.phase(), life.app.deadline) == (Phase.STOPPING, 530.0)
    assert life.time_is(530.0) == (Destroy(FIRST),)
    assert life.phase() is Phase.KILLING


def test_a_tree_found_empty_before_stop_command_was_launched_is_not_the_end() -> None:
    life = running(definition(commands=(0, 1, 0)))
    life.at(110.0, Stop(Cause.MANAGER))
    life.at(110.0, Exited(FIRST, CODE_0, empty=True))
    life.at(110.0, Launched(FIRST, 43, Part.STOP))
    assert life.at(110.1, Gone(FIRST)) == ()
    assert life.phase() is Phase.STOPPING
    life.at(110.2, Exited(FIRST, CODE_0, empty=True, part=Part.STOP))
    assert life.phase() is Phase.STOPPED


def test_forks_do_not_prolong_the_start_of_a_daemon() -> None:
    life = Life(definition(kind="forking", ready=5.0, start_timeout=20.0))
    life.at(100.0, Start())
    life.at(100.0, Launched(FIRST, 42))
    for now in range(101, 120):
        assert life.at(now, Exited(FIRST, CODE_0, empty=False)) == (FindMain(FIRST),)
        assert life.app.deadline == 121.0
        life.at(now, MainFound(FIRST, 42 + now))
    life.at(120.0, Exited(FIRST, CODE_0, empty=False))
    life.time_is(121.0)
    assert life.phase() is Phase.STOPPING


def test_a_type_that_changes_before_the_command_is_launched_is_that_of_the_run() -> None:
    life = Life(definition(commands=(1, 0, 0)))
    life.at(100.0, Start())
    life.at(100.0, Launched(FIRST, 42, Part.START))
    life.at(101.0, Define(definition(kind="forking")))
    assert life.at(102.0, Exited(FIRST, CODE_0, True, Part.START)) == (Spawn(FIRST),)
    assert life.run.kind == "forking"
