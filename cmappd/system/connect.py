"""Connections to services, within a time limit, that leave nothing behind: TCP, and TLS over it.

Sockets are driven directly: asyncio's transports close a turn of the loop later, and those for
TLS only when the peer has agreed. Who is cancelled here has closed the socket by then, and there
are no tasks.

Names are looked up in threads, because nothing ends getaddrinfo(3) before the resolver gives up.
Nobody waits for such a thread beyond the time limit, and the next who asks for the same name
waits for the same thread. Addresses, and localhost (RFC 6761, section 6.3), need none.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from cmappd.core.config.values import Address
from cmappd.errors import LaunchError, TlsError
from cmappd.system.tls import TlsPipe

MAX_THREADS = 256  # that wait for a resolver
MAX_ADDRESSES = 8  # that are tried of one name
RECEIVE_LIMIT = 1024 * 1024  # bytes that are taken from one connection
_CHUNK = 16 * 1024  # bytes that one turn of the loop takes

T = TypeVar("T")
SocketAddress = tuple[Any, ...]  # of AF_INET or AF_INET6: host, port, and what the latter adds


class NotConnected(Exception):
    """There is no connection, or no more; the text is the end of a sentence: "... was refused"."""


class Attempt:
    """A time limit in seconds, and how far somebody has come within it."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._deadline = asyncio.get_running_loop().time() + limit
        self.step = ""  # the end of the sentence "it gave no answer, while ..."
        self.peer = ""  # the address that is being talked to

    def left(self) -> float:
        """The seconds that are left."""
        return self._deadline - asyncio.get_running_loop().time()

    def late(self) -> str:
        """What is to be said when the time is over."""
        return f"gave no answer within {self._limit:g}s, while {self.step}"


async def connect(host: str, port: int, attempt: Attempt) -> socket.socket:
    """A connection to the first address of ``host`` that accepts one. Raises NotConnected.

    One address that does not answer leaves the others their share of the time.
    """
    attempt.step = f"looking up {host}"
    failures = []
    addresses = await _look_up(host, port)
    for left, (family, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        attempt.peer = _text(address)
        attempt.step = f"connecting to {attempt.peer}"
        share = attempt.left() / left if left > 1 else None
        try:
            async with asyncio.timeout(share):
                return await _connect_to(family, address)
        except ConnectionRefusedError:
            failures.append(f"was refused by {attempt.peer}")
        except TimeoutError:
            failures.append(f"got no answer from {attempt.peer}")
        except OSError as error:
            failures.append(f"could not reach {attempt.peer}: {error.strerror}")
    raise NotConnected(" and ".join(failures))


def _text(address: SocketAddress) -> str:
    return str(Address(*address[:2]))


async def _connect_to(family: int, address: SocketAddress) -> socket.socket:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
        if _is_itself(sock):
            raise ConnectionRefusedError
        stack.pop_all()
        return sock


def _is_itself(sock: socket.socket) -> bool:
    """Whether there is nobody at the other end but this socket.

    That happens where nobody listens on a port of the range that local ports are taken from,
    and the kernel takes just this one: both ends open at once (RFC 9293, section 3.5).
    """
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:  # it was accepted, and reset since
        return False


async def part(sock: socket.socket, limit: float) -> None:
    """End a connection in order: say so, and wait for the peer to do the same.

    Closing it while something unread is there, or comes, would send a reset, and servers log
    that as an error. After ``limit`` seconds it is left to that.
    """
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(limit):
            # It is the peer that is waited for; the sleep is the turn of others.
            while await asyncio.get_running_loop().sock_recv(sock, _CHUNK):  # noqa: ASYNC110
                await asyncio.sleep(0)


# Names -------------------------------------------------------------------------------


async def _look_up(host: str, port: int) -> list[tuple[int, SocketAddress]]:
    if host.lower().rstrip(".") == "localhost":
        return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port))]
    look = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        try:
            found = look(flags=socket.AI_NUMERICHOST)  # asks nobody
        except socket.gaierror:
            found = await _in_thread((host, port), look)
    except (OSError, ValueError) as error:  # ValueError: what can be no name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise NotConnected(f"could not look up {host}: {reason}") from None
    return [(family, address) for family, _, _, _, address in found[:MAX_ADDRESSES]]


_threads: dict[Hashable, Future[Any]] = {}


async def _in_thread(key: Hashable, work: Callable[[], T]) -> T:
    """What comes of work that blocks; the same work is not begun twice at once.

    Raises LaunchError where there cannot be another thread, and what the work raises.
    """
    future = _threads.get(key)
    if future is None:
        if len(_threads) >= MAX_THREADS:
            raise LaunchError(f"{MAX_THREADS} names are being looked up already")
        future = _threads[key] = Future()
        future.set_running_or_notify_cancel()  # whoever stops waiting does not cancel it
        try:
            threading.Thread(target=_work, args=(key, future, work), daemon=True).start()
        except RuntimeError as error:
            del _threads[key]
            raise LaunchError(f"the system cannot start a thread: {error}") from None
    return await asyncio.wrap_future(future)


def _work(key: Hashable, future: Future[T], work: Callable[[], T]) -> None:
    """Not an executor's: the end of the program would wait for those threads."""
    try:
        result = work()
    except Exception as error:  # noqa: BLE001 - it is for those who wait
        del _threads[key]
        future.set_exception(error)
    else:
        del _threads[key]
        future.set_result(result)


# TLS ---------------------------------------------------------------------------------

_contexts: dict[bool, tuple[Hashable, ssl.SSLContext]] = {}


async def client_context(verify: bool) -> ssl.SSLContext:
    """For a client that trusts the authorities in the system's store, or without ``verify`` all.

    Reading the store takes some 40 ms, so that is done again only when it has changed.
    """
    stamp = _store_stamp() if verify else ()
    known, context = _contexts.get(verify, (None, None))
    if context is None or known != stamp:
        context = await _in_thread((verify, stamp), partial(_new_context, verify))
        _contexts[verify] = (stamp, context)
    return context


def _store_stamp() -> Hashable:
    """What is different when the store is."""
    paths = ssl.get_default_verify_paths()
    found = []
    for path in (paths.cafile, paths.capath):
        with contextlib.suppress(OSError, TypeError):  # TypeError: None, there is no such path
            state = os.stat(path)
            found.append((path, state.st_ino, state.st_mtime_ns))
    return tuple(found)


def _new_context(verify: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    if verify:
        context.load_default_certs()
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Stream:
    """The bytes of a connection, through TLS where there is a pipe for it."""

    def __init__(self, sock: socket.socket, peer: str, pipe: TlsPipe | None) -> None:
        self._sock = sock
        self._peer = peer
        self._pipe = pipe
        self._received = 0
        self._loop = asyncio.get_running_loop()

    async def shake_hands(self) -> None:
        """To be called before anything else where there is TLS. Raises NotConnected."""
        assert self._pipe is not None
        await self._decrypt(self._pipe, b"")
        while not self._pipe.established:
            data = await self._receive()
            if not data:
                raise NotConnected(f"got no TLS from {self._peer}: it closed the connection")
            await self._decrypt(self._pipe, data)  # what comes with it answers no question

    async def send(self, data: bytes) -> None:
        """Never raises: where this fails, what is read next says why, by an alert for example."""
        with contextlib.suppress(OSError, TlsError):
            if self._pipe is not None:
                self._pipe.send(data)
                data = self._pipe.outgoing()
            await self._loop.sock_sendall(self._sock, data)

    async def receive(self) -> bytes:
        """What has come, and nothing at the end. Raises NotConnected."""
        while True:
            data = await self._receive()
            if self._pipe is None or not data:
                return data
            chunks = await self._decrypt(self._pipe, data)
            if chunks or self._pipe.closed:
                return b"".join(chunks)

    def close(self) -> None:
        """Say in TLS that this is the end; the socket is its owner's to close."""
        if self._pipe is not None:
            self._pipe.close()
            with contextlib.suppress(OSError):
                self._sock.send(self._pipe.outgoing())

    async def _receive(self) -> bytes:
        await asyncio.sleep(0)  # what is there already would be taken without a turn of the loop
        try:
            data = await self._loop.sock_recv(self._sock, _CHUNK)
        except OSError as error:
            raise NotConnected(f"lost its connection to {self._peer}: {error.strerror}") from None
        self._received += len(data)
        if self._received > RECEIVE_LIMIT:
            raise NotConnected(f"sent {RECEIVE_LIMIT // 1024} KiB without coming to an end")
        return data

    async def _decrypt(self, pipe: TlsPipe, data: bytes) -> list[bytes]:
        try:
            return pipe.receive(data)
        except TlsError as error:
            raise NotConnected(self._explain(error)) from None
        finally:
            with contextlib.suppress(OSError):
                await self._loop.sock_sendall(self._sock, pipe.outgoing())

    def _explain(self, error: TlsError) -> str:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            why = error.__cause__.verify_message.rstrip(".")
            whose = f"the certificate of {self._peer}"
            return f"could not trust {whose}: {why}; http_verify = false would accept it"
        return f"could not speak TLS with {self._peer}: {error}"
