"""The network between host and guest, which can freeze, break, and come back."""

import contextlib
import selectors
import socket
import struct
import threading

TICK = 0.02  # seconds after which an order is noticed
RESET = struct.pack("ii", 1, 0)  # SO_LINGER for no time: closing sends RST (tcp(7))


class Proxy:
    """Forwards TCP connections to a port of this machine, as long as it is told to."""

    def __init__(self, target: int) -> None:
        self._target = ("127.0.0.1", target)
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._others: dict[socket.socket, socket.socket] = {}
        self._frozen = self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.accepted = 0
        self._listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    # Orders --------------------------------------------------------------------------

    def freeze(self) -> None:
        """Carry nothing, and break nothing: as a paused network does."""
        with self._lock:
            self._frozen = True

    def thaw(self) -> None:
        """Carry what has waited, and all that follows."""
        with self._lock:
            self._frozen = False

    def stall(self) -> None:
        """Carry no new connections: they wait, as before a host that is too busy for them."""
        with self._lock:
            self._selector.unregister(self._listener)

    def reset(self) -> None:
        """Break all connections; new ones are taken."""
        with self._lock:
            for sock in tuple(self._others):
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self._drop(sock)

    def close_port(self) -> None:
        """Break all connections, and refuse new ones."""
        with self._lock:
            self._selector.unregister(self._listener)
            self._listener.close()
        self.reset()

    def open_port(self) -> None:
        """Take new connections again."""
        with self._lock:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listen()

    def close(self) -> None:
        """End it."""
        self._closed = True
        self._thread.join()
        self.reset()
        self._listener.close()
        self._selector.close()

    # The thread ----------------------------------------------------------------------

    def _listen(self) -> None:
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _serve(self) -> None:
        while not self._closed:
            ready = self._selector.select(TICK) if self._selector.get_map() else []
            with self._lock:
                if not self._frozen:
                    for key, _ in ready:
                        self._carry(key.fileobj)
            if self._frozen or not ready:
                threading.Event().wait(TICK)

    def _carry(self, sock: object) -> None:
        if sock is self._listener:
            self._accept()
        elif isinstance(sock, socket.socket) and sock in self._others:
            try:
                data = sock.recv(65536)
                self._others[sock].sendall(data)
            except OSError:
                data = b""
            if not data:
                self._drop(sock)

    def _accept(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        try:
            far = socket.create_connection(self._target)
        except OSError:
            near.close()
            return
        self.accepted += 1
        self._others |= {near: far, far: near}
        for sock in (near, far):
            self._selector.register(sock, selectors.EVENT_READ)

    def _drop(self, sock: socket.socket) -> None:
        other = self._others.pop(sock, None)
        if other is not None:
            self._selector.unregister(sock)
            sock.close()
            self._drop(other)
