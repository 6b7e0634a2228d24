"""One connection to cmappserver, over TCP with TLS or over the unix socket; it never blocks.

The owner polls ``fileno()`` for ``events()``, not beyond ``deadline``, and calls ``work``: that
connects, shakes hands, writes what is waiting and gives the messages that came. Any failure is
one LinkError, which says whether trying again may help; the link is of no use after it.
"""

import os
import select
import socket
import ssl
import struct
import time
from collections import deque
from typing import NamedTuple

from cmappd import reasons
from cmappd.core import wire
from cmappd.core.certificate import parse
from cmappd.core.follow.actions import Failure
from cmappd.core.messages import Message, Reply
from cmappd.core.session import Session
from cmappd.core.wording import Line, expiring
from cmappd.errors import ConfigError, RemoteProtocolError, TlsError, UnfitCertificateError
from cmappd.system import tls

READ = 16 * 1024  # the longest TLS record: with less, OpenSSL would keep a rest poll cannot see
READS = 16  # at a time, so that a peer that floods us cannot keep us from the clock


class Address(NamedTuple):
    """Where to connect, as ``socket`` takes it."""

    family: int
    place: tuple[object, ...] | str


class Security(NamedTuple):
    """Our side of TLS, when our certificate ends, and the name the peer's must have."""

    context: ssl.SSLContext
    expiry: float
    server_name: str


class LinkError(Exception):
    """The link could not be opened, or has ended; ``errno`` is the system's word for it, if any."""

    def __init__(self, failure: Failure, errno: int | None = None) -> None:
        super().__init__(failure.text)
        self.failure = failure
        self.errno = errno


def resolve(host: str, port: int, hint: str = "") -> list[Address]:
    """All addresses of a host. Blocks, for names that are not in /etc/hosts.

    Raises LinkError, with the hint where there is one.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        text = f"cannot resolve {host!r}: {why}" + (f"; {hint}" if hint else "")
        raise LinkError(Failure(reasons.UNREACHABLE, text)) from None
    return [Address(family, place) for family, _, _, _, place in found]


class Link:
    """One connection. With several addresses, each gets its share of the time in turn."""

    def __init__(
        self, addresses: list[Address], security: Security | None, now: float, until: float
    ) -> None:
        self.ready = False  # messages may be sent
        self.deadline: float | None = until  # None when ready
        self._addresses = deque(addresses)
        self._security = security
        self._until = until
        self._socket: socket.socket | None = None
        self._connected = False
        self._wants = select.POLLOUT
        self._ends: dict[str, float] = {}  # whose certificate, and when it does
        self._outgoing = bytearray()
        self._receiver = wire.replies()
        self._session = Session()
        self._failure: LinkError | None = None
        nowhere = Failure(reasons.UNREACHABLE, "it has no address")
        self._next_address(now, LinkError(nowhere))

    def fileno(self) -> int:
        """What to poll; -1 once the link has failed."""
        return -1 if self._socket is None else self._socket.fileno()

    def events(self) -> int:
        """What to poll for."""
        if not self.ready:
            return self._wants
        return select.POLLIN | (select.POLLOUT if self._outgoing else 0)

    def work(self, now: float) -> list[Reply]:
        """Do what can be done without waiting. Raises LinkError."""
        if self._failure is not None:
            raise self._failure
        if not self.ready:
            self._open(now)
        if not self.ready:
            return []
        return self._read()

    def send(self, message: Message) -> None:
        """Send, now or when there is room. A link that has failed says so in ``work``."""
        self._session.sent(message)
        self._outgoing += wire.encode(message)
        self._flush()

    def peer_pid(self) -> int:
        """Who listens at the other end of a unix socket (unix(7), SO_PEERCRED)."""
        assert self._socket is not None
        size = struct.calcsize("3i")
        data = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("3i", data)[0])

    def expiring(self) -> list[Line]:
        """A warning for each of the two certificates that soon ends; for a link that is ready."""
        now = time.time()
        return [line for whose, end in self._ends.items() for line in expiring(whose, end, now)]

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._failure = self._failure or LinkError(Failure(reasons.UNREACHABLE, "closed"))

    # Opening ------------------------------------------------------------------------

    def _next_address(self, now: float, failure: LinkError) -> None:
        """Begin with the next address; when there is none, the failure is the link's."""
        while self._addresses:
            self.deadline = now + (self._until - now) / len(self._addresses)
            address = self._addresses.popleft()
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            try:
                self._connect(address)
                return
            except OSError as error:
                failure = _explain(error)
        self._failure = failure

    def _connect(self, address: Address) -> None:
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(address.family, kind)
        if address.family != socket.AF_UNIX:
            # A small frame behind another one would wait for the delayed acknowledgement: 40 ms.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wants = select.POLLOUT
        try:
            self._socket.connect(address.place)
        except BlockingIOError as error:
            if address.family == socket.AF_UNIX:  # unix(7): the backlog is full, nothing is begun
                raise ConnectionRefusedError(error.errno, "too many connections wait") from None

    def _open(self, now: float) -> None:
        try:
            if self.deadline is not None and now >= self.deadline:
                raise TimeoutError
            if not self._connected and self._is_connected():
                self._connected = True
                self._secure()
            if self._connected:
                self._shake_hands()
        except OSError as error:
            failure = _explain(error)
            if self._connected:
                raise failure from None
            self._next_address(now, failure)
            if self._failure is not None:
                raise self._failure from None

    def _is_connected(self) -> bool:
        assert self._socket is not None
        poller = select.poll()
        poller.register(self._socket, select.POLLOUT)
        if not poller.poll(0):
            return False
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        return True

    def _secure(self) -> None:
        if self._security is None:
            return
        assert self._socket is not None
        self._socket = self._security.context.wrap_socket(
            self._socket,
            do_handshake_on_connect=False,
            server_hostname=self._security.server_name,
        )

    def _shake_hands(self) -> None:
        try:
            if self._security is not None and isinstance(self._socket, ssl.SSLSocket):
                self._socket.do_handshake()
                peer = parse(self._socket.getpeercert(binary_form=True) or b"")
                self._ends = {"this host": self._security.expiry, "the guest": peer.end}
        except ssl.SSLWantReadError:
            self._wants = select.POLLIN
        except ssl.SSLWantWriteError:
            self._wants = select.POLLOUT
        else:
            self.ready = True
            self.deadline = None

    # Talking ------------------------------------------------------------------------

    def _read(self) -> list[Reply]:
        """What came; a failure after it is told by the next call."""
        assert self._socket is not None
        self._flush()
        messages: list[Reply] = []
        try:
            for _ in range(READS):
                data = self._socket.recv(READ)
                if not data:
                    raise ConnectionResetError("the peer closed the connection")
                messages += self._take(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return messages
        except RemoteProtocolError as error:
            self._failure = LinkError(Failure(reasons.PROTOCOL, str(error)))
        except OSError as error:
            self._failure = _explain(error)
        if self._failure is not None and not messages:
            raise self._failure
        return messages

    def _take(self, data: bytes) -> list[Reply]:
        messages = self._receiver.receive(data)
        for message in messages:
            self._session.received(message)
        return messages

    def _flush(self) -> None:
        if self._socket is None:
            return
        try:
            while self._outgoing:
                del self._outgoing[: self._socket.send(bytes(self._outgoing))]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            # The read that follows tells why: in TLS 1.3 the alert about our certificate.
            self._outgoing.clear()


def _explain(error: OSError) -> LinkError:
    if tls.is_foreign(error):
        reason = reasons.PROTOCOL
    elif tls.is_refusal(error):
        reason = reasons.TLS
    else:
        reason = reasons.UNREACHABLE
    return LinkError(Failure(reason, tls.explain(error)), error.errno)


def security(certificate: str, key: str, ca: str, server_name: str) -> Security:
    """Raises ConfigError where a file cannot be used, LinkError where the guest would refuse us."""
    try:
        context = tls.client_context(certificate, key, ca)
        return Security(context, tls.read_certificate(certificate).end, server_name)
    except UnfitCertificateError as error:
        raise LinkError(Failure(reasons.TLS, str(error))) from None
    except TlsError as error:
        raise ConfigError(str(error)) from None
