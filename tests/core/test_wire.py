"""Bytes to messages and back, whatever a peer sends."""

import contextlib
import sys
import tracemalloc
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmappd.core import wire
from cmappd.core.messages import (
    AppStatus,
    Claim,
    Count,
    Ended,
    Message,
    Poll,
    Reply,
    Request,
    State,
    Text,
)
from cmappd.core.state import Cause, ExitStatus, Goal, Outcome, Phase
from cmappd.core.wire import MAX_FRAME, Receiver
from cmappd.errors import LocalProtocolError, RemoteProtocolError

REQUESTS, REPLIES = get_args(Request), get_args(Reply)

SHORT_TEXT = st.text(max_size=30)
SECONDS = st.floats(allow_nan=False, allow_infinity=False)
COMMON = {
    int: st.integers(0, 2**63 - 1),
    str: SHORT_TEXT,
    float: SECONDS,
    type(None): st.none(),
    bool: st.booleans(),
    tuple[str, ...]: st.lists(SHORT_TEXT, max_size=5).map(tuple),
    tuple[Count, ...]: st.lists(st.integers(1, 2**22), max_size=5).map(tuple),
}


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Any value of a struct."""
    fields = {one.name: values(one.type) for one in msgspec.structs.fields(kind)}
    return st.builds(kind, **fields)


def values(kind: Any) -> st.SearchStrategy[Any]:
    if kind in COMMON:
        return COMMON[kind]
    if get_origin(kind) is Annotated:
        return numbers(*get_args(kind))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return structs(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    return st.one_of([values(one) for one in get_args(kind)])


def numbers(kind: type, bounds: msgspec.Meta) -> st.SearchStrategy[Any]:
    least, most = bounds.ge, bounds.le if bounds.lt is None else bounds.lt
    if kind is int:
        assert bounds.lt is None
        return st.integers(least, most)  # type: ignore[arg-type]
    return st.floats(least, most, exclude_max=bounds.lt is not None)


requests = st.one_of([structs(kind) for kind in REQUESTS])
replies = st.one_of([structs(kind) for kind in REPLIES])


def receive(receiver: Receiver[Any], chunks: Iterator[bytes]) -> list[Message]:
    return [message for chunk in chunks for message in receiver.receive(chunk)]


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return (data[start:end] for start, end in pairwise(edges))


def poll_of(size: int) -> bytes:
    """A frame of exactly this many bytes, with its newline."""
    head, tail = b'{"type":"poll","seq":1,"filler":"', b'"}\n'
    return head + b"x" * (size - len(head) - len(tail)) + tail


# Round trip --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REQUESTS)
def test_every_request_comes_back(kind: type[Message]) -> None:
    _round_trip(kind, wire.requests)


@pytest.mark.parametrize("kind", REPLIES)
def test_every_reply_comes_back(kind: type[Message]) -> None:
    _round_trip(kind, wire.replies)


def _round_trip(kind: type[Message], receiver: Any) -> None:
    @given(structs(kind))
    def comes_back(message: Message) -> None:
        frame = wire.encode(message)
        assert frame.count(b"\n") == 1
        assert frame.endswith(b"\n")
        (back,) = receiver().receive(frame)
        assert back == message
        assert type(back) is kind

    comes_back()


@given(st.lists(requests, max_size=6), st.lists(st.integers(0), max_size=12))
def test_bytes_cut_anywhere_give_the_same_messages(
    messages: list[Message], places: list[int]
) -> None:
    data = b"".join(map(wire.encode, messages))
    assert receive(wire.requests(), cut(data, places)) == messages


@given(st.lists(replies, max_size=4))
def test_byte_by_byte_gives_the_same_messages(messages: list[Message]) -> None:
    data = b"".join(map(wire.encode, messages))
    assert receive(wire.replies(), (bytes([byte]) for byte in data)) == messages


# What a peer may send ----------------------------------------------------------------


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_are_messages_or_the_peers_fault(chunks: list[bytes]) -> None:
    for receiver in (wire.requests(), wire.replies()):
        with contextlib.suppress(RemoteProtocolError):
            for chunk in chunks:
                receiver.receive(chunk)


@given(requests, st.integers(0), st.binary(min_size=1, max_size=3))
def test_any_damage_is_a_message_or_the_peers_fault(
    message: Message, place: int, damage: bytes
) -> None:
    frame = bytearray(wire.encode(message))
    place %= len(frame)
    frame[place : place + len(damage)] = damage
    try:
        received = wire.requests().receive(bytes(frame) + b"\n")
    except RemoteProtocolError:
        return
    assert all(isinstance(one, REQUESTS) for one in received)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"poll"',
        b"{}",
        b'{"seq":1}',
        b'{"type":"poll"}',
        b'{"type":"nonsense","seq":1}',
        b'{"type":"welcome","seq":1,"software":"x","guest":"g","boot_id":"b","epoch":"e"}',
        b'{"type":"poll","seq":"1"}',
        b'{"type":"poll","seq":1.0}',
        b'{"type":"poll","seq":true}',
        b'{"type":"poll","seq":null}',
        b'{"type":"poll","seq":1' + b"0" * 5000 + b"}",
        b'{"type":"poll","type":"claim","seq":1,"app":"db"}',
        b'{"type":"poll","seq":1} {}',
        b'{"type":"poll","seq":1',
        b'\xef\xbb\xbf{"type":"poll","seq":1}',
        b'{"type":"claim","seq":1,"app":"\xff"}',
        b'{"type":"claim","seq":1,"app":"\\ud800"}',
        b'{"type":"claim","seq":1,"app":"d\0b"}',
        b'{"type":"claim","seq":1,"app":7}',
        b'{"type":"stop","seq":1,"app":"db","kill":1}',
        b'{"type":"poll","seq":1,"more":' + b"[" * 60_000,
        b'{"type":"poll","seq":1,"more":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"type":"poll","seq":1,"more":' + b'{"a":' * 12_000 + b"}" * 12_001,
    ],
    ids=lambda frame: repr(frame[:40]),
)
def test_a_bad_frame_is_the_peers_fault(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.requests().receive(frame + b"\n")


def test_what_only_a_client_says_is_not_taken_from_a_server() -> None:
    with pytest.raises(RemoteProtocolError):
        wire.replies().receive(wire.encode(Poll(1)))


@pytest.mark.parametrize(
    "frame",
    [
        b'{"type":"poll","seq":1}',
        b'{"seq":1,"type":"poll"}',
        b' { "type" : "poll" , "seq" : 1 } \r',
        b'{"type":"poll","seq":1,"later":{"deep":[1,2,{"er":null}]}}',
        b'{"type":"poll","seq":9,"seq":1}',
    ],
)
def test_unknown_fields_and_spaces_are_ignored_and_the_last_of_doubles_counts(frame: bytes) -> None:
    assert wire.requests().receive(frame + b"\n") == [Poll(1)]


# Sizes -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1 << 20, 4096, 7])
def test_a_frame_of_exactly_the_limit_is_taken_and_one_more_byte_is_not(step: int) -> None:
    def feed(data: bytes) -> list[Message]:
        chunks = (data[start : start + step] for start in range(0, len(data), step))
        return receive(wire.requests(), chunks)

    assert MAX_FRAME == 65536
    assert feed(poll_of(MAX_FRAME) + poll_of(MAX_FRAME)) == [Poll(1), Poll(1)]
    with pytest.raises(RemoteProtocolError, match="over 65536 bytes"):
        feed(poll_of(MAX_FRAME + 1))


def test_a_frame_without_an_end_is_refused_at_the_limit() -> None:
    receiver = wire.requests()
    assert receiver.receive(b"x" * (MAX_FRAME - 1)) == []
    with pytest.raises(RemoteProtocolError, match="over 65536 bytes"):
        receiver.receive(b"x")


def test_a_frame_of_exactly_the_limit_is_sent_and_one_more_byte_is_not() -> None:
    room = MAX_FRAME - len(wire.encode(Text(1, "")))
    assert len(wire.encode(Text(1, "x" * room))) == MAX_FRAME
    with pytest.raises(LocalProtocolError, match="cannot send Text: 65537 bytes"):
        wire.encode(Text(1, "x" * (room + 1)))


def test_text_that_is_not_unicode_cannot_be_sent() -> None:
    with pytest.raises(LocalProtocolError, match="cannot send Text"):
        wire.encode(Text(1, b"\xff".decode(errors="surrogateescape")))


def test_a_receiver_holds_one_unfinished_frame_at_most() -> None:
    receiver, frame = wire.requests(), poll_of(MAX_FRAME)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            receiver.receive(frame[:-1])
            held = tracemalloc.get_traced_memory()[0] - before
            assert held < 2 * MAX_FRAME
            assert receiver.receive(b"\n") == [Poll(1)]
        assert tracemalloc.get_traced_memory()[0] - before < MAX_FRAME
    finally:
        tracemalloc.stop()


def test_a_frame_that_comes_byte_by_byte_is_not_copied_at_each() -> None:
    receiver = wire.requests()
    receiver.receive(b"x" * (MAX_FRAME // 2))
    held = receiver._partial
    for _ in range(MAX_FRAME // 4):
        receiver.receive(b"x")
        assert receiver._partial is held
    assert sys.getsizeof(held) < 2 * MAX_FRAME


def test_names_of_the_wire_are_what_they_have_always_been() -> None:
    status = AppStatus("db", Goal.UP, Phase.RUNNING, pid=42)
    outcome = Outcome("db.e.1", Cause.EXIT, ExitStatus(code=3), False)
    assert wire.encode(Claim(1, "db", takeover=True)) == (
        b'{"type":"claim","seq":1,"app":"db","takeover":true}\n'
    )
    assert wire.encode(State(0, status, "b", "e")) == (
        b'{"type":"state","seq":0,"status":{"app":"db","goal":"up","phase":"running","pid":42},'
        b'"boot_id":"b","epoch":"e"}\n'
    )
    assert wire.encode(Ended(0, "db", outcome)) == (
        b'{"type":"ended","seq":0,"app":"db","outcome":{"run":"db.e.1","cause":"exit",'
        b'"status":{"code":3,"signal":null},"success":false,"detail":""}}\n'
    )
