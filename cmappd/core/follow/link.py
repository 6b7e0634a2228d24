"""The link of a follower: it is opened, greeted, kept by polls, lost, tried for, and given up."""

from cmappd import reasons
from cmappd.core import policy
from cmappd.core.follow.actions import (
    ATTEMPT,
    FIRST_RETRY,
    LAST_RETRY,
    Close,
    Connect,
    Exit,
    Failure,
    Wish,
)
from cmappd.core.follow.following import Following, Stage
from cmappd.core.follow.verdicts import exit_as
from cmappd.core.messages import Hello, Poll, Welcome
from cmappd.core.units import format_duration
from cmappd.core.wording import ERROR, INFO, WARNING

NO_ANSWER = Failure(reasons.UNREACHABLE, "no answer")


def step(f: Following, now: float) -> None:
    """The deadline of the stage has come."""
    if f.stage is Stage.WAITING:
        f.enter(Stage.CONNECTING, min(now + ATTEMPT, f.until))
        f.do(Connect(f.step_until))
    elif f.stage is not Stage.FOLLOWING or f.poll is not None:
        f.do(Close())
        lost(f, NO_ANSWER, now)
    else:
        f.poll = f.seq()
        f.step_until = now + 2 * f.interval
        f.send(Poll(f.poll))


def greet(f: Following) -> None:
    """The link is open."""
    f.enter(Stage.GREETING, f.step_until)
    f.send(Hello(f.seq(), f.terms.software, f.terms.instance))


def welcomed(f: Following, welcome: Welcome) -> None:
    """Tell apart what has happened since the last link."""
    new = (welcome.boot_id, welcome.epoch)
    if f.guest is None:
        f.say(f"connected to cmappserver {welcome.software} in {welcome.guest}", INFO)
    elif f.guest[0] != new[0]:
        f.rebooted = True
        f.say("connected again: the guest has been restarted", ERROR)
    elif f.guest[1] != new[1]:
        f.say("connected again: cmappserver has been restarted", WARNING)
    else:
        f.say("connected again", INFO)


def lost(f: Following, failure: Failure, now: float) -> None:
    """The link could not be opened, or has ended."""
    if f.status is None and failure.reason is not reasons.UNREACHABLE:
        leave(f, exit_as(failure.reason, failure.text, None), now)
        return
    if f.stage is Stage.FOLLOWING:
        f.until = _until(f, now)
        left = format_duration(round(f.until - now))
        f.say(f"the link was lost: {failure.text}; trying again for {left}", WARNING)
        f.failure = failure
    retry(f, failure, now)


def _until(f: Following, now: float) -> float:
    """How long to try for a link that was lost now."""
    # The second is for a process that was itself stopped: it gets one attempt.
    until = max(f.heard + f.terms.lost_after, now + f.interval)
    if f.maintained_until is not None and f.wish is Wish.FOLLOW:
        until = max(until, f.maintained_until + f.terms.lost_after)
    return until


def retry(f: Following, failure: Failure, now: float) -> None:
    """Wait a little, and a little longer each time."""
    if f.failure is None or failure.text != f.failure.text:
        f.say(f"cannot reach the server: {failure.text}", WARNING)
    f.failure = failure
    f.poll = f.stopping = None
    delay = policy.back_off(f.attempts, FIRST_RETRY, LAST_RETRY, f.terms.chance)
    f.attempts += 1
    f.enter(Stage.WAITING, now + delay)


def give_up(f: Following, now: float) -> None:
    """It was tried for long enough."""
    last = "no answer" if f.failure is None else f.failure.text
    if f.status is None:
        unknown = "; it may have been started" if f.may_run else ""
        leave(f, exit_as(reasons.UNREACHABLE, f"{last}{unknown}", None), now)
        return
    text = f"the application's state is unknown; last: {last}"
    if f.wish is not Wish.FOLLOW:
        text = f"asked to {f.wish.value}, and the guest may not know; {text}"
    leave(f, exit_as(reasons.LOST, text, f.run), now)


def leave(f: Following, end: Exit, now: float) -> None:
    """End so, without a word of the guest that the application has ended, or has another owner.

    Where it may run, not before whoever starts it elsewhere may know that it has ended here.
    """
    f.do(Close())
    until = f.heard + f.terms.lost_after
    if not f.may_run or now >= until:
        f.end(end)
        return
    left = format_duration(round(until - now))
    f.say(f"{end.text}; the application may run, so waiting for {left}", WARNING)
    f.exit = end
    f.enter(Stage.PARTING, until)


def part(f: Following, now: float) -> None:
    """End as was said when the link was given up, once there has been time enough."""
    if f.exit is not None and now >= f.step_until:
        f.end(f.exit)
