"""Services for the tests of health checks: real sockets, each connection served in a thread."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Self

DEADLINE = 30.0  # seconds; a test that waits as long has failed

Serve = Callable[[socket.socket], None]


class Service:
    """Listens on a free port, and hands each connection to ``serve`` in a thread of its own.

    Leaving it ends all of them. ``serve`` need not care for a connection that breaks.
    """

    def __init__(
        self, serve: Serve, host: str = "127.0.0.1", context: ssl.SSLContext | None = None
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self.place = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://{self.place}/"
        self.accepted = 0
        self._serve = serve
        self._context = context
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._threads[0].join(DEADLINE)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(DEADLINE)
                self._connections.append(connection)
                thread = threading.Thread(target=self._handle, args=(connection,))
                self._threads.append(thread)
                self.accepted += 1
                thread.start()

    def _handle(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._context is None:
                self._serve(connection)
            else:
                self._serve_tls(connection, self._context)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def _serve_tls(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        """A client that ends without saying so in TLS is an ssl.SSLEOFError here."""
        with context.wrap_socket(
            connection, server_side=True, suppress_ragged_eofs=False
        ) as wrapped:
            self._serve(wrapped)
            wrapped.unwrap()


def read_request(connection: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("the request is not complete")
        data += more
    return data.decode("ascii")


def answer(*parts: bytes) -> Serve:
    """Read a request, and answer with these bytes whatever it is."""

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        for part in parts:
            connection.sendall(part)

    return serve


def page(body: bytes = b"", status: str = "200 OK", *fields: str) -> bytes:
    """An answer whose length is told."""
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields])
    return f"{head}\r\n\r\n".encode() + body


def flood(head: bytes, part: bytes) -> Serve:
    """Answer with a beginning, and then with the same again and again for ever."""

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        while True:
            connection.sendall(part)

    return serve


@contextlib.contextmanager
def silent(backlog: int = 16) -> Iterator[tuple[str, int]]:
    """A service that the kernel accepts connections for, and that never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listener:
        yield listener.getsockname()


@contextlib.contextmanager
def deaf() -> Iterator[tuple[str, int]]:
    """A service so busy that connections to it hang: its queue is full."""
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(silent(backlog=0))
        while True:
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0.3)
            try:
                waiting.connect(address)
            except TimeoutError:
                break
        yield address


@contextlib.contextmanager
def closed() -> Iterator[tuple[str, int]]:
    """A port that nobody listens on, and that nobody else can take."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()
