"""What the follower is told and what it asks for, as data, and its verdicts."""

from enum import Enum
from typing import NamedTuple

from cmappd import reasons
from cmappd.core import policy, wording
from cmappd.core.messages import AppStatus, Message, Refused, State
from cmappd.core.state import REQUESTED, Cause, Goal, Outcome, Phase
from cmappd.reasons import Reason

ATTEMPT = 10.0  # seconds for one connection, from its first packet to the claim
FIRST_RETRY, LAST_RETRY = 0.2, 4.0


class Terms(NamedTuple):
    """What one cmappmgr was asked to do. Intervals are seconds.

    ``instance`` and ``chance`` (0 to 1) are random for each process. With ``start_timeout``
    the application is followed only until it runs, and at most for this long.
    """

    app: str
    software: str
    instance: str
    chance: float = 0.0
    takeover: bool = False
    poll_interval: float = 5.0
    connect_timeout: float = 30.0
    lost_after: float = 30.0
    stop_timeout: float = 300.0
    start_timeout: float | None = None


class Failure(NamedTuple):
    """Why a link ended. ``reason`` is UNREACHABLE where trying again may help."""

    reason: Reason
    text: str


class Connect(NamedTuple):
    """Open a link, until this instant at the latest; answered by connected or link_lost."""

    until: float


class Close(NamedTuple):
    """Close the link; it is not answered."""


class Send(NamedTuple):
    """Send this."""

    message: Message


class Log(NamedTuple):
    """Write this line; ``run`` is the one it speaks of, if any."""

    line: wording.Line
    run: str | None


class Exit(NamedTuple):
    """End the process with this code. ``outcome`` is how the run ended, where that is known."""

    reason: Reason
    code: int
    text: str
    run: str | None = None
    outcome: Outcome | None = None


Action = Connect | Close | Send | Log | Exit


class Wish(Enum):
    """What SIGTERM asked for so far."""

    FOLLOW = "follow"
    STOP = "stop"
    KILL = "kill"


# Verdicts ----------------------------------------------------------------------------


def exit_as(reason: Reason, text: str, run: str | None) -> Exit:
    """The exit for one of cmappmgr's own reasons."""
    assert reason.code is not None, "only an outcome has a code of the application"
    return Exit(reason, reason.code, f"{reason.meaning}: {text}" if text else reason.meaning, run)


def refusal(refused: Refused) -> Failure:
    """Why a request was refused, as one of cmappmgr's own reasons."""
    reason = reasons.BY_NAME.get(refused.reason)
    if reason is None or not reason.code:
        return Failure(reasons.PROTOCOL, f"refused as '{refused.reason}': {refused.text}")
    return Failure(reason, refused.text)


def exit_after(outcome: Outcome, wish: Wish, *, rebooted: bool) -> Exit:
    """The exit for the outcome of the run that was followed."""
    reason, code = policy.verdict(outcome)
    if wish is not Wish.FOLLOW and outcome.cause in REQUESTED:
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
    return status.goal is Goal.DOWN and status.phase in (Phase.STOPPED, Phase.FAILED)


def is_known(run: str | None, epoch: str, state: State) -> bool:
    """Whether the server that says ``state`` knows what became of the run of that epoch."""
    last = state.status.last
    return (
        state.epoch == epoch
        or state.status.run == run
        or (last is not None and last.run == run and state.status.restarts > 0)
    )
