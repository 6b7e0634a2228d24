"""The follower: what cmappmgr decides, told with literal times."""

from collections import deque

import msgspec
import pytest

from cmappd import reasons
from cmappd.core.follow import actions as follow_actions
from cmappd.core.follow.actions import (
    Action,
    Close,
    Connect,
    Exit,
    Failure,
    Log,
    Ready,
    Send,
    Terms,
    Wish,
)
from cmappd.core.follow.follower import Follower
from cmappd.core.follow.following import Stage
from cmappd.core.messages import (
    Ack,
    AppStatus,
    Claim,
    Done,
    Ended,
    Hello,
    MaintenanceNotice,
    Message,
    Poll,
    Refused,
    Release,
    Reply,
    State,
    Stop,
    Welcome,
)
from cmappd.core.session import TABLE, Session
from cmappd.core.state import Cause, ExitStatus, Goal, Outcome, Phase

TERMS = Terms("oracle", "cmappmgr/1", "instance1")
REFUSED = Failure(reasons.UNREACHABLE, "Connection refused")
RUNNING = AppStatus("oracle", Goal.UP, Phase.RUNNING, run="r1", pid=7)
STOPPED = AppStatus("oracle", Goal.DOWN, Phase.STOPPED)
EXIT_3 = Outcome("r1", Cause.EXIT, ExitStatus(code=3), success=False)


def welcome(seq: int = 1, boot: str = "b1", epoch: str = "e1") -> Welcome:
    return Welcome(seq, "0.1", "guest1", boot, epoch)


def state(seq: int = 0, status: AppStatus = RUNNING, boot: str = "b1", epoch: str = "e1") -> State:
    return State(seq, status, boot, epoch)


def sent(actions: list[Action]) -> list[Message]:
    return [action.message for action in actions if isinstance(action, Send)]


def logged(actions: list[Action]) -> str:
    return "\n".join(action.line.text for action in actions if isinstance(action, Log))


def ending(actions: list[Action]) -> Exit:
    (end,) = (action for action in actions if isinstance(action, Exit))
    return end


def greeted(now: float = 0.0, terms: Terms = TERMS) -> Follower:
    """One that has sent its Claim, as request 2."""
    follower = Follower(terms, now)
    follower.tick(now)
    follower.connected(now)
    follower.message(welcome(), now)
    return follower


def following(now: float = 0.0, status: AppStatus = RUNNING, terms: Terms = TERMS) -> Follower:
    follower = greeted(now, terms)
    follower.message(state(2, status), now)
    return follower


def reclaim(
    follower: Follower, now: float, boot: str = "b1", epoch: str = "e1"
) -> tuple[int, list[Action]]:
    """Lose the link, and get as far as the next claim, which is returned with its seq."""
    follower.link_lost(REFUSED, now)
    assert follower.deadline is not None
    now = follower.deadline
    assert follower.tick(now) == [Connect(min(now + follow_actions.ATTEMPT, 30.0))]
    follower.connected(now)
    actions = follower.message(welcome(boot=boot, epoch=epoch), now)
    return sent(actions)[0].seq, actions


# Where it may run in two guests -----------------------------------------------------------


def test_it_warns_once_where_it_would_give_up_before_the_application_has_ended() -> None:
    mortal = msgspec.structs.replace(RUNNING, lease=10.0, ends_within=31.0)
    follower = greeted()
    assert "lost_after must be 32s at least" in logged(follower.message(state(2, mortal), 0.0))
    assert logged(follower.message(state(status=mortal), 1.0)) == ""
    longer = msgspec.structs.replace(mortal, ends_within=62.0)
    assert "lost_after must be 1m4s at least" in logged(follower.message(state(status=longer), 2.0))


def test_it_does_not_warn_where_it_gives_up_late_enough() -> None:
    mortal = msgspec.structs.replace(RUNNING, lease=10.0, ends_within=29.0)
    assert "lost_after" not in logged(greeted().message(state(2, mortal), 0.0))


def test_it_polls_four_times_within_a_lease() -> None:
    mortal = msgspec.structs.replace(RUNNING, lease=6.0, ends_within=10.0)
    assert following(status=mortal).deadline == 1.5


def test_only_a_claim_that_was_not_refused_may_have_started_it() -> None:
    follower = Follower(TERMS, 0.0)
    assert not ending(follower.stop(0.0)).claimed
    denied = Refused(2, reasons.DENIED.name, "no")
    assert not ending(greeted().message(denied, 0.1)).claimed
    follower = following()
    follower.message(Refused(0, reasons.DENIED.name, "no more"), 0.1)
    assert ending(follower.tick(31.0)).claimed
    follower = greeted()  # whose claim is not answered, and is heard later
    seq, _ = reclaim(follower, 0.1)
    follower.message(Refused(seq, reasons.DENIED.name, "no"), 1.0)
    assert ending(follower.tick(31.0)).claimed


# The way to the first claim --------------------------------------------------------------


def test_it_connects_greets_claims_and_follows() -> None:
    follower = Follower(TERMS, 100.0)
    assert follower.deadline == 100.0
    assert follower.tick(100.0) == [Connect(110.0)]
    assert follower.connected(100.1) == [Send(Hello(1, "cmappmgr/1", "instance1"))]
    assert sent(follower.message(welcome(), 100.2)) == [Claim(2, "oracle")]
    assert "running, pid 7" in logged(follower.message(state(2), 100.3))
    assert follower.stage is Stage.FOLLOWING
    assert follower.deadline == 105.3


def test_it_is_ready_once_and_not_before_the_application_is() -> None:
    starting = AppStatus("oracle", Goal.UP, Phase.STARTING, run="r1", pid=7)
    follower = greeted()
    assert Ready() not in follower.message(state(2, starting), 0.3)
    assert follower.message(state(), 0.4).count(Ready()) == 1
    assert Ready() not in follower.message(state(status=starting), 0.5)
    assert Ready() not in follower.message(state(), 0.6)


def test_what_is_refused_at_first_is_tried_again_with_a_growing_delay() -> None:
    follower = Follower(TERMS, 0.0)
    delays = []
    now = 0.0
    for _ in range(7):
        follower.tick(now)
        follower.link_lost(REFUSED, now)
        assert follower.deadline is not None
        delays.append(round(follower.deadline - now, 3))
        now = follower.deadline
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 4.0, 4.0]


def test_the_delay_is_spread_by_chance() -> None:
    follower = Follower(TERMS._replace(chance=1.0), 0.0)
    follower.tick(0.0)
    follower.link_lost(REFUSED, 0.0)
    assert follower.deadline == pytest.approx(0.15)


def test_a_claim_without_an_answer_may_be_heard_later_so_it_is_not_given_up_soon() -> None:
    follower = Follower(TERMS, 0.0)
    follower.tick(0.0)
    follower.connected(28.0)
    assert sent(follower.message(welcome(), 29.0)) == [Claim(2, "oracle")]
    follower.link_lost(REFUSED, 29.9)
    waiting = follower.tick(30.0)
    assert "waiting for 29s" in logged(waiting)
    assert not [action for action in waiting if isinstance(action, Connect | Exit)]
    assert follower.deadline == 29.0 + TERMS.lost_after
    assert follower.tick(58.9) == []
    end = ending(follower.tick(59.0))
    assert (end.reason, "it may have been started" in end.text) == (reasons.UNREACHABLE, True)


def test_it_is_unreachable_after_connect_timeout_and_not_before() -> None:
    follower = Follower(TERMS, 0.0)
    follower.tick(0.0)
    follower.link_lost(REFUSED, 29.9)
    assert follower.deadline == 30.0
    assert not any(isinstance(action, Exit) for action in follower.tick(29.99))
    end = ending(follower.tick(30.0))
    assert (end.reason, end.code) == (reasons.UNREACHABLE, 201)
    assert "Connection refused" in end.text
    assert follower.deadline is None


def test_the_same_failure_is_logged_once() -> None:
    follower = Follower(TERMS, 0.0)
    follower.tick(0.0)
    assert "Connection refused" in logged(follower.link_lost(REFUSED, 0.0))
    follower.tick(1.0)
    assert logged(follower.link_lost(REFUSED, 1.0)) == ""
    follower.tick(3.0)
    assert "no route" in logged(follower.link_lost(Failure(reasons.UNREACHABLE, "no route"), 3.0))


@pytest.mark.parametrize("reason", [reasons.TLS, reasons.PROTOCOL])
def test_what_trying_again_cannot_mend_ends_it_at_once(reason: reasons.Reason) -> None:
    follower = Follower(TERMS, 0.0)
    follower.tick(0.0)
    assert ending(follower.link_lost(Failure(reason, "why"), 0.1)).reason is reason


@pytest.mark.parametrize("reason", [reasons.TLS, reasons.PROTOCOL])
def test_nor_does_that_end_it_soon_where_a_claim_may_be_heard_yet(
    reason: reasons.Reason,
) -> None:
    follower = greeted()
    follower.link_lost(REFUSED, 0.1)
    assert follower.tick(0.5) == [Connect(10.5)]
    assert "why; the application may run, so waiting for 29s" in logged(
        follower.link_lost(Failure(reason, "why"), 0.6)
    )
    assert follower.deadline == TERMS.lost_after
    end = ending(follower.tick(30.0))
    assert (end.reason, "why" in end.text) == (reason, True)


def test_a_server_that_says_nothing_is_left_after_one_attempt() -> None:
    follower = Follower(TERMS, 0.0)
    follower.tick(0.0)
    follower.connected(1.0)
    assert follower.deadline == 10.0
    assert Close() in follower.tick(10.0)
    assert follower.deadline == 10.2
    assert follower.tick(10.2) == [Connect(20.2)]


@pytest.mark.parametrize(
    ("reason", "code"), [("busy", 206), ("denied", 204), ("unknown-app", 205), ("?", 213)]
)
def test_a_refusal_ends_it_with_its_reason(reason: str, code: int) -> None:
    end = ending(greeted().message(Refused(2, reason, "owned by vmhost2"), 1.0))
    assert end.code == code
    assert "owned by vmhost2" in end.text


@pytest.mark.parametrize("reason", ["app", "success", "stopped"])
def test_a_refusal_for_no_reason_is_a_misbehaving_peer(reason: str) -> None:
    assert ending(greeted().message(Refused(2, reason, ""), 1.0)).code == 213


def test_only_its_own_answer_grants_a_claim() -> None:
    follower = greeted()
    assert follower.message(state(0), 1.0) == []
    assert follower.message(Ended(0, "oracle", EXIT_3), 1.0) == []
    assert follower.message(Refused(1, "busy", ""), 1.0) == []
    assert follower.stage is Stage.CLAIMING


# Following -------------------------------------------------------------------------------


def test_it_polls_every_interval() -> None:
    follower = following()
    assert sent(follower.tick(4.9)) == []
    assert sent(follower.tick(5.0)) == [Poll(3)]
    assert follower.deadline == 15.0
    follower.message(state(3), 5.1)
    assert follower.deadline == pytest.approx(10.1)


def test_it_polls_at_least_four_times_in_lost_after() -> None:
    follower = following(terms=TERMS._replace(lost_after=4.0))
    assert follower.deadline == 1.0


def test_only_changes_are_logged() -> None:
    follower = following()
    assert follower.message(state(), 1.0) == []
    stopping = AppStatus("oracle", Goal.DOWN, Phase.STOPPING, run="r1", pid=7)
    assert logged(follower.message(state(status=stopping), 2.0)) == "stopping, pid 7"


def test_the_result_is_logged_with_its_evidence_acknowledged_and_returned() -> None:
    follower = following()
    actions = follower.message(Ended(0, "oracle", EXIT_3, "no pong\n", "one\ntwo\n"), 9.0)
    assert logged(actions).splitlines() == [
        "ended by itself, exit code 3",
        "last health output: no pong",
        "last log: one",
        "last log: two",
    ]
    assert sent(actions) == [Ack(3, "r1")]
    assert follower.message(Done(3), 9.1) == [
        Exit(
            reasons.APP,
            3,
            "ended by itself, exit code 3",
            "r1",
            EXIT_3,
            claimed=True,
        )
    ]


def test_it_waits_a_second_for_the_acknowledgement_to_arrive() -> None:
    follower = following()
    follower.message(Ended(0, "oracle", EXIT_3), 9.0)
    assert follower.tick(9.9) == []
    assert ending(follower.tick(10.0)).code == 3


def test_a_link_lost_while_the_result_is_acknowledged_does_not_change_it() -> None:
    follower = following()
    follower.message(Ended(0, "oracle", EXIT_3), 9.0)
    assert ending(follower.link_lost(REFUSED, 9.1)).code == 3


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome("r1", Cause.EXIT, ExitStatus(code=0), success=True), 0),
        (Outcome("r1", Cause.EXIT, ExitStatus(signal=9), success=False), 137),
        (Outcome("r1", Cause.OPERATOR, ExitStatus(code=0), success=False), 212),
        (Outcome("r1", Cause.UNHEALTHY, ExitStatus(signal=15), success=False), 209),
        (Outcome("r1", Cause.UNKNOWN, ExitStatus(), success=False), 210),
    ],
)
def test_the_exit_code_is_the_verdict_on_the_outcome(outcome: Outcome, code: int) -> None:
    follower = following()
    follower.message(Ended(0, "oracle", outcome), 9.0)
    assert ending(follower.tick(10.0)).code == code


def test_being_taken_over_ends_it() -> None:
    assert ending(following().message(Refused(0, "busy", "taken over"), 1.0)).code == 206


def test_an_end_of_which_only_two_polls_speak_is_an_end() -> None:
    follower = following()
    over = AppStatus("oracle", Goal.DOWN, Phase.FAILED, run="r1", last=EXIT_3)
    follower.tick(5.0)
    assert sent(follower.message(state(3, over), 5.1)) == []
    follower.tick(10.1)
    assert sent(follower.message(state(4, over), 10.2)) == [Ack(5, "r1")]
    assert ending(follower.tick(11.2)).code == 3


# A lost link -----------------------------------------------------------------------------


def test_a_silent_link_is_given_up_after_two_intervals() -> None:
    follower = following()
    follower.tick(5.0)
    assert follower.tick(14.9) == []
    actions = follower.tick(15.0)
    assert Close() in actions
    assert "trying again for 15s" in logged(actions)


def test_lost_after_counts_from_the_last_word() -> None:
    follower = following()
    follower.message(state(), 3.0)
    follower.link_lost(REFUSED, 4.0)
    while (deadline := follower.deadline) is not None and deadline < 33.0:
        follower.tick(deadline)
        if follower.stage is Stage.CONNECTING:
            follower.link_lost(Failure(reasons.TLS, "bad certificate"), deadline)
    end = ending(follower.tick(33.0))
    assert end.reason is reasons.LOST
    assert "bad certificate" in end.text


def test_a_process_that_was_stopped_itself_gets_one_more_attempt() -> None:
    follower = following()
    follower.tick(5.0)
    follower.tick(500.0)
    assert follower.stage is Stage.WAITING
    assert follower.tick(500.2) == [Connect(505.0)]
    assert ending(follower.tick(505.0)).code == 202


def test_a_process_that_was_stopped_with_no_poll_open_just_polls() -> None:
    follower = following()
    assert sent(follower.tick(500.0)) == [Poll(3)]


def test_the_same_run_is_carried_on() -> None:
    follower = following()
    seq, actions = reclaim(follower, 10.0)
    assert sent(actions) == [Claim(seq, "oracle", run="r1", start=False)]
    assert follower.message(state(seq), 10.3) == []
    assert follower.stage is Stage.FOLLOWING


def test_a_restart_in_the_guest_meanwhile_is_carried_on() -> None:
    follower = following()
    seq, _ = reclaim(follower, 10.0)
    next_run = AppStatus("oracle", Goal.UP, Phase.RUNNING, run="r2", pid=8)
    assert "running, pid 8" in logged(follower.message(state(seq, next_run), 10.3))
    assert follower.run == "r2"


def test_an_end_meanwhile_is_the_result() -> None:
    follower = following()
    seq, _ = reclaim(follower, 10.0)
    follower.message(Ended(seq, "oracle", EXIT_3), 10.3)
    assert ending(follower.tick(11.3)).code == 3


def test_a_restart_of_the_guest_is_told_apart() -> None:
    follower = following()
    seq, actions = reclaim(follower, 10.0, boot="b2", epoch="e2")
    assert "guest has been restarted" in logged(actions)
    assert sent(follower.message(state(seq, STOPPED, "b2", "e2"), 10.3)) == [Release(seq + 1)]
    end = ending(follower.message(Done(seq + 1), 10.4))
    assert (end.code, end.run) == (211, "r1")


@pytest.mark.parametrize(("boot", "code"), [("b2", 211), ("b1", 210)])
def test_a_run_the_server_does_not_know(boot: str, code: int) -> None:
    follower = following()
    seq, _ = reclaim(follower, 10.0, boot=boot, epoch="e2")
    end = ending(follower.message(Refused(seq, "unknown-status", "no such run"), 10.3))
    assert end.code == code


def test_a_restarted_server_that_knows_nothing_of_the_run() -> None:
    follower = following()
    seq, _ = reclaim(follower, 10.0, epoch="e2")
    follower.message(state(seq, STOPPED, epoch="e2"), 10.3)
    assert ending(follower.tick(11.3)).code == 210


@pytest.mark.parametrize("epoch", ["e1", "e2"])
def test_what_was_launched_again_meanwhile_is_followed_on(epoch: str) -> None:
    """However often, and whoever asked for it: the server knew the run, or it had refused."""
    follower = following()
    seq, _ = reclaim(follower, 10.0, epoch=epoch)
    last = Outcome("r2", Cause.OPERATOR, ExitStatus(signal=15), success=False)
    newer = AppStatus("oracle", Goal.UP, Phase.RUNNING, run="r3", last=last)
    follower.message(state(seq, newer, epoch=epoch), 10.3)
    assert follower.stage is Stage.FOLLOWING
    assert follower.run == "r3"


def test_a_restarted_server_that_has_adopted_the_run_is_followed() -> None:
    follower = following()
    seq, actions = reclaim(follower, 10.0, epoch="e2")
    assert "cmappserver has been restarted" in logged(actions)
    follower.message(state(seq, epoch="e2"), 10.3)
    assert follower.stage is Stage.FOLLOWING


def test_a_refusal_ends_also_a_reconnection() -> None:
    follower = following()
    seq, _ = reclaim(follower, 10.0)
    end = ending(follower.message(Refused(seq, "busy", "owned by vmhost2"), 10.3))
    assert end.code == 206
    assert "vmhost2" in end.text


@pytest.mark.parametrize(("reason", "code"), [("denied", 204), ("tls", 203), ("protocol", 213)])
def test_who_is_refused_whatever_becomes_of_the_application_waits_until_it_has_ended(
    reason: str, code: int
) -> None:
    follower = following()
    actions = follower.message(Refused(0, reason, "not any more"), 10.0)
    assert Close() in actions
    assert "not any more; the application may run, so waiting for 30s" in logged(actions)
    assert follower.deadline == 10.0 + TERMS.lost_after
    assert ending(follower.tick(40.0)).code == code
    follower = following()
    seq, _ = reclaim(follower, 10.0)
    follower.message(Refused(seq, reason, "not any more"), 11.0)
    assert "nobody hears" in logged(follower.stop(12.0))
    assert follower.tick(40.9) == []
    assert ending(follower.tick(41.0)).code == code


@pytest.mark.parametrize("reason", ["busy", "operator", "unknown-app", "not-started"])
def test_who_is_told_what_becomes_of_the_application_does_not_wait(reason: str) -> None:
    assert ending(following().message(Refused(0, reason, ""), 10.0)).reason.name == reason


# Results of earlier runs -----------------------------------------------------------------


def test_a_failure_that_nobody_was_told_is_told_to_the_next_manager() -> None:
    follower = greeted()
    follower.message(Ended(2, "oracle", EXIT_3), 1.0)
    end = ending(follower.tick(2.0))
    assert (end.code, end.earlier) == (3, True)


def test_the_end_of_the_run_that_is_followed_is_not_an_earlier_one() -> None:
    follower = following()
    follower.message(Ended(0, "oracle", EXIT_3), 1.0)
    assert not ending(follower.tick(2.0)).earlier


@pytest.mark.parametrize("cause", [Cause.MANAGER, Cause.SHUTDOWN, Cause.UNKNOWN])
def test_an_old_stop_is_acknowledged_and_the_application_claimed_again(cause: Cause) -> None:
    follower = greeted()
    old = Outcome("r0", cause, ExitStatus(signal=15), success=False)
    assert sent(follower.message(Ended(2, "oracle", old), 1.0)) == [Ack(3, "r0"), Release(4)]
    follower.message(Done(3), 1.1)
    assert sent(follower.message(Done(4), 1.1)) == [Claim(5, "oracle")]
    follower.message(state(5), 1.2)
    assert follower.stage is Stage.FOLLOWING


def test_this_is_done_only_once() -> None:
    follower = greeted()
    old = Outcome("r0", Cause.OPERATOR, ExitStatus(signal=15), success=False)
    follower.message(Ended(2, "oracle", old), 1.0)
    follower.message(Done(3), 1.1)
    follower.message(Done(4), 1.1)
    follower.message(Ended(5, "oracle", old), 1.2)
    assert ending(follower.tick(2.2)).code == 212


# To stop ---------------------------------------------------------------------------------


def test_before_anything_was_asked_for_it_just_ends() -> None:
    follower = Follower(TERMS, 0.0)
    follower.tick(0.0)
    assert ending(follower.stop(1.0)).code == 0


def test_it_stops_the_application_and_ends_with_0() -> None:
    follower = following()
    assert sent(follower.stop(1.0)) == [Stop(3, "oracle")]
    stopped = Outcome("r1", Cause.MANAGER, ExitStatus(signal=15), success=False)
    follower.message(Ended(0, "oracle", stopped), 2.0)
    end = ending(follower.tick(3.0))
    assert (end.reason, end.code) == (reasons.STOPPED, 0)


def test_what_ended_by_itself_before_it_was_stopped_is_told() -> None:
    follower = following()
    follower.stop(1.0)
    follower.message(Ended(0, "oracle", EXIT_3), 2.0)
    assert ending(follower.tick(3.0)).code == 3


def test_a_stop_in_the_guest_at_the_same_time_is_what_was_asked_for() -> None:
    follower = following()
    follower.stop(1.0)
    shutdown = Outcome("r1", Cause.SHUTDOWN, ExitStatus(signal=15), success=False)
    follower.message(Ended(0, "oracle", shutdown), 2.0)
    assert ending(follower.tick(3.0)).code == 0


def test_a_second_request_kills() -> None:
    follower = following()
    follower.stop(1.0)
    assert sent(follower.stop(2.0)) == [Stop(4, "oracle", kill=True)]


def test_what_is_asked_twice_at_once_was_asked_once() -> None:
    """A cluster sends SIGTERM to a process and to its group, of which that is one."""
    follower = following()
    follower.stop(1.0)
    assert follower.stop(1.0) == follower.stop(1.9) == []
    assert follower.wish is Wish.STOP


def test_done_without_a_result_is_enough() -> None:
    follower = following()
    follower.stop(1.0)
    assert sent(follower.message(Done(3), 2.0)) == [Release(4)]
    assert ending(follower.message(Done(4), 2.0)).code == 0


def test_what_would_not_go_is_told_with_what_is_left() -> None:
    follower = following()
    follower.stop(1.0)
    left = AppStatus("oracle", Goal.DOWN, Phase.KILLING, run="r1", pid=7, survivors=(7, 9))
    follower.message(state(status=left), 20.0)
    end = ending(follower.tick(301.0))
    assert end.code == 215
    assert "pid 7, 9" in end.text


def test_a_claim_that_was_not_answered_yet_may_have_started_it() -> None:
    follower = greeted()
    assert sent(follower.stop(1.0)) == []
    assert sent(follower.message(state(2), 1.1)) == [Stop(3, "oracle")]


def test_a_stop_without_a_link_waits_for_it_and_starts_nothing() -> None:
    follower = following()
    follower.link_lost(REFUSED, 1.0)
    assert sent(follower.stop(1.1)) == []
    assert follower.wish is Wish.STOP
    seq, actions = 0, follower.tick(1.2)
    follower.connected(1.2)
    (claim,) = sent(follower.message(welcome(), 1.3))
    seq = claim.seq
    assert claim == Claim(seq, "oracle", run="r1", start=False)
    assert sent(follower.message(state(seq), 1.4)) == [Stop(seq + 1, "oracle")]
    assert actions


def test_a_stop_of_a_run_that_is_not_known_any_more_stops_what_runs() -> None:
    follower = following()
    follower.link_lost(REFUSED, 1.0)
    follower.stop(1.1)
    follower.tick(1.2)
    follower.connected(1.2)
    (claim,) = sent(follower.message(welcome(epoch="e2"), 1.3))
    (again,) = sent(follower.message(Refused(claim.seq, "unknown-status", "?"), 1.4))
    assert again == Claim(again.seq, "oracle", start=False)
    (stop,) = sent(follower.message(state(again.seq, STOPPED, epoch="e2"), 1.5))
    assert isinstance(stop, Stop)


def test_a_stop_that_cannot_be_delivered_is_not_called_done() -> None:
    follower = following()
    follower.link_lost(REFUSED, 1.0)
    follower.stop(1.1)
    assert ending(follower.tick(30.0)).code == 202


HASTY = TERMS._replace(stop_timeout=2.0)


def test_a_stop_has_its_time_while_the_guest_answers() -> None:
    follower = following(terms=HASTY)
    follower.stop(1.0)
    assert follower.deadline == 3.0
    assert "after 2s it is running" in ending(follower.tick(3.0)).text


def test_without_a_word_of_the_guest_its_time_does_not_end_it_before_lost_after() -> None:
    follower = following(terms=HASTY)
    follower.tick(5.0)  # the poll that is not answered
    follower.stop(6.0)
    while (now := follower.deadline) is not None and now < 30.0:
        assert not any(isinstance(action, Exit) for action in follower.tick(now))
        if follower.stage is Stage.CONNECTING:
            follower.link_lost(REFUSED, now)
    end = ending(follower.tick(30.0))
    assert end.code == 202
    assert "asked to stop, and the guest may not know" in end.text


def test_a_word_that_comes_after_its_time_is_the_last() -> None:
    follower = following(terms=HASTY)
    (poll,) = sent(follower.tick(5.0))
    follower.stop(6.0)
    assert follower.tick(8.0) == []
    follower.message(state(poll.seq), 9.0)
    assert follower.deadline == 8.0
    assert ending(follower.tick(9.0)).code == 215


def test_for_a_guest_that_boots_it_waits_only_until_it_is_asked_to_stop() -> None:
    follower = greeted(terms=HASTY._replace(connect_timeout=600.0))
    follower.stop(1.0)
    while (now := follower.deadline) is not None and now < 31.0:
        assert not any(isinstance(action, Exit) for action in follower.tick(now))
        if follower.stage is Stage.CONNECTING:
            follower.link_lost(REFUSED, now)
    assert ending(follower.tick(31.0)).code == 201


# Only until it runs ------------------------------------------------------------------------

STARTING = AppStatus("oracle", Goal.UP, Phase.STARTING, run="r1", pid=7)


def test_a_start_ends_when_it_runs_and_gives_it_up() -> None:
    follower = following(status=STARTING, terms=TERMS._replace(start_timeout=60.0))
    assert sent(follower.message(state(), 5.0)) == [Release(3)]
    assert ending(follower.message(Done(3), 5.1)).code == 0


def test_a_start_of_what_runs_ends_at_once() -> None:
    follower = greeted(terms=TERMS._replace(start_timeout=60.0))
    assert sent(follower.message(state(2), 1.0)) == [Release(3)]


def test_a_start_that_takes_too_long() -> None:
    follower = following(status=STARTING, terms=TERMS._replace(start_timeout=60.0))
    for now in (5.0, 15.0):
        (poll,) = sent(follower.tick(now))
        follower.message(state(poll.seq, STARTING), now)
    follower.tick(20.0)
    assert not any(isinstance(action, Exit) for action in follower.tick(29.0))
    assert follower.message(state(4, STARTING), 29.0) == []
    follower.message(state(5, STARTING), 29.5)
    assert ending(follower.tick(60.0)).code == 208


def test_a_start_that_may_be_heard_yet_is_not_given_up_soon() -> None:
    follower = greeted(terms=TERMS._replace(start_timeout=2.0))
    assert "waiting for 28s" in logged(follower.tick(2.0))
    assert ending(follower.tick(30.0)).code == 201


def test_a_start_that_reaches_nobody_takes_no_longer_than_it_may() -> None:
    follower = Follower(TERMS._replace(start_timeout=2.0), 0.0)
    follower.tick(0.0)
    follower.link_lost(REFUSED, 1.9)
    assert ending(follower.tick(2.0)).code == 201


# Everywhere --------------------------------------------------------------------------------

WORKED_ON = AppStatus(
    "oracle",
    Goal.DOWN,
    Phase.STOPPED,
    maintenance=MaintenanceNotice("uid 0", 1e9, 1e9 + 40.0, 40.0),
)
REPLIES: tuple[Reply, ...] = (
    welcome(0),
    welcome(0, "b2", "e2"),
    state(0),
    state(0, STOPPED),
    state(0, STARTING, "b2", "e2"),
    state(0, WORKED_ON),
    state(0, WORKED_ON, "b2", "e2"),
    Ended(0, "oracle", EXIT_3),
    Ended(0, "oracle", Outcome("r0", Cause.MANAGER, ExitStatus(), success=False)),
    Done(0),
    Refused(0, "busy", "b"),
    Refused(0, "unknown-status", "u"),
)


class Run:
    """A follower in a world that holds it to the rules."""

    def __init__(self, steps: tuple[object, ...]) -> None:
        self.follower = Follower(TERMS, 0.0)
        self.now = 0.0
        self.session: Session | None = None
        self.connecting = False
        self.claims = 0
        self.last_seq = 0
        self.over = False
        for step in steps:
            self.take(step)

    def take(self, step: object) -> None:
        follower = self.follower
        if step == "tick":
            assert follower.deadline is not None
            self.now = max(self.now, follower.deadline)
            self.obey(follower.tick(self.now))
        elif step == "connected":
            self.connecting, self.session = False, Session()
            self.obey(follower.connected(self.now))
        elif step == "lost":
            self.connecting, self.session = False, None
            self.obey(follower.link_lost(REFUSED, self.now))
        elif step == "stop":
            self.obey(follower.stop(self.now))
        else:
            assert isinstance(step, Message)
            assert self.session is not None
            self.session.received(step)
            self.obey(follower.message(step, self.now))  # type: ignore[arg-type]

    def obey(self, actions: list[Action]) -> None:
        for action in actions:
            assert not self.over, "an action after the exit"
            if isinstance(action, Send):
                assert self.session is not None, "sent without a link"
                self.session.sent(action.message)  # raises where it may not be said
                assert action.message.seq > self.last_seq
                self.last_seq = action.message.seq
                if isinstance(action.message, Claim):
                    known = self.follower.status is not None
                    stopping = self.follower.wish is not Wish.FOLLOW
                    assert action.message.start is not (known or stopping)
            elif isinstance(action, Connect):
                assert self.session is None
                assert not self.connecting
                assert action.until > self.now
                self.connecting = True
            elif isinstance(action, Close):
                self.connecting, self.session = False, None
            elif isinstance(action, Exit):
                self.over = True
        assert self.over == (self.follower.deadline is None)

    def possible(self) -> list[object]:
        if self.over:
            return []
        steps: list[object] = ["tick", "stop"]
        if self.connecting:
            steps += ["connected", "lost"]
        if self.session is not None:
            steps.append("lost")
            for reply in REPLIES:
                if (self.session.stage, type(reply)) in TABLE:
                    steps += [reply, msgspec.structs.replace(reply, seq=self.last_seq)]
        return steps


def test_whatever_happens_it_keeps_to_the_session_and_has_a_deadline_until_it_ends() -> None:
    """All sequences of eight events, and fewer where they lead to what was seen before."""
    queue: deque[tuple[object, ...]] = deque([()])
    seen: set[object] = set()
    while queue:
        steps = queue.popleft()
        run = Run(steps)
        follower = run.follower
        key = (
            follower.stage,
            follower.wish,
            follower.status,
            run.connecting,
            run.session and run.session.stage,
            run.over,
            follower._f.guest,
            follower._f.poll is None,
            follower._f.rebooted,
            follower._f.exit and follower._f.exit.code,
        )
        if key in seen or len(steps) == 8:
            continue
        seen.add(key)
        queue.extend((*steps, step) for step in run.possible())
    assert len(seen) > 150


def test_left_alone_it_ends() -> None:
    """From wherever it is, if nothing comes any more, time alone ends it."""
    for follower in (Follower(TERMS, 0.0), greeted(), following()):
        while (now := follower.deadline) is not None:
            assert now <= 30.0 + follow_actions.ATTEMPT
            follower.tick(now)
            if follower.stage is Stage.CONNECTING:
                follower.link_lost(REFUSED, now)
