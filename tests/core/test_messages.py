"""What the two ends can say at all: names only, and nothing that could be carried out.

Every field of every message is listed here. One that is added makes a test fail, so that
somebody asks what a peer, or a guest, could do with it.
"""

from typing import Any, get_args

import msgspec
import pytest

from cmappd.core import messages, wire
from cmappd.core.messages import (
    AppStatus,
    Ended,
    MaintenanceNotice,
    Message,
    Past,
    Reply,
    Request,
    State,
)
from cmappd.core.state import Cause, ExitStatus, Goal, Outcome, Phase
from cmappd.errors import RemoteProtocolError

ALLOWED = {
    "Hello": {"seq", "software", "instance"},
    "Claim": {"seq", "app", "run", "start", "takeover"},
    "Poll": {"seq"},
    "Ack": {"seq", "run"},
    "Release": {"seq", "handover"},
    "Detach": {"seq", "app"},
    "Leave": {"seq"},
    "Stop": {"seq", "app", "kill"},
    "Status": {"seq", "apps"},
    "Start": {"seq", "app"},
    "Restart": {"seq", "app"},
    "Maintain": {"seq", "app", "seconds", "reason"},
    "Reload": {"seq"},
    "Upgrade": {"seq"},
    "Logs": {"seq", "app", "lines", "follow"},
    "Reopen": {"seq", "apps"},
    "History": {"seq", "app"},
    "Past": {"seq", "outcome", "ended", "started", "by"},
    "Welcome": {"seq", "software", "guest", "boot_id", "epoch"},
    "State": {"seq", "status", "boot_id", "epoch"},
    "Ended": {"seq", "app", "outcome", "health_output", "log_tail"},
    "Text": {"seq", "text", "remark"},
    "Done": {"seq", "text", "about"},
    "Refused": {"seq", "reason", "text"},
    "AppStatus": {
        *("app", "goal", "phase", "description", "run", "pid", "since", "started", "health"),
        *(
            "health_output",
            "owner",
            "owner_silent_for",
            "lease",
            "lease_over",
            "ends_within",
            "restarts",
            "restart_limit",
        ),
        *("restart_window", "next_in", "confined", "survivors", "definition", "restart_pending"),
        *(
            "oom_kills",
            "requires",
            "waits_for",
            "removed",
            "maintenance",
            "problem",
            "last",
            "announced",
            "status_text",
            "log_dropped",
        ),
    },
    "MaintenanceNotice": {"by", "since", "until", "over_in", "reason"},
    "Outcome": {"run", "cause", "status", "success", "detail"},
    "ExitStatus": {"code", "signal"},
}
REQUESTS, REPLIES = get_args(Request), get_args(Reply)
PARTS = (AppStatus, MaintenanceNotice, Outcome, ExitStatus)
# What a request may be made of: numbers, switches, and names.
PLAIN = {int, float, bool, str, str | None, tuple[str, ...]}


def fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


def parts_of(kind: Any) -> set[type[msgspec.Struct]]:
    """The structs in a type, and in those."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {kind}.union(*(parts_of(one.type) for one in fields(kind)))
    return set().union(*map(parts_of, get_args(kind)))


def test_all_that_can_be_said_is_listed() -> None:
    said = set().union(*map(parts_of, (*REQUESTS, *REPLIES)))
    assert said == {*REQUESTS, *REPLIES, *PARTS}
    assert {kind.__name__ for kind in said} == ALLOWED.keys()


@pytest.mark.parametrize("kind", [*REQUESTS, *REPLIES, *PARTS])
def test_no_message_has_a_field_that_nobody_has_thought_about(kind: type[msgspec.Struct]) -> None:
    assert {one.name for one in fields(kind)} == ALLOWED[kind.__name__]
    for one in fields(kind):
        for part in ("command", "argv", "path", "file", "user", "uid", "group", "env", "dir"):
            assert part not in one.name


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_is_made_of_names_numbers_and_switches(kind: type[Message]) -> None:
    assert {one.type for one in fields(kind)} <= PLAIN


def test_every_message_of_the_module_is_a_request_or_a_reply() -> None:
    defined = {
        one
        for one in vars(messages).values()
        if isinstance(one, type) and issubclass(one, Message) and one is not Message
    }
    assert defined == {*REQUESTS, *REPLIES}
    assert not {*REQUESTS} & {*REPLIES}


def test_tags_are_the_names_in_lower_case_and_unique() -> None:
    tags = [kind.__struct_config__.tag for kind in (*REQUESTS, *REPLIES)]
    assert tags == [kind.__name__.lower() for kind in (*REQUESTS, *REPLIES)]
    assert len(tags) == len(set(tags)) == 24
    assert {kind.__struct_config__.tag_field for kind in (*REQUESTS, *REPLIES)} == {"type"}


@pytest.mark.parametrize("kind", [*REQUESTS, *REPLIES])
def test_every_message_is_paired_by_its_first_field(kind: type[Message]) -> None:
    first = fields(kind)[0]
    assert (first.name, first.type, first.required) == ("seq", int, True)


@pytest.mark.parametrize("kind", [*REQUESTS, *REPLIES, *PARTS])
def test_what_was_said_cannot_be_changed_and_may_be_said_with_more(
    kind: type[msgspec.Struct],
) -> None:
    assert kind.__struct_config__.frozen
    assert not kind.__struct_config__.forbid_unknown_fields


# Numbers ---------------------------------------------------------------------------------

STATUS = AppStatus("a", Goal.UP, Phase.RUNNING)
YEAR_10000 = 253_402_300_800


def status(**fields: Any) -> State:
    return State(0, msgspec.structs.replace(STATUS, **fields), "b", "e")


def maintenance(since: float = 0.0, until: float = 0.0, over_in: float = 0.0) -> State:
    return status(maintenance=MaintenanceNotice("root", since, until, over_in))


def outcome(code: int | None = None, signal: int | None = None) -> Outcome:
    return Outcome("r", Cause.EXIT, ExitStatus(code, signal), success=False)


def read(message: Message) -> Any:
    return wire.replies().receive(wire.encode(message))[0]


@pytest.mark.parametrize(
    "message",
    [
        *(Ended(0, "a", outcome(code=code)) for code in (-1, 256, 300, 2**63)),
        *(Ended(0, "a", outcome(signal=signal)) for signal in (-1, 0, 65, 99_999)),
        *(status(last=outcome(code=code)) for code in (-1, 256)),
        *(Past(0, outcome(), ended) for ended in (-1.0, YEAR_10000, 1e308)),
        *(Past(0, outcome(), 0.0, started) for started in (-1.0, YEAR_10000)),
        *(status(since=instant) for instant in (-1.0, YEAR_10000)),
        *(status(started=instant) for instant in (-1.0, YEAR_10000)),
        *(maintenance(until=instant) for instant in (-1.0, YEAR_10000, 1e12, 1e300)),
        *(maintenance(since=instant) for instant in (-1.0, YEAR_10000)),
        *(maintenance(over_in=seconds) for seconds in (-1.0, 1e12)),
        *(status(lease=seconds) for seconds in (-1.0, 0.0, 1e-300, 1e12)),
        *(
            status(**{field: seconds})
            for field in ("owner_silent_for", "ends_within", "restart_window", "next_in")
            for seconds in (-1.0, 1e12, 1e308)
        ),
        *(
            status(**{field: -1})
            for field in ("pid", "restarts", "restart_limit", "oom_kills", "log_dropped")
        ),
        status(survivors=(1, -1)),
    ],
)
def test_a_number_that_no_guest_says_is_an_error(message: Message) -> None:
    with pytest.raises(RemoteProtocolError, match=r"Expected `(int|float)`"):
        read(message)


@pytest.mark.parametrize(
    "message",
    [
        *(Ended(0, "a", outcome(code=code)) for code in (0, 199, 255)),
        *(Ended(0, "a", outcome(signal=signal)) for signal in (1, 64)),
        Past(0, outcome(), YEAR_10000 - 1.0, started=0.0),
        maintenance(until=YEAR_10000 - 1.0, over_in=messages.MAX_MAINTENANCE),
        status(lease=5.0, ends_within=1.1e8, owner_silent_for=1e9, next_in=0.0, pid=2**22),
    ],
)
def test_what_a_guest_may_say_is_read(message: Message) -> None:
    assert read(message) == message
