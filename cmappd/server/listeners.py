"""Where cmappserver listens: TCP addresses after the configuration, and the control socket."""

import asyncio
import contextlib
import os
import time

from cmappd.core.config import Address, Config, Tls
from cmappd.errors import CmappdError, ConfigError
from cmappd.server.certificates import load_certificates
from cmappd.server.connections import Connections, ControlConnection, ManagerConnection
from cmappd.server.peer import Office
from cmappd.system import tls

BACKLOG = 1024
EXPIRY_WARNING = 30 * 24 * 3600.0  # seconds before the end of a certificate


class Listeners:
    """The listening sockets, which follow the configuration."""

    def __init__(self, office: Office, connections: Connections) -> None:
        self._office = office
        self._connections = connections
        self._servers: dict[Address, asyncio.Server] = {}
        self._control: asyncio.Server | None = None
        self._path = ""
        self._warned = ""

    async def serve(self, config: Config) -> list[str]:
        """Follow the configuration as far as possible; gives the problems, a line each."""
        problems = self._use_certificates(config.tls)
        self._connections.recheck()
        wanted = set(config.server.listen) if self._connections.context is not None else set()
        for gone in self._servers.keys() - wanted:
            self._servers.pop(gone).close()
        for address in sorted(wanted - self._servers.keys()):
            try:
                self._servers[address] = await self._listen(address)
            except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host
                why = getattr(error, "strerror", None) or error
                problems.append(f"cannot listen on {address}: {why}")
        return problems

    def _use_certificates(self, section: Tls | None) -> list[str]:
        """New connections get the certificates as they are now; the old ones keep theirs."""
        if section is None:
            self._connections.context = None
            return []
        try:
            context = load_certificates(section)
            left = tls.expiry(section.certificate) - time.time()
        except CmappdError as error:
            return [str(error)]
        self._connections.context = context
        warning = f"certificate {section.certificate}: valid for {left / 86400:.0f} more days"
        if left < EXPIRY_WARNING and warning != self._warned:
            self._warned = warning
            self._office.world.log.warning("%s", warning)
        return []

    async def _listen(self, address: Address) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(
            lambda: ManagerConnection(self._connections),
            address.host,
            address.port,
            backlog=BACKLOG,
        )

    async def open_control(self, path: str) -> None:
        """Listen on the control socket. Raises ConfigError."""
        # asyncio removes the socket of an earlier server, and nothing else; the lock on the
        # state directory says that nobody uses it.
        mask = os.umask(0o177)
        try:
            self._control = await asyncio.get_running_loop().create_unix_server(
                lambda: ControlConnection(self._office, os.geteuid()), path, backlog=BACKLOG
            )
        except OSError as error:
            raise ConfigError(f"cannot listen on {path}: {error.strerror or error}") from error
        finally:
            os.umask(mask)
        self._path = path

    def close(self) -> None:
        """Take the name of the control socket away; the sockets end with the process.

        Closing them in the middle of an accept would make asyncio fail in the destructor of
        the half-made transport (Server._detach after Server.close), with a traceback.
        """
        if self._control is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
