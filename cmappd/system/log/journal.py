"""The journal of systemd, by its native stream: journald(8) makes an entry of each line.

The protocol is that of sd_journal_stream_fd(3), as journald-stream.c of systemd reads it: one
connection is one stream, and begins with seven lines that say what it is. The bytes themselves go
from the pipe to the socket inside the kernel, so that a server that is killed loses none of them.
"""

import os
import socket
from collections.abc import Callable

from cmappd.system.log.lines import KEPT, Kept, Losses
from cmappd.system.log.outlet import Outlet
from cmappd.system.log.pipes import peek, take

SOCKET = "/run/systemd/journal/stdout"
INFO = 6  # syslog(3); for lines that do not begin with a level of their own, such as "<3>"


def greeting(identifier: str) -> bytes:
    """Identifier, unit, level, whether lines begin with a level; then three kinds of forwarding."""
    return "".join(f"{line}\n" for line in (identifier, "", INFO, 1, 0, 0, 0)).encode()


class JournalLog:
    """Sends what an application writes to the journal."""

    __slots__ = ("_app", "_cut", "_kept", "_losses", "_outlet", "listener")

    def __init__(self, app: str) -> None:
        self.listener: Callable[[bytes], None] | None = None
        self._app = app
        self._outlet = Outlet(SOCKET, socket.SOCK_STREAM, greeting(app))
        self._kept = Kept()
        self._losses = Losses()
        self._cut = False  # what was sent last on this connection does not end with a line

    @property
    def problem(self) -> str | None:
        """Why nothing gets to the journal."""
        return self._outlet.problem

    @property
    def dropped(self) -> int:
        """Lines that were lost."""
        return self._losses.total

    @property
    def untold(self) -> str:
        """What was lost and the journal was not told of yet."""
        return self._losses.untold(self._outlet.reason)

    @property
    def elsewhere(self) -> str:
        """Where it goes."""
        return f"to the journal (journalctl -t {self._app})"

    @property
    def pause(self) -> float:
        """Seconds to wait for the journal."""
        return self._outlet.pause

    def move(self, pipe: int) -> int:
        """Send what a non-blocking pipe holds; or lose it, when it has waited long enough."""
        try:
            data = peek(pipe)
        except OSError:
            return self._move_unseen(pipe)
        if self._losses.in_line:
            moved = len(data) - len(self._losses.finish_line(data))
            take(pipe, moved)
        else:
            moved = self._send(lambda sock: os.splice(pipe, sock.fileno(), len(data)), data)
            if not moved and not self._outlet.patient:
                moved = len(take(pipe, len(data)))
                self._losses.add(data[:moved])
        self._heard(data[:moved])
        return moved

    def _move_unseen(self, pipe: int) -> int:
        """Read and send, where there is no free descriptor for a look into the pipe. What is read
        and does not go is lost.
        """
        if not self._outlet.ready() and self._outlet.patient:
            return 0
        data = take(pipe)
        self.write(data)
        return len(data)

    def write(self, data: bytes) -> None:
        """Send what came in another way."""
        self._heard(data)
        rest = self._losses.finish_line(data)
        sent = self._send(lambda sock: sock.send(rest), rest)
        self._losses.add(rest[sent:])

    def finish(self) -> None:
        """End the line that is not ended, so that the journal shows it."""
        if self._cut:
            self._send(lambda sock: sock.send(b"\n"), b"\n")

    def _send(self, send: Callable[[socket.socket], int], data: bytes) -> int:
        """How much of the data went; 0 while there is trouble."""
        if not data or not self._outlet.ready() or (self._losses and not self._tell()):
            return 0
        assert self._outlet.socket is not None
        try:
            sent = send(self._outlet.socket)
        except OSError as error:
            self._outlet.failed(error)
            self._cut = self._cut and self._outlet.socket is not None
            return 0
        self._outlet.worked()
        self._cut = not data[:sent].endswith(b"\n")
        return sent

    def _tell(self) -> bool:
        """Tell what was lost; whether that went."""
        notice = self._losses.notice(self._outlet.reason)
        line = f"{chr(10) if self._cut else ''}<4>{notice}\n".encode()
        assert self._outlet.socket is not None
        try:
            self._outlet.socket.send(line)
        except OSError as error:
            self._outlet.failed(error)
            return False
        self._losses.told()
        return True

    def _heard(self, data: bytes) -> None:
        if data:
            self._kept.add(data)
            if self.listener is not None:
                self.listener(data)

    def reopen(self) -> None:
        """Connect anew with the next line."""
        self.finish()
        self._outlet.reopen()

    def tail(self, lines: int, limit: int = KEPT, waiting: bytes = b"") -> str:
        """The last lines, as far as they are kept."""
        return self._kept.tail(lines, limit, waiting)

    def close(self) -> None:
        """End the stream."""
        self._outlet.close()
