"""What a follower is told and what it asks for, as data."""

from enum import Enum
from typing import NamedTuple

from cmappd.core import wording
from cmappd.core.messages import Message
from cmappd.core.state import Outcome
from cmappd.reasons import Reason

ATTEMPT = 10.0  # seconds for one connection, from its first packet to the claim
FIRST_RETRY, LAST_RETRY = 0.2, 4.0
TOGETHER = 1.0  # seconds in which SIGTERMs are one: a cluster signals a process and its group


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


class Ready(NamedTuple):
    """The application runs and is ready, for the first time; or it is under maintenance."""


class Exit(NamedTuple):
    """End the process with this code. ``outcome`` is how the run ended, where that is known.

    With ``earlier`` it is the end of a run that this manager has neither started nor followed.
    ``claimed`` is whether a claim was sent that was not refused: the guest may have started the
    application. ``ends_alone_after`` is that of `at_most_once`, None where it was not asked for.
    """

    reason: Reason
    code: int
    text: str
    run: str | None = None
    outcome: Outcome | None = None
    earlier: bool = False
    claimed: bool = False
    ends_alone_after: int | None = None


Action = Connect | Close | Send | Log | Ready | Exit


class Wish(Enum):
    """What signals, or somebody in the guest, asked for so far."""

    FOLLOW = "follow"
    DETACH = "detach"
    STOP = "stop"
    KILL = "kill"
