"""Who may say what, when; and that both ends always agree on how far they have come."""

import contextlib
from collections import deque
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmappd.core.messages import (
    Ack,
    AppStatus,
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
    Reply,
    Request,
    Restart,
    Start,
    State,
    Status,
    Stop,
    Text,
    Upgrade,
    Welcome,
)
from cmappd.core.session import Identity, Session, Stage
from cmappd.core.state import Cause, ExitStatus, Goal, Outcome, Phase
from cmappd.errors import LocalProtocolError, RemoteProtocolError

OUTCOME = Outcome("db.e.1", Cause.EXIT, ExitStatus(code=1), False)
STATUS = AppStatus("db", Goal.UP, Phase.RUNNING)


def say(kind: type[Message], seq: int = 1) -> Any:
    """A message of this kind."""
    contents: dict[type[Message], tuple[Any, ...]] = {
        Hello: ("1.0", "aaaa"),
        Claim: ("db",),
        Ack: ("db.e.1",),
        Stop: ("db",),
        Start: ("db",),
        Restart: ("db",),
        Maintain: ("db",),
        Detach: ("db",),
        Logs: ("db",),
        History: ("db",),
        Past: (OUTCOME, 1.0),
        Welcome: ("1.0", "guest1", "b", "e"),
        State: (STATUS, "b", "e"),
        Ended: ("db", OUTCOME),
        Text: ("line",),
        Refused: ("busy", "no"),
    }
    return kind(seq, *contents.get(kind, ()))


KINDS: tuple[type[Message], ...] = (*get_args(Request), *get_args(Reply))
GREETING, GREETED, IDLE = Stage.GREETING, Stage.GREETED, Stage.IDLE
CLAIMING, OWNER, RELEASING = Stage.CLAIMING, Stage.OWNER, Stage.RELEASING

# All that may be said, and the stage after it. All else is an error of who says it.
LEGAL: dict[Stage, dict[type[Any], Stage]] = {
    GREETING: {Hello: GREETED},
    GREETED: {Welcome: IDLE, Refused: GREETED},
    IDLE: {
        Claim: CLAIMING,
        Status: IDLE,
        Stop: IDLE,
        Detach: IDLE,
        Start: IDLE,
        Restart: IDLE,
        Maintain: IDLE,
        Reload: IDLE,
        Upgrade: IDLE,
        Logs: IDLE,
        Reopen: IDLE,
        History: IDLE,
        Past: IDLE,
        State: IDLE,
        Text: IDLE,
        Done: IDLE,
        Refused: IDLE,
    },
    CLAIMING: {State: OWNER, Ended: OWNER, Refused: IDLE, Done: CLAIMING},
    OWNER: {
        Poll: OWNER,
        Ack: OWNER,
        Stop: OWNER,
        Status: OWNER,
        State: OWNER,
        Ended: OWNER,
        Leave: OWNER,
        Done: OWNER,
        Refused: OWNER,
        Release: RELEASING,
    },
    RELEASING: {
        State: RELEASING,
        Ended: RELEASING,
        Leave: RELEASING,
        Refused: RELEASING,
        Done: IDLE,
    },
}
WAY_TO: dict[Stage, tuple[type[Message], ...]] = {
    GREETING: (),
    GREETED: (Hello,),
    IDLE: (Hello, Welcome),
    CLAIMING: (Hello, Welcome, Claim),
    OWNER: (Hello, Welcome, Claim, State),
    RELEASING: (Hello, Welcome, Claim, State, Release),
}


def session_in(stage: Stage) -> Session:
    session = Session()
    for kind in WAY_TO[stage]:
        session.sent(say(kind))
    assert session.stage is stage
    return session


# The table ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", Stage)
def test_every_cell_both_ways(stage: Stage, kind: type[Message]) -> None:
    following = LEGAL[stage].get(kind)
    sender, receiver = session_in(stage), session_in(stage)
    if following is not None:
        sender.sent(say(kind))
        receiver.received(say(kind))
        assert sender.stage is receiver.stage is following
        return
    name = kind.__name__
    with pytest.raises(LocalProtocolError, match=f"cannot send {name} in stage '{stage}'"):
        sender.sent(say(kind))
    with pytest.raises(RemoteProtocolError, match=f"the peer sent {name} in stage '{stage}'"):
        receiver.received(say(kind))
    assert sender.stage is receiver.stage is stage


@pytest.mark.parametrize("stage", [CLAIMING, RELEASING])
@pytest.mark.parametrize("kind", [State, Ended, Done, Refused])
def test_an_answer_to_an_earlier_request_ends_nothing(stage: Stage, kind: type[Message]) -> None:
    for seq in (0, 7):
        session = session_in(stage)
        session.received(say(kind, seq))
        assert session.stage is stage


# Both ends ---------------------------------------------------------------------------

UNASKED: tuple[type[Message], ...] = (State, Ended)
CLOSING: dict[type[Message], tuple[tuple[type[Message], ...], ...]] = {
    Hello: ((Welcome,),),
    Claim: ((State,), (Ended,), (Refused,)),
    Poll: ((State,),),
    Ack: ((Done,),),
    Release: ((Done,),),
    Stop: ((Done,), (Refused,)),
    Detach: ((Done,), (Refused,)),
    Status: ((State, State, Done), (Done,), (Refused,)),
    Start: ((Done,), (Refused,)),
    Restart: ((Done,), (Refused,)),
    Maintain: ((Done,), (Refused,)),
    Reload: ((Done,), (Refused,)),
    Upgrade: ((Done,), (Refused,)),
    Logs: ((Text, Text, Done), (Refused,)),
    Reopen: ((Done,), (Refused,)),
    History: ((Past, Past, Done), (Done,), (Refused,)),
}


class Conversation:
    """A client and a server with bytes on their way, both as free as a rule allows.

    The client follows its own session, and pipelines: it does not wait for answers, but to
    Hello, Claim and Release. The server answers in any order, and says things unasked.
    """

    def __init__(self, data: st.DataObject, administrator: bool) -> None:
        self.client, self.server = Session(), Session()
        self.to_server: deque[Message] = deque()
        self.to_client: deque[Message] = deque()
        self.open: list[Message] = []
        self.identity = Identity("vmhost1", administrator)
        self.data = data
        self.seq = 0

    def client_speaks(self) -> None:
        stage = self.client.stage
        may = [k for k in get_args(Request) if k in LEGAL[stage]]
        may = [kind for kind in may if self.identity.may_say(say(kind))]
        if may:
            self.seq += 1
            message = say(self.data.draw(st.sampled_from(may)), self.seq)
            self.client.sent(message)
            self.to_server.append(message)

    def server_hears(self) -> None:
        if self.to_server:
            message = self.to_server.popleft()
            self.server.received(message)
            self.open.append(message)

    def server_answers(self) -> None:
        if self.open:
            request = self.open.pop(self.data.draw(st.integers(0, len(self.open) - 1)))
            for kind in self.data.draw(st.sampled_from(CLOSING[type(request)])):
                self.server_says(say(kind, request.seq))

    def server_says_unasked(self) -> None:
        if self.server.stage is OWNER:
            self.server_says(say(self.data.draw(st.sampled_from(UNASKED)), 0))

    def server_says(self, message: Message) -> None:
        self.server.sent(message)
        self.to_client.append(message)

    def client_hears(self) -> None:
        if self.to_client:
            self.client.received(self.to_client.popleft())

    def settle(self) -> None:
        while self.to_server or self.open or self.to_client:
            self.server_hears()
            self.server_answers()
            self.client_hears()


MOVES = (
    Conversation.client_speaks,
    Conversation.server_hears,
    Conversation.server_answers,
    Conversation.server_says_unasked,
    Conversation.client_hears,
)


@pytest.mark.parametrize("administrator", [False, True])
@settings(max_examples=200)
@given(st.data())
def test_both_ends_stay_together_whatever_crosses(administrator: bool, data: st.DataObject) -> None:
    talk = Conversation(data, administrator)
    for move in data.draw(st.lists(st.sampled_from(MOVES), max_size=60)):
        move(talk)
    talk.settle()
    assert talk.client.stage is talk.server.stage
    assert talk.server.stage not in (GREETED, CLAIMING, RELEASING)


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 3))))
def test_whatever_a_peer_says_is_taken_or_is_its_fault(words: list[tuple[Any, int]]) -> None:
    session = Session()
    with contextlib.suppress(RemoteProtocolError):
        for kind, seq in words:
            session.received(say(kind, seq))


# Identities --------------------------------------------------------------------------

ONLY_MANAGERS = {Claim, Poll, Ack, Release, Detach}
ONLY_ADMINISTRATORS = {Start, Restart, Maintain, Reload, Upgrade, Logs, Reopen, History}


@pytest.mark.parametrize("kind", get_args(Request))
def test_what_managers_and_administrators_may_say(kind: type[Message]) -> None:
    manager, administrator = Identity("vmhost1", False), Identity("root", True)
    assert manager.may_say(say(kind)) is (kind not in ONLY_ADMINISTRATORS)
    assert administrator.may_say(say(kind)) is (kind not in ONLY_MANAGERS)
