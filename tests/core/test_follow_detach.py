"""The follower that is to hand the application over, with literal times."""

import pytest

from cmappd import reasons
from cmappd.core.follow.actions import Close, Exit, Failure
from cmappd.core.follow.follower import Follower
from cmappd.core.follow.following import Stage
from cmappd.core.messages import Claim, Done, Ended, Leave, Refused, Release, Stop
from tests.core.test_follow import (
    EXIT_3,
    REFUSED,
    TERMS,
    ending,
    following,
    greeted,
    logged,
    sent,
    state,
    welcome,
)

LOST = Failure(reasons.UNREACHABLE, "reset")


def detached(end: Exit) -> bool:
    return (end.reason, end.code) == (reasons.SUCCESS, 0) and "detached" in end.text


def regain(follower: Follower, now: float) -> int:
    """Get as far as the next claim, which starts nothing; its seq."""
    follower.tick(now)
    follower.connected(now)
    (claim,) = sent(follower.message(welcome(), now))
    assert isinstance(claim, Claim)
    assert not claim.start
    return claim.seq


def test_it_hands_over_and_ends_when_the_server_knows() -> None:
    follower = following()
    assert sent(follower.detach(1.0)) == [Release(3, handover=True)]
    assert follower.message(state(), 1.1) == []
    assert detached(ending(follower.message(Done(3), 1.2)))


def test_the_guest_may_ask_for_it() -> None:
    assert sent(following().message(Leave(0), 1.0)) == [Release(3, handover=True)]


def test_to_ask_twice_changes_nothing() -> None:
    follower = following()
    follower.detach(1.0)
    assert follower.detach(1.1) == []


def test_before_anything_was_asked_of_the_guest_it_just_ends() -> None:
    follower = Follower(TERMS, 0.0)
    follower.tick(0.0)
    assert detached(ending(follower.detach(1.0)))


def test_a_claim_that_was_not_answered_yet_is_handed_over_when_it_is() -> None:
    follower = greeted()
    assert sent(follower.detach(1.0)) == []
    assert sent(follower.message(state(2), 1.1)) == [Release(3, handover=True)]


@pytest.mark.parametrize("how", ["silence", "loss"])
def test_where_the_server_may_not_know_it_is_told_again(how: str) -> None:
    follower = following()
    follower.detach(1.0)
    if how == "loss":
        follower.link_lost(LOST, 1.5)
    else:
        assert Close() in follower.tick(11.0)
    assert follower.deadline is not None
    seq = regain(follower, follower.deadline)
    (release,) = sent(follower.message(state(seq), 12.0))
    assert isinstance(release, Release)
    assert detached(ending(follower.message(Done(release.seq), 12.1)))


def test_a_guest_that_is_slow_to_answer_is_waited_for() -> None:
    """Who began anew each time would never end."""
    follower = following()
    follower.detach(1.0)
    assert follower.tick(4.0) == []
    assert detached(ending(follower.message(Done(3), 4.1)))


def test_where_there_is_a_next_owner_already_the_server_did_know() -> None:
    follower = following()
    follower.detach(1.0)
    follower.link_lost(LOST, 1.5)
    assert follower.deadline is not None
    seq = regain(follower, follower.deadline)
    assert detached(ending(follower.message(Refused(seq, "busy", "owned by vmhost2"), 3.0)))


def test_without_a_link_it_is_tried_for_lost_after_and_not_called_done() -> None:
    follower = following()
    follower.link_lost(LOST, 1.0)
    assert "as soon as the server is heard" in logged(follower.detach(2.0))
    while (now := follower.deadline) is not None and now < 30.0:
        follower.tick(now)
        if follower.stage is Stage.CONNECTING:
            follower.link_lost(REFUSED, now)
    end = ending(follower.tick(30.0))
    assert end.code == 202
    assert "asked to detach, and the guest may not know" in end.text


def test_a_result_that_came_first_is_the_result() -> None:
    follower = following()
    follower.message(Ended(0, "oracle", EXIT_3), 1.0)
    assert follower.detach(1.1) == []
    assert ending(follower.tick(2.0)).code == 3


def test_a_result_on_the_way_is_left_to_the_next_owner() -> None:
    """The server keeps it, because nobody acknowledges it."""
    follower = following()
    follower.detach(1.0)
    assert follower.message(Ended(0, "oracle", EXIT_3), 1.1) == []
    assert detached(ending(follower.message(Done(3), 1.2)))


def test_what_is_being_stopped_is_not_detached() -> None:
    follower = following()
    follower.stop(1.0)
    actions = follower.detach(2.0)
    assert sent(actions) == []
    assert "being stopped" in logged(actions)


def test_a_stop_counts_while_nothing_is_handed_over() -> None:
    follower = following()
    follower.link_lost(LOST, 1.0)
    follower.detach(1.05)
    follower.stop(1.1)
    seq = regain(follower, 1.2)
    (stop,) = sent(follower.message(state(seq), 1.3))
    assert isinstance(stop, Stop)
    assert not stop.kill


def test_a_stop_while_it_is_handed_over_claims_it_again() -> None:
    follower = following()
    follower.detach(1.0)
    follower.stop(1.1)
    (claim,) = sent(follower.message(Done(3), 1.2))
    assert claim == Claim(claim.seq, "oracle", run="r1", start=False)
    (stop,) = sent(follower.message(state(claim.seq), 1.3))
    assert isinstance(stop, Stop)
