"""Where cmappserver listens: TCP addresses after the configuration, and the control socket."""

import asyncio
import contextlib
import math
import os
import socket
import stat
import time
from asyncio.trsock import TransportSocket
from collections.abc import AsyncIterator, Iterable
from functools import partial

from cmappd.core.config import Address, Config, Tls
from cmappd.errors import CmappdError
from cmappd.server.certificates import Certificates, ending, invalid, load_certificates
from cmappd.server.connections import Connections, ControlConnection, ManagerConnection
from cmappd.server.office import Office
from cmappd.server.reload import Service
from cmappd.system import files
from cmappd.system.handover import Handover

BACKLOG = 1024  # connections that the kernel keeps until they are accepted
# What asyncio calls the backlog is also how many it accepts in a turn; and how often it then says,
# and tries again, that there are no descriptors for them.
ACCEPTED_AT_ONCE = 1
CONTROL = "control"
DAY = 24 * 3600.0


class Listeners:
    """The listening sockets, which follow the configuration."""

    def __init__(self, office: Office, connections: Connections, given: Handover) -> None:
        self._office = office
        self._connections = connections
        self._given = given  # what a cmappserver in our place has opened before us
        self._servers: dict[Address, list[asyncio.Server]] = {}
        self._control: asyncio.Server | None = None
        self._path = ""
        self._certificates: Certificates | None = None
        self._invalid: list[str] = []  # of the certificates, as it was last told
        self._warned = -math.inf  # when it was last told what ends soon; monotonic seconds

    async def serve(self, config: Config) -> Service:
        """Follow the configuration as far as possible."""
        problems, renewed = self._use_certificates(config.tls)
        wanted = set(config.server.listen) if self._certificates is not None else set()
        for gone in self._servers.keys() - wanted:
            for server in self._servers.pop(gone):
                server.close()
        if not wanted:
            self._hang_up("managers are not served any more")
        self._connections.recheck()
        for address in sorted(wanted - self._servers.keys()):
            try:
                self._servers[address] = [one async for one in self._listen(address)]
            except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host
                why = getattr(error, "strerror", None) or error
                problems.append(f"cannot listen on {address}: {why}")
        return Service(problems, renewed)

    def _use_certificates(self, section: Tls | None) -> tuple[list[str], bool]:
        """New connections get what the files have now; who was verified against something else is
        to be verified again. The problems, and whether files have changed that are the same ones.
        """
        before = self._certificates
        if section is None:
            self._certificates = self._connections.context = None
            self._invalid = []
            return [], False
        try:
            found = load_certificates(section)
        except CmappdError as error:
            return [str(error), *self._look_at_validity()], False
        self._certificates, self._connections.context = found, found.context
        if before is not None and before.trust != found.trust:
            self._hang_up("the ca or the crl has changed")
        if before is None or before.content != found.content:
            self._warned = -math.inf
        self.warn()
        renewed = before is not None and before.content != found.content
        return self._look_at_validity(), renewed

    def _look_at_validity(self) -> list[str]:
        found = self._certificates
        self._invalid = invalid(found.periods, time.time()) if found is not None else []
        return self._invalid

    def _hang_up(self, why: str) -> None:
        count = self._connections.hang_up()
        if count:
            self._office.world.log.info("%s: all connections are ended (%d)", why, count)

    @property
    def outdated(self) -> bool:
        """Whether a certificate has come to its end, or its beginning, since that was told."""
        found = self._certificates
        return found is not None and invalid(found.periods, time.time()) != self._invalid

    def warn(self) -> None:
        """Log once a day what ends soon."""
        now = time.monotonic()
        if self._certificates is None or now - self._warned < DAY:
            return
        self._warned = now
        for text in ending(self._certificates.periods, time.time()):
            self._office.world.log.warning("%s", text)

    async def _listen(self, address: Address) -> AsyncIterator[asyncio.Server]:
        create = partial(
            asyncio.get_running_loop().create_server,
            lambda: ManagerConnection(self._connections),
            backlog=ACCEPTED_AT_ONCE,
        )
        given = self._given.take(_name(address))
        for fd in given:
            yield self._listening(await create(sock=socket.socket(fileno=fd)))
        if not given:
            yield self._listening(await create(address.host, address.port))

    def _listening(self, server: asyncio.Server) -> asyncio.Server:
        for one in server.sockets:
            host, port = one.getsockname()[:2]
            self._office.world.log.info("listening on %s", Address(host, port))
            _keep_waiting(one)
        return server

    async def open_control(self, path: str) -> None:
        """Listen on the control socket. Raises ConfigError."""
        given = self._given.take(f"{CONTROL} {path}")
        sock = socket.socket(fileno=given[0]) if given else socket.socket(socket.AF_UNIX)
        try:
            if not given:
                _bind(sock, path)
            self._control = await asyncio.get_running_loop().create_unix_server(
                lambda: ControlConnection(self._office, os.geteuid()),
                sock=sock,
                backlog=ACCEPTED_AT_ONCE,
            )
            _keep_waiting(sock)
        except OSError as error:
            sock.close()
            raise files.cannot(f"listen on {path}", error) from error
        self._path = path

    def pause(self) -> None:
        """Accept nobody any more: who connects waits for whoever is given the sockets."""
        for fds in self.descriptors().values():
            for fd in fds:
                asyncio.get_running_loop().remove_reader(fd)

    def descriptors(self) -> dict[str, list[int]]:
        """The sockets by names that tell another cmappserver what they are."""
        found = {_name(address): _fds(servers) for address, servers in self._servers.items()}
        if self._control is not None:
            found[f"{CONTROL} {self._path}"] = _fds([self._control])
        return found

    def close(self) -> None:
        """Accept nobody any more, and take the name of the control socket away.

        Who was accepted in the last turns of the loop would be a task that is destroyed pending.
        The sockets end with the process: closing them in the middle of an accept would make
        asyncio fail in the destructor of the half-made transport (Server._detach after
        Server.close), with a traceback.
        """
        self.pause()
        if self._control is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


def _name(address: Address) -> str:
    return f"listen {address}"


def _fds(servers: Iterable[asyncio.Server]) -> list[int]:
    return [sock.fileno() for server in servers for sock in server.sockets]


def _keep_waiting(sock: socket.socket | TransportSocket) -> None:
    """Have the kernel keep more of who comes than asyncio accepts at once."""
    with sock.dup() as same:
        same.listen(BACKLOG)


def _bind(sock: socket.socket, path: str) -> None:
    """Take the path for us alone, also where the socket of an earlier server has it: the lock on
    the state directory says that nobody uses that. Raises OSError.

    Nothing waits in here: what is launched meanwhile would inherit the umask.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)
    mask = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(mask)
