"""A socket to a daemon of this machine that may be slow, or away, and that comes back.

For some seconds what is to be sent waits where it is, and the writer with it, because a daemon that
is restarted is back soon. After that it is lost and counted, because no application is to wait for
a log for ever; and the daemon is still tried now and then.
"""

import errno
import os
import random
import socket
import time

HOLD = 5.0  # seconds for which an application waits for a daemon in trouble
FIRST_DELAY, LAST_DELAY = 0.001, 1.0  # seconds between two attempts


class Outlet:
    """A connection to a unix socket, made when it is needed. It never waits, and never raises."""

    __slots__ = (
        "_delay",
        "_greeting",
        "_kind",
        "_path",
        "_retry_at",
        "_since",
        "_why",
        "socket",
    )

    def __init__(self, path: str, kind: socket.SocketKind, greeting: bytes = b"") -> None:
        """`greeting` is sent first on each connection."""
        self._path = path
        self._kind = kind
        self._greeting = greeting
        self._delay = 0.0
        self._retry_at = 0.0
        self._since: float | None = None  # of the trouble
        self._why = ""
        self.socket: socket.socket | None = None

    def ready(self) -> bool:
        """Whether there is something to send to. Connects, if it is time for that."""
        if time.monotonic() < self._retry_at:
            return False
        if self.socket is None:
            try:
                self.socket = self._connect()
            except OSError as error:
                self.failed(error)
        return self.socket is not None

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, self._kind | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._path)
            if self._greeting:
                sock.sendall(self._greeting)
        except OSError:
            sock.close()
            raise
        return sock

    def worked(self) -> None:
        """Something was sent."""
        if self._since is not None:
            self._delay = self._retry_at = 0.0
            self._since = None

    def failed(self, error: OSError) -> None:
        """Something could not be sent: the daemon is slow, or the connection is of no use."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if isinstance(error, BlockingIOError):
            self._why = "it does not read what it is sent"
        else:
            self._why = os.strerror(error.errno or errno.EIO)
            self.close()
        self._delay = min(max(self._delay * 2, FIRST_DELAY), LAST_DELAY)
        self._retry_at = now + self._delay * (0.75 + random.random() / 4)  # noqa: S311

    @property
    def patient(self) -> bool:
        """Whether the trouble is so young that it is waited for."""
        return self._since is not None and time.monotonic() - self._since < HOLD

    @property
    def pause(self) -> float:
        """Seconds until another attempt; 0 where none is waited for."""
        return max(self._retry_at - time.monotonic(), FIRST_DELAY) if self.patient else 0.0

    @property
    def problem(self) -> str | None:
        """What the trouble is, if it is more than that the daemon reads slowly."""
        if self._since is None or (self.patient and self.socket is not None):
            return None
        return self.reason

    @property
    def reason(self) -> str:
        """What the trouble is, or was last."""
        return f"cannot write to {self._path}: {self._why}"

    def reopen(self) -> None:
        """Connect anew with the next thing to be sent, which is tried at once."""
        self.close()
        self._retry_at = 0.0

    def close(self) -> None:
        """End the connection."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
