"""Tells the service manager how we are (sd_notify(3)), where there is one that asks."""

import contextlib
import os
import socket


def notify(*assignments: str) -> None:
    """Send lines like ``READY=1`` to $NOTIFY_SOCKET, if it is set. Never fails, never waits."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    # Whoever asked is gone, or does not listen; or we have no descriptor: nothing depends on it.
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.setblocking(False)
        sock.sendto("\n".join(assignments).encode(), _abstract(address))


def _abstract(address: str) -> str:
    return "\0" + address[1:] if address.startswith("@") else address


def watchdog_interval() -> float | None:
    """Seconds within which ``WATCHDOG=1`` is expected of us (sd_watchdog_enabled(3)), if it is."""
    interval = os.environ.get("WATCHDOG_USEC", "")
    meant = os.environ.get("WATCHDOG_PID", "")
    if not (interval.isascii() and interval.isdecimal() and int(interval)):
        return None
    return None if meant and meant != str(os.getpid()) else int(interval) / 1_000_000
