"""The follower while somebody works on the application in the guest, with literal times."""

import pytest
from msgspec.structs import replace

from cmappd import reasons
from cmappd.core.follow.actions import Close, Exit, Failure, Ready
from cmappd.core.follow.follower import Follower
from cmappd.core.follow.following import Stage
from cmappd.core.messages import (
    AppStatus,
    Claim,
    Done,
    Ended,
    MaintenanceNotice,
    Poll,
    Refused,
    Release,
    Stop,
)
from cmappd.core.state import Cause, ExitStatus, Goal, Outcome, Phase
from tests.core.test_follow import (
    EXIT_3,
    REFUSED,
    RUNNING,
    STARTING,
    STOPPED,
    TERMS,
    ending,
    following,
    greeted,
    logged,
    sent,
    state,
    welcome,
)

# From second 0 to 7200.
NOTICE = MaintenanceNotice("uid 0", 1e9, 1e9 + 7200.0, 7200.0, "new disks")
MAINTAINED = replace(RUNNING, maintenance=NOTICE)
FAILED = AppStatus("oracle", Goal.DOWN, Phase.FAILED, run="r1", last=EXIT_3)
FAILED_MEANWHILE = replace(FAILED, maintenance=NOTICE)
STOPPED_MEANWHILE = replace(STOPPED, maintenance=NOTICE)
NEXT_RUN = AppStatus("oracle", Goal.UP, Phase.RUNNING, run="r2", pid=8)


def maintained(status: AppStatus = MAINTAINED) -> Follower:
    """One that was told at second 0."""
    return following(status=status)


def back(
    follower: Follower, now: float, boot: str = "b1", epoch: str = "e1"
) -> tuple[Follower, Claim]:
    """Lose the link, and open a new one at that time; up to the claim."""
    follower.link_lost(REFUSED, now)
    assert follower.deadline is not None
    now = follower.deadline
    follower.tick(now)
    follower.connected(now)
    (claim,) = sent(follower.message(welcome(boot=boot, epoch=epoch), now))
    assert isinstance(claim, Claim)
    return follower, claim


def test_it_says_who_works_on_it_and_why_and_when_that_is_over() -> None:
    follower = following()
    assert logged(follower.message(state(status=MAINTAINED), 1.0)) == (
        "under maintenance until 2001-09-09 03:46:40 UTC, for 2h, by uid 0: new disks"
    )
    later = replace(NOTICE, until=1e9 + 7201.0, over_in=3600.0)  # the clock was set meanwhile
    assert follower.message(state(status=replace(RUNNING, maintenance=later)), 2.0) == []
    assert "maintenance is over" in logged(follower.message(state(), 3.0))
    assert follower.stage is Stage.FOLLOWING


def test_whatever_becomes_of_the_application_it_stays_and_says_so() -> None:
    follower = maintained()
    said = logged(follower.message(state(status=FAILED_MEANWHILE), 1.0))
    assert said == "failed: ended by itself, exit code 3"
    for now in (5.0, 10.0, 15.0, 20.0):
        (poll,) = sent(follower.tick(now))
        assert isinstance(poll, Poll)
        assert sent(follower.message(state(poll.seq, FAILED_MEANWHILE), now)) == []
    assert follower.stage is Stage.FOLLOWING


def test_what_runs_when_it_is_over_is_followed() -> None:
    follower = maintained(FAILED_MEANWHILE)
    follower.message(state(status=replace(NEXT_RUN, maintenance=NOTICE)), 1.0)
    assert "maintenance is over" in logged(follower.message(state(status=NEXT_RUN), 2.0))
    assert (follower.stage, follower.run) == (Stage.FOLLOWING, "r2")


def test_a_result_that_waited_is_taken_when_it_is_over() -> None:
    follower = maintained(FAILED_MEANWHILE)
    actions = follower.message(Ended(0, "oracle", EXIT_3), 2.0)
    assert logged(actions).splitlines() == [
        "maintenance is over: what becomes of it counts again",
        "ended by itself, exit code 3",
    ]
    assert ending(follower.tick(3.0)).code == 3


SUCCESS = Outcome("r1", Cause.EXIT, ExitStatus(code=0), success=True)


@pytest.mark.parametrize(
    ("last", "code"), [(EXIT_3, 3), (None, 212), (SUCCESS, 212), (replace(SUCCESS, run="r0"), 212)]
)
def test_at_rest_without_a_result_it_is_never_called_a_success(
    last: Outcome | None, code: int
) -> None:
    follower = maintained(STOPPED_MEANWHILE)
    over = replace(STOPPED, run=last and last.run, last=last)
    follower.message(state(status=over), 2.0)
    assert ending(follower.tick(3.0)).code == code


# The link ----------------------------------------------------------------------------


def test_the_link_is_tried_for_until_it_should_be_over_and_lost_after_more() -> None:
    follower = maintained()
    assert "trying again for 2h20s" in logged(follower.link_lost(REFUSED, 10.0))
    while (now := follower.deadline) is not None and now < 7230.0:
        follower.tick(now)
        if follower.stage is Stage.CONNECTING:
            follower.link_lost(Failure(reasons.TLS, "bad certificate"), now)
    assert ending(follower.tick(7230.0)).reason is reasons.LOST


def test_of_a_maintenance_that_is_over_the_link_is_tried_for_as_ever() -> None:
    follower = maintained()
    follower.message(state(), 5.0)
    assert "trying again for 25s" in logged(follower.link_lost(REFUSED, 10.0))


@pytest.mark.parametrize("status", [STOPPED_MEANWHILE, replace(NEXT_RUN, maintenance=NOTICE)])
@pytest.mark.parametrize(("boot", "epoch"), [("b1", "e1"), ("b1", "e2"), ("b2", "e3")])
def test_a_restart_of_the_server_or_the_guest_ends_nothing(
    status: AppStatus, boot: str, epoch: str
) -> None:
    follower, claim = back(maintained(), 10.0, boot, epoch)
    assert claim == Claim(claim.seq, "oracle", start=False)
    follower.message(state(claim.seq, status, boot, epoch), 11.0)
    assert follower.stage is Stage.FOLLOWING


def test_it_may_hear_of_it_only_when_the_link_is_back() -> None:
    follower, claim = back(following(), 10.0, "b2", "e2")
    follower.message(state(claim.seq, STOPPED_MEANWHILE, "b2", "e2"), 11.0)
    assert follower.stage is Stage.FOLLOWING


def test_that_it_is_over_it_may_hear_only_when_the_link_is_back() -> None:
    follower, claim = back(maintained(), 10.0, "b2", "e2")
    follower.message(state(claim.seq, NEXT_RUN, "b2", "e2"), 11.0)
    assert (follower.stage, follower.run) == (Stage.FOLLOWING, "r2")
    follower, claim = back(maintained(), 10.0, "b2", "e2")
    follower.message(state(claim.seq, STOPPED, "b2", "e2"), 11.0)
    assert ending(follower.tick(12.0)).code == 211
    follower, claim = back(maintained(), 10.0)
    follower.message(Ended(claim.seq, "oracle", EXIT_3), 11.0)
    assert ending(follower.tick(12.0)).code == 3


def test_a_reboot_is_not_blamed_for_what_becomes_of_a_later_run() -> None:
    follower, claim = back(maintained(), 10.0, "b2", "e2")
    follower.message(state(claim.seq, replace(NEXT_RUN, maintenance=NOTICE), "b2", "e2"), 11.0)
    unknown = Outcome("r2", Cause.UNKNOWN, ExitStatus(), success=False)
    follower.message(Ended(0, "oracle", unknown), 12.0)
    assert ending(follower.tick(13.0)).code == 210


@pytest.mark.parametrize("reason", ["operator", "unknown-app", "denied", "not-started", "?"])
def test_a_refusal_is_no_reason_to_end(reason: str) -> None:
    follower, claim = back(maintained(), 10.0)
    actions = follower.message(Refused(claim.seq, reason, "cmappserver has been told to end"), 11.0)
    assert Close() in actions
    assert "told to end" in logged(actions)
    assert follower.stage is Stage.WAITING
    follower = maintained()
    assert "trying again for 2h" in logged(follower.message(Refused(0, reason, "bye"), 1.0))


def test_another_owner_is() -> None:
    end = ending(maintained().message(Refused(0, "busy", "taken over by vmhost2"), 1.0))
    assert end.code == 206


# What is asked of it -----------------------------------------------------------------


def test_a_stop_works_and_needs_no_result() -> None:
    follower = maintained()
    (stop,) = sent(follower.stop(1.0))
    assert isinstance(stop, Stop)
    follower.message(state(status=STOPPED_MEANWHILE), 2.0)
    (release,) = sent(follower.message(Done(stop.seq), 2.0))
    assert isinstance(release, Release)
    assert ending(follower.message(Done(release.seq), 2.0)).code == 0


def test_a_stop_without_a_link_is_not_tried_for_as_long_as_the_maintenance_lasts() -> None:
    follower = maintained()
    follower.link_lost(REFUSED, 10.0)
    follower.stop(20.0)
    assert not any(isinstance(one, Exit) for one in follower.tick(49.9))
    assert ending(follower.tick(50.0)).reason is reasons.LOST


@pytest.mark.parametrize("status", [STOPPED_MEANWHILE, FAILED_MEANWHILE])
def test_a_new_manager_follows_what_it_did_not_start(status: AppStatus) -> None:
    follower = greeted()
    actions = follower.message(state(2, status), 1.0)
    assert "under maintenance" in logged(actions)
    assert Ready() in actions  # nobody need wait for more
    assert follower.stage is Stage.FOLLOWING


@pytest.mark.parametrize("status", [STOPPED, STARTING])
def test_a_start_that_is_not_carried_out_is_no_failure(status: AppStatus) -> None:
    follower = greeted(terms=TERMS._replace(start_timeout=60.0))
    follower.message(state(2, replace(status, maintenance=NOTICE)), 1.0)
    end = ending(follower.tick(2.0))
    assert (end.code, end.text) == (0, "it is under maintenance, and was not started")


def test_a_restart_that_waits_is_told() -> None:
    waiting = replace(MAINTAINED, phase=Phase.BACKOFF, pid=None, last=EXIT_3, next_in=7000.0)
    assert logged(maintained().message(state(status=waiting), 1.0)) == (
        "its restart waits for the end of the maintenance: ended by itself, exit code 3"
    )
