"""Who may listen where cmappserver should: nobody that answers, or somebody else."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

from cmappd.system.tls import ALPN
from tests.certificates import Identity

Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def listening(talk: Talk | None = None) -> Iterator[int]:
    """A listener that talks to one connection after the other; without ``talk`` it never does.

    Gives its port. What is still open in the end is closed.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, talk))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, talk: Talk | None) -> None:
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        while True:
            connection = stack.enter_context(listener.accept()[0])
            if talk is not None:
                with contextlib.suppress(OSError):
                    talk(connection)
                    connection.recv(65536)  # until it hangs up, or has more to say


def speaks_ssh(connection: socket.socket) -> None:
    """A secure shell, which talks first."""
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def speaks_http(connection: socket.socket) -> None:
    """A web server, which does not understand."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def speaks_tls(identity: Identity, *protocols: str, words: bytes = b"") -> Talk:
    """Somebody with a good certificate who speaks something else over TLS, or nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*identity)
    if protocols:
        context.set_alpn_protocols(list(protocols))

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(65536)
            if words:
                secured.sendall(words)
            secured.recv(65536)

    return talk


OURS = ALPN
