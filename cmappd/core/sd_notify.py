"""What an application says of itself: the messages of sd_notify(3), read from the bytes of one.

They are read as systemd reads them (sd_notify(3), "Well-known assignments"): a message is lines
of ``NAME=value``. Of several with one name the first counts. What is unknown, or cannot be read,
is ignored, line by line. ERRNO, EXIT_STATUS, MONOTONIC_USEC and the descriptors of FDSTORE are of
no use here, and are among the unknown.
"""

import re
from typing import Literal

import msgspec

from cmappd.core.units import LONGEST

# Characters of a status that are kept: as many as a description may have.
MAX_STATUS = 500
MAX_PID = 2**31 - 1
# The protocol's numbers are unsigned, of 64 bits.
_MICROSECONDS = re.compile(rb"[0-9]{1,20}")
_PID = re.compile(rb"[0-9]{1,10}")
_WATCHDOG: dict[bytes, Literal["ping", "trigger"]] = {b"1": "ping", b"trigger": "trigger"}


class Notification(msgspec.Struct, frozen=True):
    """One message; None, and False, where it says nothing of that.

    Anything may be claimed here by anyone who can send: that ``main_pid`` belongs to the
    application is for the caller to check. In systemd, stopping is final and goes before the other
    two, and reloading with ready is a reload that is over. Intervals are seconds, 365 days at most.
    """

    ready: bool = False
    reloading: bool = False
    stopping: bool = False
    status: str | None = None  # one printable line; "" takes back the one before
    main_pid: int | None = None
    watchdog: Literal["ping", "trigger"] | None = None
    watchdog_timeout: float | None = None  # WATCHDOG_USEC: a new interval; 0 turns it off
    extend_timeout: float | None = None  # EXTEND_TIMEOUT_USEC: how long until the next message


NOTHING = Notification()


def parse(data: bytes) -> Notification:
    """What one datagram says; of bytes that are no message, NOTHING. Never raises."""
    # Some clients send the NUL at the end of their string.
    data = data.removesuffix(b"\0")
    lines = data.splitlines()
    # sd_notify(3): what else comes with a barrier is ignored.
    if b"\0" in data or b"BARRIER=1" in lines:
        return NOTHING
    first: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b"=")
        first.setdefault(name, value)
    return Notification(
        ready=b"READY=1" in lines,
        reloading=b"RELOADING=1" in lines,
        stopping=b"STOPPING=1" in lines,
        status=_status(first.get(b"STATUS")),
        main_pid=_pid(first.get(b"MAINPID", b"")),
        watchdog=_WATCHDOG.get(first.get(b"WATCHDOG", b"")),
        watchdog_timeout=_seconds(first.get(b"WATCHDOG_USEC", b"")),
        extend_timeout=_seconds(first.get(b"EXTEND_TIMEOUT_USEC", b"")),
    )


def _status(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        text = value.decode()[:MAX_STATUS]
    except UnicodeDecodeError:
        return None
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _pid(value: bytes) -> int | None:
    pid = int(value) if _PID.fullmatch(value) else 0
    return pid if 0 < pid <= MAX_PID else None


def _seconds(microseconds: bytes) -> float | None:
    if not _MICROSECONDS.fullmatch(microseconds) or int(microseconds) >= 2**64:
        return None
    return min(int(microseconds) / 1_000_000, LONGEST)
