"""Why cmappmgr exits: the one table of reasons and exit codes.

An application's own code passes through unchanged, 128 + N for a signal; the manager's
own reasons have a band that applications do not use. The manual's table is checked
against this one.
"""

from typing import NamedTuple


class Reason(NamedTuple):
    """One way for cmappmgr to end. ``code`` is None where the application's own is used."""

    name: str
    code: int | None
    meaning: str


STOPPED = Reason("stopped", 0, "stopped as this manager was asked")
SUCCESS = Reason("success", 0, "the application ended with a success code")
APP = Reason("app", None, "the application's own exit code, or 128+N for signal N")
USAGE = Reason("usage", 200, "wrong arguments or local configuration")
UNREACHABLE = Reason("unreachable", 201, "no connection within connect_timeout")
LOST = Reason("lost", 202, "the link was lost and not regained within lost_after")
TLS = Reason("tls", 203, "certificate or handshake refused, either way")
DENIED = Reason("denied", 204, "this manager may not drive this application")
UNKNOWN_APP = Reason("unknown-app", 205, "no such application in the guest")
BUSY = Reason("busy", 206, "another manager owns it")
NOT_STARTED = Reason("not-started", 207, "it could not be executed, or its start command failed")
NOT_READY = Reason("not-ready", 208, "it did not become ready within start.timeout")
UNHEALTHY = Reason("unhealthy", 209, "ended for failed health checks")
UNKNOWN_STATUS = Reason("unknown-status", 210, "it ended, and its status cannot be known")
GUEST_RESTARTED = Reason("guest-restarted", 211, "the guest rebooted under it")
OPERATOR = Reason("operator", 212, "stopped in the guest by its administrator")
PROTOCOL = Reason("protocol", 213, "incompatible or misbehaving peer")
OUT_OF_MEMORY = Reason(
    "out-of-memory", 214, "killed by the kernel for memory, where that can be known"
)
NOT_STOPPED = Reason("not-stopped", 215, "asked to stop, and the tree would not go")

ALL = (
    STOPPED,
    SUCCESS,
    APP,
    USAGE,
    UNREACHABLE,
    LOST,
    TLS,
    DENIED,
    UNKNOWN_APP,
    BUSY,
    NOT_STARTED,
    NOT_READY,
    UNHEALTHY,
    UNKNOWN_STATUS,
    GUEST_RESTARTED,
    OPERATOR,
    PROTOCOL,
    OUT_OF_MEMORY,
    NOT_STOPPED,
)

BY_NAME = {reason.name: reason for reason in ALL}
