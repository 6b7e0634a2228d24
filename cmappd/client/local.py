"""A call to the cmappserver of this guest, over its unix socket; or why there can be none."""

import errno
import os
import socket
import time

import cmappd
from cmappd.client.call import Call
from cmappd.client.link import Address, Link, LinkError
from cmappd.errors import CmappdError
from cmappd.system.paths import default_paths

SOFTWARE = f"cmappctl/{cmappd.__version__}"
CONNECT = 5.0  # seconds; the socket is on this machine

_OBSTACLES: dict[int | None, str] = {
    errno.ECONNREFUSED: "it is not running",
    errno.ENOENT: "it is not running, or it is configured to listen elsewhere (--socket)",
    errno.EACCES: "you may not ask it: root may, and the user that it runs as",
}


class UnreachableError(CmappdError):
    """There is nobody at the socket."""


def connect(wanted: str | None) -> Call:
    """Call the one at this socket, or at the usual one. Raises UnreachableError, RefusedError."""
    path = wanted or default_paths(os.geteuid() == 0, os.environ).control
    now = time.monotonic()
    link = Link([Address(socket.AF_UNIX, path)], None, now, now + CONNECT)
    try:
        return Call(link, SOFTWARE, os.urandom(8).hex(), now + CONNECT)
    except LinkError as error:
        why = _obstacle(error, link)
        raise UnreachableError(f"cannot reach cmappserver at {path}: {why}") from None


def _obstacle(error: LinkError, link: Link) -> str:
    if error.errno in _OBSTACLES:
        return _OBSTACLES[error.errno]
    pid = link.peer_pid()
    return f"{error} (pid {pid} listens there)" if pid > 0 else str(error)
