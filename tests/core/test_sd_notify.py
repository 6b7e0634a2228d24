"""The messages of applications, whatever their bytes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmappd.core.sd_notify import MAX_STATUS, NOTHING, Notification, parse
from cmappd.core.units import LONGEST

# What each known assignment comes out as.
KNOWN: dict[bytes, dict[str, Any]] = {
    b"READY=1": {"ready": True},
    b"RELOADING=1": {"reloading": True},
    b"STOPPING=1": {"stopping": True},
    "STATUS=Completed 66% of file system check…".encode(): {
        "status": "Completed 66% of file system check…"
    },
    b"MAINPID=4711": {"main_pid": 4711},
    b"WATCHDOG=1": {"watchdog": "ping"},
    b"WATCHDOG_USEC=20000000": {"watchdog_timeout": 20.0},
    b"EXTEND_TIMEOUT_USEC=1500000": {"extend_timeout": 1.5},
}
# What is read by nobody here, and must not be taken for anything else.
UNKNOWN = [
    *(b"READY=0", b"READY=", b"READY", b"READY=11", b"READY =1", b" READY=1", b"ready=1"),
    *(b"ERRNO=2", b"BUSERROR=org.example.Timeout", b"EXIT_STATUS=1", b"MONOTONIC_USEC=123"),
    *(b"FDSTORE=1", b"FDNAME=db", b"FDSTOREREMOVE=1", b"FDPOLL=0", b"NOTIFYACCESS=all"),
    *(b"X_EXAMPLE_READY=1", b"=1", b"=", b"", b"\xff\xfe=\x80", b"WATCHDOG=2", b"BARRIER=0"),
]


@pytest.mark.parametrize(("line", "fields"), KNOWN.items())
def test_each_known_assignment_comes_out(line: bytes, fields: dict[str, Any]) -> None:
    assert parse(line) == Notification(**fields)
    assert parse(line + b"\n") == Notification(**fields)


def test_a_message_may_say_several_things() -> None:
    said: dict[str, Any] = {}
    for fields in KNOWN.values():
        said |= fields
    assert parse(b"\n".join(KNOWN)) == Notification(**said)
    assert parse(b"\r\n".join(KNOWN)) == Notification(**said)


@pytest.mark.parametrize("line", UNKNOWN)
def test_what_is_unknown_is_ignored_and_the_rest_is_not(line: bytes) -> None:
    assert parse(line) == NOTHING
    around = b"MAINPID=7\n" + line + b"\nREADY=1"
    assert parse(around) == Notification(ready=True, main_pid=7)


def test_a_watchdog_is_pulled() -> None:
    assert parse(b"WATCHDOG=trigger") == Notification(watchdog="trigger")


def test_of_several_with_one_name_the_first_counts() -> None:
    assert parse(b"STATUS=one\nSTATUS=two").status == "one"
    assert parse(b"WATCHDOG=1\nWATCHDOG=trigger").watchdog == "ping"
    assert parse(b"MAINPID=none\nMAINPID=7").main_pid is None
    assert parse(b"READY=0\nREADY=1").ready


def test_a_value_may_have_an_equals_sign() -> None:
    assert parse(b"STATUS=a=b").status == "a=b"


def test_a_barrier_is_no_notification_and_neither_is_what_comes_with_it() -> None:
    assert parse(b"BARRIER=1") == NOTHING
    assert parse(b"READY=1\nBARRIER=1\n") == NOTHING


def test_a_nul_may_end_a_message_and_nothing_else() -> None:
    assert parse(b"READY=1\0") == Notification(ready=True)
    assert parse(b"READY=1\n\0") == Notification(ready=True)
    assert parse(b"READY=1\0\0") == NOTHING
    assert parse(b"READY=1\nSTATUS=a\0b") == NOTHING
    assert parse(b"\0") == NOTHING


def test_a_status_is_one_printable_line_of_bounded_length() -> None:
    assert parse(b"STATUS=").status == ""
    assert parse(b"STATUS=a\x1b[31m\tb\xc2\x85c\xe2\x80\xa8d").status == "a�[31m�b�c�d"
    assert parse(b"STATUS=" + b"x" * 4000).status == "x" * MAX_STATUS
    assert parse(b"STATUS=" + "é".encode() * 4000).status == "é" * MAX_STATUS


def test_a_status_that_is_not_utf8_is_ignored_and_the_rest_is_not() -> None:
    assert parse(b"STATUS=caf\xe9\nREADY=1") == Notification(ready=True)


@pytest.mark.parametrize(
    "value", [b"", b"0", b"-1", b"+7", b" 7", b"7 ", b"0x7", b"7.0", b"2147483648", b"9" * 4000]
)
def test_what_is_no_pid_is_ignored(value: bytes) -> None:
    assert parse(b"READY=1\nMAINPID=" + value) == Notification(ready=True)


@pytest.mark.parametrize("value", [b"1", b"4194304", b"2147483647", b"0000000007"])
def test_a_pid_is_any_positive_pid_t(value: bytes) -> None:
    assert parse(b"MAINPID=" + value).main_pid == int(value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b"1", 0.000001),
        (b"31536000000000", LONGEST),
        (b"31536000000001", LONGEST),
        (b"18446744073709551615", LONGEST),
        (b"18446744073709551616", None),
        (b"9" * 4000, None),
        (b"", None),
        (b"-1", None),
        (b"1.5", None),
        (b"10s", None),
        (b"infinity", None),
        ("\N{ARABIC-INDIC DIGIT ONE}".encode(), None),
    ],
)
@pytest.mark.parametrize("name", ["WATCHDOG_USEC", "EXTEND_TIMEOUT_USEC"])
def test_microseconds_are_seconds_that_any_clock_can_bear(
    name: str, value: bytes, seconds: float | None
) -> None:
    said = parse(name.encode() + b"=" + value)
    assert (said.watchdog_timeout, said.extend_timeout) == (
        (seconds, None) if name == "WATCHDOG_USEC" else (None, seconds)
    )


def check_bounds(said: Notification) -> None:
    assert said.status is None or (said.status.isprintable() and len(said.status) <= MAX_STATUS)
    assert said.main_pid is None or 0 < said.main_pid < 2**31
    for seconds in (said.watchdog_timeout, said.extend_timeout):
        assert seconds is None or 0 <= seconds <= LONGEST


NAMES = [
    *(b"READY", b"STATUS", b"MAINPID", b"WATCHDOG", b"WATCHDOG_USEC", b"EXTEND_TIMEOUT_USEC"),
    *(b"RELOADING", b"STOPPING", b"BARRIER"),
]
VALUES = st.one_of(
    st.binary(max_size=30),
    st.integers(-(2**70), 2**70).map(lambda number: str(number).encode()),
    st.text(max_size=50).map(lambda text: text.encode(errors="surrogatepass")),
)
ASSIGNMENTS = st.tuples(st.sampled_from(NAMES), VALUES).map(b"=".join)


@given(st.binary(max_size=5000))
def test_any_bytes_are_read(data: bytes) -> None:
    check_bounds(parse(data))


@given(st.lists(ASSIGNMENTS | st.binary(max_size=20), max_size=10).map(b"\n".join))
def test_any_assignments_are_read(data: bytes) -> None:
    check_bounds(parse(data))


# No WATCHDOG, of which the first would count; no NUL, which spoils the message.
OTHERS = st.one_of(
    st.sampled_from([line for line in UNKNOWN if not line.startswith(b"WATCHDOG")]),
    st.binary(max_size=20).map(lambda line: b"X_" + line.translate(None, b"\0\r\n")),
)


@given(st.data())
def test_known_assignments_come_out_of_any_crowd(data: st.DataObject) -> None:
    known = data.draw(st.sets(st.sampled_from(sorted(KNOWN))))
    lines = data.draw(st.lists(OTHERS, max_size=5).map(lambda others: [*known, *others]))
    said: dict[str, Any] = {}
    for line in known:
        said |= KNOWN[line]
    assert parse(b"\n".join(data.draw(st.permutations(lines)))) == Notification(**said)
