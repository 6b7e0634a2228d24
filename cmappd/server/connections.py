"""Connections: bytes to and from a peer, by TLS or by the control socket.

An unauthenticated peer costs a socket and a TLS state, for ten seconds at most, and there is
a bound on how many there are: the oldest is cut for the next one. A peer that does not read
what it is sent is cut when that exceeds a bound, one that says nothing when its time is over.
"""

import asyncio
import resource
import socket
import ssl
import struct
import time
from typing import cast

from cmappd.core import wire
from cmappd.core.config.values import Address
from cmappd.core.messages import Refused
from cmappd.core.session import Identity
from cmappd.errors import TlsError
from cmappd.server.complaints import Complaints
from cmappd.server.office import Office
from cmappd.server.peer import Peer
from cmappd.system.tls import TlsPipe, peer_name

HANDSHAKE_TIMEOUT = 10.0  # seconds from the connection to the first word of a known peer
IDLE_TIMEOUT = 90.0  # seconds; a manager polls every 30 s at the least
LINGER = 5.0  # seconds to read what was sent before the end
MAX_UNKNOWN = 128  # connections without a known peer
MAX_KNOWN = 4096  # connections of known managers; those of one name may be half of them
MAX_UNSENT = 2 * 1024 * 1024  # bytes that a peer has not read


class Connections:
    """All connections by TLS, so that those whose time is over can be cut.

    Unknown is whom [managers] does not name, too: it costs as little, and as briefly.
    """

    def __init__(self, office: Office) -> None:
        self.office = office
        self.complaints = Complaints(office.world.log)
        self.context: ssl.SSLContext | None = None  # for the next ones
        self._unknown: dict[ManagerConnection, float] = {}  # since when, the oldest first
        self._known: dict[str, set[ManagerConnection]] = {}  # by the names of their managers
        # Of the descriptors there are, applications and their logs need some.
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_unknown = min(MAX_UNKNOWN, files // 4)
        self._max_known = min(MAX_KNOWN, files // 2)
        self._closed = False

    def opened(self, connection: "ManagerConnection") -> None:
        """Count an unknown peer in; the oldest goes where there are too many."""
        if self._closed:  # asyncio had accepted it before the listeners were stopped
            connection.hang_up()
            return
        if len(self._unknown) >= self._max_unknown:
            next(iter(self._unknown)).cut("too many connections are not authenticated")
        self._unknown[connection] = time.monotonic()

    def authenticated(self, connection: "ManagerConnection", name: str) -> bool:
        """It is known now who it is; False where there are too many of them."""
        of_name = self._known.get(name, ())
        count = sum(map(len, self._known.values()))
        if count >= self._max_known or len(of_name) >= self._max_known // 2:
            return False
        self._unknown.pop(connection, None)
        self._known.setdefault(name, set()).add(connection)
        return True

    def closed(self, connection: "ManagerConnection", name: str) -> None:
        """It is gone."""
        self._unknown.pop(connection, None)
        of_name = self._known.get(name, set())
        of_name.discard(connection)
        if not of_name:
            self._known.pop(name, None)

    def _all_known(self) -> list["ManagerConnection"]:
        return [one for of_name in self._known.values() for one in of_name]

    def sweep(self) -> None:
        """Cut those whose time is over. To be called every second or so."""
        now = time.monotonic()
        late = [one for one, since in self._unknown.items() if now - since > HANDSHAKE_TIMEOUT]
        for connection in late:
            connection.expire()
        for connection in self._all_known():
            connection.look(now)

    def recheck(self) -> None:
        """Part from the managers that the configuration has taken something from."""
        for connection in self._all_known():
            connection.recheck()

    def hang_up(self) -> int:
        """End all of them; how many there were. Who may still come comes again, and is verified."""
        found = [*self._unknown, *self._all_known()]
        for connection in found:
            connection.part()
        return len(found)

    def close(self) -> None:
        """End all of them when what they were sent is on its way, and those that still come."""
        self._closed = True
        for connection in (*self._unknown, *self._all_known()):
            connection.hang_up()


class ManagerConnection(asyncio.Protocol):
    """A TLS connection from its first byte; a peer once the handshake has shown who it is."""

    __slots__ = ("_address", "_connections", "_leaving", "_peer", "_pipe", "_transport", "heard")

    def __init__(self, connections: Connections) -> None:
        if connections.context is None:  # asyncio had accepted it before [tls] was removed
            raise ConnectionAbortedError("managers are not served any more")
        self._connections = connections
        self._pipe = TlsPipe(connections.context)
        self._peer: Peer | None = None
        self._address = ""
        self._leaving: float | None = None  # since when it is hung up on
        self.heard = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = cast(socket.socket, transport.get_extra_info("socket"))
        # A push must not wait for the acknowledgement of the one before: that took 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._address = str(Address(*transport.get_extra_info("peername")[:2]))
        self.heard = time.monotonic()
        self._connections.opened(self)

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        try:
            chunks = self._pipe.receive(data)
        except TlsError as error:
            self._flush()
            self.cut(str(error))
            return
        if self._peer is None and self._pipe.established:
            self._greet()
        self._flush()
        for chunk in chunks:
            if self._peer is not None and not self._peer.over:
                self._peer.receive(chunk)
        if self._pipe.closed and not (self._peer is not None and self._peer.busy):
            self.hang_up()

    def look(self, now: float) -> None:
        """Cut it where its time is over."""
        waits = self._peer is not None and self._peer.waits
        if self._leaving is not None and now - self._leaving > LINGER:
            self.cut("it does not read what it is sent")
        elif not waits and now - self.heard > IDLE_TIMEOUT:
            self.cut("nothing was heard of it")

    def expire(self) -> None:
        """Cut what is unknown, and has had its time."""
        if self._peer is None:
            self.cut("no handshake in time")
        else:
            self.cut(f"there is no [managers.{self._peer.name}]")

    def recheck(self) -> None:
        """Look again at what the peer may drive."""
        if self._peer is not None:
            self._peer.recheck()

    def part(self) -> None:
        """Hear nothing more, and hang up."""
        if self._peer is not None:
            self._peer.over = True
        self.hang_up()

    def _greet(self) -> None:
        try:
            name = peer_name(self._pipe.ssl_object)
        except TlsError as error:
            self.write(wire.encode(Refused(0, "tls", str(error))))
            self.cut(str(error))
            return
        peer = Peer(self._connections.office, Identity(name, administrator=False), self)
        if peer.known and not self._connections.authenticated(self, name):
            self.cut(f"there are too many connections, also of {name}")
            return
        self._peer = peer

    def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        # Before it is added to: one long answer is no fault of who asked for it.
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            self.cut("it does not read what it is sent")
            return
        try:
            self._pipe.send(data)
        except TlsError as error:
            self.cut(str(error))
            return
        self._flush()

    def _flush(self) -> None:
        data = self._pipe.outgoing()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        if self._pipe.closed:  # it has been served, and says no more
            self.hang_up()
        else:
            self._transport.resume_reading()

    def complain(self, what: str, text: str) -> None:
        assert self._peer is not None
        name = self._peer.name
        self._connections.complaints.add(f"{what} of {name}", f"{name} at {self._address}: {text}")

    def hang_up(self) -> None:
        """End the connection when what was sent is on its way."""
        if not self._transport.is_closing():
            self._leaving = time.monotonic()
            self._pipe.close()
            self._flush()
            self._transport.close()

    def cut(self, why: str) -> None:
        """End the connection: with a peer at once, whatever was not sent yet; with others when
        that is on its way, such as the alert that says why.
        """
        self._connections.closed(self, self._name)
        if self._peer is None:
            text = f"{self._address}: disconnected: {why}"
            self._connections.complaints.add("connections refused", text)
            self._transport.close()
            return
        self.complain("disconnections", f"disconnected: {why}")
        self._peer.over = True
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.closed(self, self._name)
        if self._peer is not None:
            self._peer.parted()

    @property
    def _name(self) -> str:
        return self._peer.name if self._peer is not None else ""


class ControlConnection(asyncio.Protocol):
    """A connection by the control socket; the kernel says whose it is."""

    def __init__(self, office: Office, owner: int) -> None:
        self._office = office
        self._owner = owner  # the uid that may come, beside root

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        uid = _peer_uid(cast(socket.socket, transport.get_extra_info("socket")))
        if uid not in (0, self._owner):
            self._office.world.log.warning("control socket: uid %d is refused", uid)
            self._transport.abort()
        identity = Identity(f"uid {uid}", administrator=True)
        self._peer = Peer(self._office, identity, self)

    def data_received(self, data: bytes) -> None:
        self._peer.receive(data)

    def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            self._peer.over = True
            self._transport.abort()
            return
        self._transport.write(data)

    def hang_up(self) -> None:
        self._transport.close()

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    def complain(self, what: str, text: str) -> None:
        self._office.world.log.warning("%s: %s", self._peer.name, text)

    def pause_writing(self) -> None:
        self._peer.reader.pause()

    def resume_writing(self) -> None:
        self._peer.reader.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer.parted()


def _peer_uid(sock: socket.socket) -> int:
    """The uid of the process that has connected (unix(7), SO_PEERCRED)."""
    size = struct.calcsize("3i")
    _pid, uid, _gid = struct.unpack(
        "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return int(uid)
