"""What the two ends can say at all: names only, and nothing that could be carried out.

Every field of every message is listed here. One that is added makes a test fail, so that
somebody asks what a peer, or a guest, could do with it.
"""

from typing import Any, get_args

import msgspec
import pytest

from cmappd.core import messages
from cmappd.core.messages import AppStatus, MaintenanceNotice, Message, Reply, Request
from cmappd.core.state import ExitStatus, Outcome

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
