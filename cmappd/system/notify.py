"""Tells the service manager how we are (sd_notify(3)), where there is one that asks."""

import os
import socket


def notify(*assignments: str) -> None:
    """Send lines like ``READY=1`` to $NOTIFY_SOCKET, if it is set. Never fails, never waits."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        try:
            sock.sendto("\n".join(assignments).encode(), _abstract(address))
        except OSError:
            return  # whoever asked is gone, or does not listen: nothing depends on it


def _abstract(address: str) -> str:
    return "\0" + address[1:] if address.startswith("@") else address
