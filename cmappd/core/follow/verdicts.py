"""What a follower makes of what it has heard: why it exits, and whether it need not."""

from cmappd import reasons
from cmappd.core import policy, wording
from cmappd.core.follow.actions import Exit, Failure, Terms, Wish
from cmappd.core.messages import AppStatus, Refused
from cmappd.core.state import REQUESTED, REST, Cause, Goal, Outcome
from cmappd.reasons import Reason


def exit_as(reason: Reason, text: str, run: str | None) -> Exit:
    """The exit for one of cmappmgr's own reasons."""
    assert reason.code is not None, "only an outcome has a code of the application"
    return Exit(reason, reason.code, f"{reason.meaning}: {text}" if text else reason.meaning, run)


def detached(run: str | None) -> Exit:
    """The exit of a manager that has handed the application over."""
    return Exit(reasons.SUCCESS, 0, "detached: the application runs on for its next owner", run)


def refusal(refused: Refused) -> Failure:
    """Why a request was refused, as one of cmappmgr's own reasons."""
    reason = reasons.BY_NAME.get(refused.reason)
    if reason is None or not reason.code:
        return Failure(reasons.PROTOCOL, f"refused as '{refused.reason}': {refused.text}")
    return Failure(reason, refused.text)


def exit_after(outcome: Outcome, wish: Wish, *, rebooted: bool) -> Exit:
    """The exit for the outcome of the run that was followed."""
    reason, code = policy.verdict(outcome)
    if wish in (Wish.STOP, Wish.KILL) and outcome.cause in REQUESTED:
        # Whoever was quicker to stop it, it is stopped as we were asked to see to.
        reason, code = reasons.STOPPED, 0
    elif rebooted and reason is reasons.UNKNOWN_STATUS:
        reason, code = reasons.GUEST_RESTARTED, 211
    return Exit(reason, code, wording.outcome_text(outcome), outcome.run, outcome)


def is_stale(outcome: Outcome) -> bool:
    """Whether an outcome that nobody was told says nothing against a new start.

    A failure is to be told, even to another manager than the one that missed it. A stop that
    somebody asked for, a success, and a run of which nothing is known because the guest
    went down with it, are not: they would fail the first start after a failover.
    """
    return outcome.success or outcome.cause in REQUESTED or outcome.cause is Cause.UNKNOWN


def is_over(status: AppStatus) -> bool:
    """Whether nothing runs, and nothing is to be started."""
    return status.goal is Goal.DOWN and status.phase in REST


def out_of_time(terms: Terms, status: AppStatus) -> Exit:
    """The exit when what was asked for, to start or to stop, has taken too long."""
    reason, asked = reasons.NOT_STOPPED, terms.stop_timeout
    if terms.start_timeout is not None:
        reason, asked = reasons.NOT_READY, terms.start_timeout
    pids = ", ".join(map(str, status.survivors))
    text = f"after {asked:.6g}s it is {status.phase}" + (f", left: pid {pids}" if pids else "")
    return exit_as(reason, text, status.run)
