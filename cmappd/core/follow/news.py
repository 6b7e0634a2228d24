"""What the server says of the application that a follower has claimed, and what it means."""

from cmappd import reasons
from cmappd.core import wording
from cmappd.core.follow import link
from cmappd.core.follow.actions import Close, Exit, Failure, Log, Ready, Wish
from cmappd.core.follow.claim import carry_out, claim, finish, settle
from cmappd.core.follow.following import Following, Stage
from cmappd.core.follow.verdicts import (
    detached,
    exit_after,
    exit_as,
    is_over,
    is_stale,
    refusal,
)
from cmappd.core.messages import Ack, Ended, Message, Refused, Release, State
from cmappd.core.state import ALIVE, Phase
from cmappd.core.wording import ERROR, INFO, WARNING

# Why we are refused, whatever becomes of the application.
_OF_US = (reasons.TLS, reasons.DENIED, reasons.PROTOCOL)


def state(f: Following, state: State, now: float) -> None:
    """The state has changed, or answers the claim or a poll."""
    if f.stage is Stage.CLAIMING:
        _take_up(f, state, now)
        return
    maintained = f.maintained
    _note(f, state, now)
    if _has_started(f):
        finish(f, _started(f), now)
    elif maintained and not f.maintained and is_over(state.status):
        _conclude_maintenance(f, state, now)
    elif state.seq == f.poll:
        f.poll = None
        f.attempts = 0
        f.step_until = now + f.interval
        # The Ended is said before such a State; if it is missing twice, it will not come.
        f.silences = f.silences + 1 if is_over(state.status) and not f.maintained else 0
        if f.silences == 2:
            _conclude(f, state, now)


def _take_up(f: Following, state: State, now: float) -> None:
    """The application is ours, for the first time or again."""
    before, guest, maintained = f.status, f.guest, f.maintained
    _note(f, state, now)  # which also says how often to poll
    f.enter(Stage.FOLLOWING, now + f.interval)
    if f.wish is not Wish.FOLLOW:
        carry_out(f, now)
    elif _has_started(f):
        finish(f, _started(f), now)
    elif before is None or guest is None or f.maintained:
        return
    elif maintained:
        if is_over(state.status):
            _conclude_maintenance(f, state, now)
    elif state.boot_id != guest[0]:
        finish(f, exit_as(reasons.GUEST_RESTARTED, "", before.run), now)
    elif is_over(state.status):
        _conclude(f, state, now)


def _note(f: Following, state: State, now: float) -> None:
    """Tell what changed, once and with the run that it is about."""
    lines = wording.changes(f.status, state.status)
    before = None if f.status is None else f.status.ends_within
    if before != state.status.ends_within:
        lines += wording.hasty(state.status, f.terms.lost_after)
    f.note(state, now)
    if state.status.phase in ALIVE:  # under maintenance: what goes on now has not rebooted
        f.rebooted = False
    for line in lines:
        f.do(Log(line, f.run))
    if _is_there(f) and not f.ready:
        f.ready = True
        f.do(Ready())


def _has_started(f: Following) -> bool:
    return f.terms.start_timeout is not None and _is_there(f)


def _is_there(f: Following) -> bool:
    """Whether nobody need wait for it any longer: it runs, or somebody works on it."""
    return f.maintained or (f.status is not None and f.status.phase is Phase.RUNNING)


def _started(f: Following) -> Exit:
    if f.status is not None and f.status.phase is Phase.RUNNING:
        return Exit(reasons.SUCCESS, 0, "running", f.run)
    return Exit(reasons.SUCCESS, 0, "it is under maintenance, and was not started", f.run)


def ended(f: Following, ended: Ended, now: float) -> None:
    """The result: write it down first, then say that it is written down."""
    outcome = ended.outcome
    if f.maintained:  # while it is on, no result is said
        f.say(wording.MAINTENANCE_OVER, INFO)
    end = exit_after(outcome, f.wish, rebooted=f.rebooted)
    earlier = f.status is None
    stale = earlier and f.wish is Wish.FOLLOW and is_stale(outcome)
    severity = INFO if end.code == 0 or stale else ERROR
    f.do(Log(wording.Line(end.text, severity), outcome.run))
    if severity == ERROR:
        f.do(*(Log(line, outcome.run) for line in wording.evidence(ended)))
    again = stale and not f.cleared
    f.cleared = f.cleared or stale
    # Who acknowledges owns no more; only before another claim must that be said as well.
    requests: list[Message] = [Ack(f.seq(), outcome.run)]
    if again:
        requests.append(Release(f.seq()))
    settle(f, None if again else end._replace(earlier=earlier), now, *requests)


def _conclude(f: Following, state: State, now: float) -> None:
    """It is over and no Ended has come: tell what the state knows."""
    last = state.status.last
    if last is not None and last.run == state.status.run:
        ended(f, Ended(0, state.status.app, last), now)
    else:
        finish(f, exit_as(reasons.UNKNOWN_STATUS, "", f.run), now)


def _conclude_maintenance(f: Following, state: State, now: float) -> None:
    """The truth counts again: it is at rest, and no result waited for us."""
    last = state.status.last
    if f.rebooted:
        finish(f, exit_as(reasons.GUEST_RESTARTED, "", f.run), now)
    elif last is not None and exit_after(last, f.wish, rebooted=False).code != 0:
        ended(f, Ended(0, state.status.app, last), now)
    else:
        text = "it was under maintenance, and was not started"
        finish(f, exit_as(reasons.OPERATOR, text, f.run), now)


def refused(f: Following, refused: Refused, now: float) -> None:
    """A request was refused, or the server has hung up."""
    reason, text = refusal(refused)
    if f.stage is Stage.CLAIMING and refused.seq == f.claiming:
        f.claims -= 1
    if f.maintained and f.wish is Wish.FOLLOW and reason is not reasons.BUSY:
        f.do(Close())
        link.lost(f, Failure(reasons.UNREACHABLE, f"refused: {text}"), now)
        return
    unknown = f.stage is Stage.CLAIMING and reason is reasons.UNKNOWN_STATUS
    if f.wish is Wish.DETACH and reason is reasons.BUSY:  # the server knows: there is a next owner
        f.end(detached(f.run))
        return
    if unknown and f.to_stop and f.run is not None:
        f.say("the server does not know that run", WARNING)
        f.status = None
        claim(f)  # as a new manager would, to stop whatever runs now
        return
    if unknown and f.rebooted:
        f.end(exit_as(reasons.GUEST_RESTARTED, text, f.run))
    elif unknown:  # what became of the run, the server says; that it has ended, it may not
        f.end(exit_as(reason, "", f.run)._replace(text=text))
    elif reason in _OF_US:
        link.leave(f, exit_as(reason, text, f.run), now)
    else:
        f.end(exit_as(reason, text, f.run))
