"""What an application says of itself, and its watchdog, by literal times."""

from typing import Any

import pytest

from cmappd.core import lifecycle
from cmappd.core.config import Application
from cmappd.core.events import (
    Checked,
    Define,
    Exited,
    FindMain,
    Launched,
    MainFound,
    Notified,
    PingDue,
    Spawn,
    Start,
    Stop,
    Terminate,
)
from cmappd.core.sd_notify import Notification
from cmappd.core.state import Announced, Cause, ExitStatus, Health, Part, Phase
from tests.core.definitions import definition, health, watched
from tests.core.test_lifecycle import FIRST, Life

NOTIFIES = definition(ready="notify", start_timeout=60.0)


def launched(defined: Application) -> Life:
    """A life that is STARTING since 100, with a process."""
    life = Life(defined)
    life.at(100.0, Start())
    life.at(100.0, Launched(FIRST, 42))
    return life


def say(life: Life, now: float, **word: Any) -> tuple[Any, ...]:
    return life.at(now, Notified(FIRST, Notification(**word)))


def ready(defined: Application) -> Life:
    """A life that has said at 100 that it is ready."""
    life = launched(defined)
    say(life, 100.0, ready=True)
    assert life.phase() is Phase.RUNNING
    return life


# Readiness ---------------------------------------------------------------------------


def test_ready_with_the_word_and_not_before() -> None:
    life = launched(NOTIFIES)
    assert lifecycle.wake(life.app) == 160.0
    say(life, 110.0, reloading=True)
    assert (life.phase(), life.run.announced) == (Phase.STARTING, Announced.RELOADING)
    say(life, 120.0, ready=True, status="up")
    assert (life.phase(), life.app.deadline) == (Phase.RUNNING, None)
    assert (life.run.announced, life.run.status_text) == (Announced.READY, "up")


def test_without_the_word_it_is_not_ready() -> None:
    life = launched(NOTIFIES)
    assert life.time_is(160.0) == (Terminate(FIRST, whole=False),)
    assert life.run.ending is Cause.NOT_READY


def test_checks_that_fail_while_it_is_not_ready_do_not_count() -> None:
    defined = definition(ready="notify", start_timeout=600.0, health=health(failures=1))
    life = launched(defined)
    for _ in range(5):
        life.check_says(passed=False)
    assert (life.phase(), life.run.streak) == (Phase.STARTING, 0)


def test_a_daemon_may_say_it_before_it_is_found_and_keeps_the_time_that_it_asked_for() -> None:
    life = Life(definition(ready="notify", kind="forking", start_timeout=60.0))
    life.at(100.0, Start())
    life.at(100.0, Launched(FIRST, 42))
    say(life, 101.0, extend_timeout=600.0)
    assert life.app.deadline == 701.0
    assert life.at(102.0, Exited(FIRST, ExitStatus(code=0), empty=False)) == (FindMain(FIRST),)
    assert life.app.deadline == 701.0
    life.at(103.0, MainFound(FIRST, 43))
    assert (life.phase(), life.app.deadline) == (Phase.STARTING, 701.0)
    life = Life(definition(ready="notify", kind="forking"))
    life.at(100.0, Start())
    life.at(100.0, Launched(FIRST, 42))
    say(life, 101.0, ready=True)
    life.at(102.0, Exited(FIRST, ExitStatus(code=0), empty=False))
    assert life.phase() is Phase.STARTING
    life.at(103.0, MainFound(FIRST, 43))
    assert (life.phase(), life.run.pid) == (Phase.RUNNING, 43)


def test_who_was_launched_without_the_socket_has_to_survive_a_second() -> None:
    life = launched(definition(ready=30.0))
    life.at(110.0, Define(NOTIFIES))
    assert life.app.deadline == 111.0
    life.time_is(111.0)
    assert life.phase() is Phase.RUNNING


@pytest.mark.parametrize(
    ("asked", "deadline"), [(10.0, 160.0), (100.0, 210.0), (1e7, 110.0 + 3600.0)]
)
def test_more_time_is_never_less_and_has_a_limit(asked: float, deadline: float) -> None:
    life = launched(NOTIFIES)
    say(life, 110.0, extend_timeout=asked)
    assert life.app.deadline == deadline


def test_time_to_survive_is_not_prolonged() -> None:
    life = launched(definition(ready=5.0, health=watched()))
    say(life, 101.0, extend_timeout=600.0)
    assert life.app.deadline == 105.0


def test_more_time_to_stop() -> None:
    life = ready(NOTIFIES)
    life.at(200.0, Stop(Cause.MANAGER))
    assert life.app.deadline == 230.0
    assert say(life, 220.0, stopping=True, extend_timeout=60.0) == ()
    assert (life.phase(), life.app.deadline) == (Phase.STOPPING, 280.0)


def test_no_more_time_to_stop_where_another_guest_may_start_it_then() -> None:
    life = ready(definition(ready="notify", on_lost="stop"))
    life.at(200.0, Stop(Cause.LEASE))
    say(life, 220.0, extend_timeout=60.0, status="flushing")
    assert (life.run.status_text, life.app.deadline) == ("flushing", 230.0)


def test_nothing_it_says_gives_time_to_what_runs_behind_it() -> None:
    life = ready(definition(ready="notify", commands=(0, 0, 1)))
    spawn = life.at(200.0, Exited(FIRST, ExitStatus(code=1), empty=True))
    assert spawn == (Spawn(FIRST, Part.AFTER),)
    say(life, 201.0, extend_timeout=600.0)
    assert life.app.deadline == 230.0


# Its own end -------------------------------------------------------------------------


def test_what_stops_by_itself_is_excused_for_the_stop_timeout() -> None:
    life = ready(definition(ready="notify", stop_timeout=30.0, health=health(failures=1)))
    say(life, 100.0, stopping=True)
    say(life, 100.0, ready=True)
    assert life.run.announced is Announced.STOPPING  # which is final
    life.check_says(passed=False)
    assert life.phase() is Phase.RUNNING
    life.at(128.0, Exited(FIRST, ExitStatus(code=3), empty=True))
    assert (life.outcome.cause, life.outcome.status.code) == (Cause.EXIT, 3)


def test_what_hangs_in_its_own_stop_is_found_out() -> None:
    life = ready(definition(ready="notify", stop_timeout=30.0, health=health(failures=1)))
    say(life, 100.0, stopping=True)
    while life.phase() is Phase.RUNNING:
        life.check_says(passed=False)
    assert life.run.ending is Cause.UNHEALTHY
    assert life.app.deadline is not None
    assert 160.0 <= life.app.deadline <= 170.0  # the first check after 130, and stop.timeout


# The watchdog ------------------------------------------------------------------------


def test_the_watchdog_counts_once_it_is_ready_and_each_ping_renews_it() -> None:
    life = launched(definition(ready="notify", health=watched(watchdog=12.0)))
    assert lifecycle.wake(life.app) == 160.0
    say(life, 130.0, ready=True)
    assert lifecycle.wake(life.app) == 142.0
    say(life, 140.0, watchdog="ping")
    assert (lifecycle.wake(life.app), life.run.health) == (152.0, Health.HEALTHY)
    assert life.time_is(152.0) == (Terminate(FIRST, whole=False),)
    assert life.run.ending is Cause.UNHEALTHY
    assert life.run.detail == "unhealthy: no ping of its watchdog within 12 s"


def test_a_supervisor_that_looks_late_was_away_itself() -> None:
    life = ready(definition(ready="notify", health=watched(watchdog=12.0)))
    assert life.at(113.5, PingDue()) == ()
    assert (life.phase(), life.run.ping_due) == (Phase.RUNNING, 125.5)
    life.at(126.0, PingDue())
    assert life.phase() is Phase.STOPPING


def test_a_missed_ping_that_is_reported_is_over_with_the_next_one() -> None:
    life = ready(definition(ready="notify", health=health("report", watchdog=12.0)))
    life.at(105.0, Checked(FIRST, True, ""))
    assert (life.run.condition, life.run.ping_due) == (Health.HEALTHY, 112.0)
    life.time_is(112.0)
    assert (life.phase(), life.run.condition) == (Phase.RUNNING, Health.UNHEALTHY)
    life.at(115.0, Checked(FIRST, True, ""))  # which says nothing of pings
    # And nothing spins.
    assert (life.run.condition, life.run.ping_due) == (Health.UNHEALTHY, None)
    say(life, 120.0, watchdog="ping")
    assert (life.run.condition, life.run.ping_due) == (Health.HEALTHY, 132.0)


def test_it_may_say_that_it_is_not_well() -> None:
    life = ready(definition(ready="notify", health=watched()))
    assert say(life, 101.0, watchdog="trigger") == (Terminate(FIRST, whole=False),)
    assert life.run.detail == "unhealthy: it said so itself, by WATCHDOG=trigger"


def test_without_a_watchdog_in_the_definition_nothing_of_it_counts() -> None:
    life = ready(NOTIFIES)
    say(life, 101.0, watchdog_timeout=1.0)
    say(life, 101.0, watchdog="ping")
    assert say(life, 102.0, watchdog="trigger") == ()
    assert (life.phase(), lifecycle.wake(life.app)) == (Phase.RUNNING, None)


def test_the_interval_is_the_one_it_was_told_or_has_asked_for() -> None:
    defined = definition(ready="notify", health=watched(watchdog=12.0))
    life = ready(defined)
    life.at(101.0, Define(definition(ready="notify", health=watched(watchdog=3.0))))
    assert life.run.ping_due == 112.0
    say(life, 110.0, watchdog_timeout=30.0)
    assert life.run.ping_due == 140.0
    say(life, 110.0, extend_timeout=60.0)
    assert life.run.ping_due == 170.0
    say(life, 110.0, watchdog_timeout=0.0)
    assert life.run.ping_due is None
    say(life, 110.0, watchdog_timeout=5.0)
    life.at(111.0, Define(definition(ready="notify")))
    assert (life.run.ping_due, life.run.condition) == (None, Health.NONE)


# A crash of cmappserver --------------------------------------------------------------


def taken_up(life: Life, now: float, *, heard: bool = False) -> Life:
    life.app = lifecycle.resume(life.app, now, heard=heard)
    return life


def test_after_a_crash_a_starting_one_is_ready_at_the_latest_when_the_time_is_over() -> None:
    life = taken_up(launched(NOTIFIES), 110.0)
    assert life.app.deadline == 170.0
    life.time_is(170.0)
    assert life.phase() is Phase.RUNNING


def test_after_a_crash_a_check_will_do() -> None:
    life = taken_up(launched(definition(ready="notify", health=health())), 110.0)
    life.check_says(passed=True)
    assert life.phase() is Phase.RUNNING


def test_after_an_upgrade_nothing_is_lost() -> None:
    life = launched(NOTIFIES)
    say(life, 101.0, status="loading")
    taken_up(life, 110.0, heard=True)
    assert life.run.status_text == "loading"
    life.time_is(170.0)
    assert life.run.ending is Cause.NOT_READY


def test_what_it_was_told_is_remembered_beside_what_it_has_chosen() -> None:
    five, six = (definition(health=watched(watchdog=seconds)) for seconds in (5.0, 6.0))
    life = launched(five)
    assert not lifecycle.untold(life.app)
    life.time_is(101.0)
    say(life, 110.0, watchdog_timeout=6.0)
    assert life.run.ping_due == 116.0
    for defined, untold in (
        (five, False),
        (six, True),
        (definition(), False),
        (definition(ready="notify"), False),  # it has NOTIFY_SOCKET
        (five, False),
    ):
        life.at(111.0, Define(defined))
        assert lifecycle.untold(life.app) is untold
    plain = launched(definition())
    for defined, untold in ((five, True), (NOTIFIES, True), (definition(), False)):
        plain.at(111.0, Define(defined))
        assert lifecycle.untold(plain.app) is untold


def test_after_a_crash_the_time_of_the_watchdog_begins_anew() -> None:
    life = ready(definition(ready="notify", health=watched(watchdog=12.0)))
    say(life, 101.0, status="old")
    taken_up(life, 500.0)
    assert (life.run.ping_due, life.run.status_text) == (512.0, "")
