"""The managers of many applications in one process: connections that claim, and poll.

Arguments: host, port, certificate, key, authority, server's name, and the applications.
"""

import asyncio
import resource
import ssl
import sys

from cmappd.system.tls import TlsPipe, client_context

POLL_INTERVAL = 5.0  # seconds, as cmappmgr does
AT_ONCE = 32  # connections under way; cmappserver bounds those it does not know yet


class Manager(asyncio.Protocol):
    """One connection, which follows one application."""

    def __init__(self, context: ssl.SSLContext, server_name: str, app: str) -> None:
        self._pipe = TlsPipe(context, server_side=False, server_name=server_name)
        self._app = app
        self._greeted = False
        self._seq = 2
        self.claimed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        said = b"".join(self._pipe.receive(data))
        if self._pipe.established and not self._greeted:
            self._greeted = True
            hello = '{"type":"hello","seq":1,"software":"load","instance":"%s"}\n'
            claim = '{"type":"claim","seq":2,"app":"%s"}\n'
            self._pipe.send(((hello + claim) % (self._app, self._app)).encode())
        self._transport.write(self._pipe.outgoing())
        if b'"type":"state"' in said and not self.claimed.done():
            self.claimed.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        sys.exit(f"the connection for {self._app} was lost: {exc}")

    def poll(self) -> None:
        """Ask, and ask again after the interval."""
        self._seq += 1
        self._pipe.send(b'{"type":"poll","seq":%d}\n' % self._seq)
        self._transport.write(self._pipe.outgoing())
        asyncio.get_running_loop().call_later(POLL_INTERVAL, self.poll)


async def main() -> None:
    """Claim all, say so, and poll for ever, each in its own moment of the interval."""
    host, port, certificate, key, ca, name, *apps = sys.argv[1:]
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = client_context(certificate, key, ca)
    loop, gate = asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)

    async def claim(app: str) -> Manager:
        async with gate:
            _, manager = await loop.create_connection(
                lambda: Manager(context, name, app), host, int(port)
            )
            await manager.claimed
            return manager

    managers = await asyncio.gather(*map(claim, apps))
    for number, manager in enumerate(managers):
        loop.call_later(number / len(managers) * POLL_INTERVAL, manager.poll)
    print(f"claimed {len(managers)}", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
