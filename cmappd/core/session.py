"""What a peer may say, and when.

One table for the conversation of a client with cmappserver, walked by both ends for every
message in either direction: each end checks itself before it sends (LocalProtocolError)
and the peer after it has received (RemoteProtocolError). An absent cell is an error.

    GREETING ─Hello→ GREETED ─Welcome→ IDLE ─Claim→ CLAIMING ─State, Ended→ OWNER
                                        ↑                └Refused→ IDLE        │
                                        └──────── Done ── RELEASING ←Release───┘

Answers to earlier requests may still come while a claim or a release is unanswered: only
the answer to it, by its ``seq``, ends that stage.

A connection claims one application at most: cmappmgr is one process an application. What
a peer may say about which application is its ``Identity``'s to tell.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from cmappd.core.messages import (
    Ack,
    Claim,
    Detach,
    Done,
    Ended,
    Hello,
    History,
    Leave,
    Logs,
    Maintain,
    Message,
    Past,
    Poll,
    Refused,
    Release,
    Reload,
    Reopen,
    Restart,
    Start,
    State,
    Status,
    Stop,
    Text,
    Upgrade,
    Welcome,
)
from cmappd.errors import LocalProtocolError, RemoteProtocolError


class Stage(StrEnum):
    """How far a conversation has come."""

    GREETING = "greeting"
    GREETED = "greeted"
    IDLE = "idle"
    CLAIMING = "claiming"
    OWNER = "owner"
    RELEASING = "releasing"


_STAY_IDLE = (
    Detach,
    Status,
    Stop,
    Start,
    Restart,
    Maintain,
    Reload,
    Upgrade,
    Logs,
    Reopen,
    History,
    State,
    Past,
    Text,
    Done,
    Refused,
)
_STAY_OWNER = (Poll, Ack, Stop, Status, State, Ended, Leave, Done, Refused)
_STAY_RELEASING = (State, Ended, Leave, Refused)
# Stages that a request has begun and its own answer ends.
_AWAITING = frozenset({Stage.CLAIMING, Stage.RELEASING})

TABLE: Mapping[tuple[Stage, type[Message]], Stage] = {
    (Stage.GREETING, Hello): Stage.GREETED,
    (Stage.GREETED, Welcome): Stage.IDLE,
    (Stage.GREETED, Refused): Stage.GREETED,
    (Stage.IDLE, Claim): Stage.CLAIMING,
    **{(Stage.IDLE, kind): Stage.IDLE for kind in _STAY_IDLE},
    (Stage.CLAIMING, State): Stage.OWNER,
    (Stage.CLAIMING, Ended): Stage.OWNER,
    (Stage.CLAIMING, Refused): Stage.IDLE,
    (Stage.CLAIMING, Done): Stage.CLAIMING,
    **{(Stage.OWNER, kind): Stage.OWNER for kind in _STAY_OWNER},
    (Stage.OWNER, Release): Stage.RELEASING,
    **{(Stage.RELEASING, kind): Stage.RELEASING for kind in _STAY_RELEASING},
    (Stage.RELEASING, Done): Stage.IDLE,
}

ADMINISTRATION = (Start, Restart, Maintain, Reload, Upgrade, Logs, Reopen, History)


class Session:
    """One end's view of one conversation."""

    __slots__ = ("_awaited", "stage")

    def __init__(self) -> None:
        self.stage = Stage.GREETING
        self._awaited = 0  # the ``seq`` whose answer ends the stage, if it is one of _AWAITING

    def sent(self, message: Message) -> None:
        """Note what this end says. Raises LocalProtocolError where it may not be said."""
        if not self._follow(message):
            kind = type(message).__name__
            raise LocalProtocolError(f"cannot send {kind} in stage '{self.stage}'")

    def received(self, message: Message) -> None:
        """Note what the peer says. Raises RemoteProtocolError where it may not be said."""
        if not self._follow(message):
            kind = type(message).__name__
            raise RemoteProtocolError(f"the peer sent {kind} in stage '{self.stage}'")

    def _follow(self, message: Message) -> bool:
        """Go where the message leads; False where it may not be said."""
        following = TABLE.get((self.stage, type(message)))
        if following is None:
            return False
        if self.stage not in _AWAITING or message.seq == self._awaited:
            self._awaited = message.seq
            self.stage = following
        return True


class Identity(NamedTuple):
    """Who a peer is: a manager by its certificate, or the administrator by its uid."""

    name: str
    administrator: bool

    def may_say(self, message: Message) -> bool:
        """Whether this kind of peer may say this at all, whatever the application."""
        if self.administrator:
            return not isinstance(message, Claim | Poll | Ack | Release | Detach)
        return not isinstance(message, ADMINISTRATION)
