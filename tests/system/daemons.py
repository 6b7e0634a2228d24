"""Daemons that logs are sent to: as the real ones read, and may be away, or asleep."""

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from cmappd.system.log.capture import Log

PATIENCE = 20.0


class Journald:
    """Reads streams as journald-stream.c of systemd does: seven lines of header, then lines."""

    def __init__(self, path: Path) -> None:
        self.headers: list[tuple[bytes, ...]] = []
        self.entries: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._path = path
        self._streams: dict[socket.socket, tuple[int, bytes]] = {}  # which, and the last line

    def read(self) -> None:
        """Read what there is."""
        while ready := select.select([self._listener, *self._streams], [], [], 0)[0]:
            for one in ready:
                if one is self._listener:
                    stream = self._listener.accept()[0]
                    self._streams[stream] = len(self.headers), b""
                    self.headers.append(())
                else:
                    self._read_stream(one)

    def _read_stream(self, stream: socket.socket) -> None:
        data = stream.recv(1 << 20)
        which, rest = self._streams[stream]
        *found, rest = (rest + data).split(b"\n")
        missing = 7 - len(self.headers[which])
        self.headers[which] += tuple(found[:missing])
        self.entries += found[missing:]
        self._streams[stream] = which, rest
        if not data:
            self.entries += [rest] if rest else []
            del self._streams[stream]
            stream.close()

    def close(self) -> None:
        for one in (self._listener, *self._streams):
            one.close()
        self._path.unlink()


class Syslogd:
    """Reads datagrams."""

    def __init__(self, path: Path) -> None:
        self.datagrams: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._path = path

    def read(self) -> None:
        """Read what there is."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.datagrams.append(self._socket.recv(1 << 16))

    def close(self) -> None:
        self._socket.close()
        self._path.unlink()


Some = TypeVar("Some", bound=Log)


class Feed(Generic[Some]):
    """A pipe into a log, pumped as the event loop does."""

    def __init__(self, log: Some) -> None:
        self.log = log
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK)

    def write(self, data: bytes) -> None:
        """Put it into the pipe, which must have room."""
        assert os.write(self._writing, data) == len(data)

    def pump(self) -> None:
        """Move what can be moved now."""
        time.sleep(min(self.log.pause, 0.01))
        while self.log.move(self._reading):
            pass

    def pump_until(
        self, daemon: Journald | Syslogd | None, condition: Callable[[], object]
    ) -> None:
        """Pump, and have the daemon read, until something is true."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            self.pump()
            if daemon is not None:
                daemon.read()

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)
        self.log.close()


@contextlib.contextmanager
def feeding(log: Some) -> Iterator[Feed[Some]]:
    feed = Feed(log)
    try:
        yield feed
    finally:
        feed.close()
