"""The system's log by the socket /dev/log: a datagram a line, as the C library's syslog(3) has it.

That is the local form of RFC 3164: priority, local time and a tag, without the host, which every
syslog daemon adds. A line that was sent is given up at once, so that after a kill one line at the
most is sent a second time, and none is missing.
"""

import socket
import time
from collections.abc import Callable

from cmappd.system.log.lines import KEPT, Kept, Losses, pieces
from cmappd.system.log.outlet import FIRST_DELAY, Outlet
from cmappd.system.log.spool import Spool

SOCKET = "/dev/log"
# What the usual daemons take at once is 8 KiB, with what stands before the line.
LONGEST = 8 * 1024 - 128
_DAEMON, _WARNING, _INFO = 3 << 3, 4, 6  # syslog(3)


class SyslogLog:
    """Sends the lines of an application to syslog."""

    __slots__ = ("_app", "_kept", "_losses", "_outlet", "_spool", "_stuck", "listener")

    def __init__(self, app: str, spool_path: str) -> None:
        self.listener: Callable[[bytes], None] | None = None
        self._app = app
        self._outlet = Outlet(SOCKET, socket.SOCK_DGRAM)
        self._spool = Spool(spool_path)
        self._kept = Kept()
        self._losses = Losses()
        self._stuck = False  # whole lines wait

    @property
    def problem(self) -> str | None:
        """Why nothing gets to syslog, or lines are not kept."""
        return self._outlet.problem or self._spool.problem

    @property
    def dropped(self) -> int:
        """Lines that were lost."""
        return self._losses.total

    @property
    def untold(self) -> str:
        """What was lost and syslog was not told of yet."""
        return self._losses.untold(self._outlet.reason)

    @property
    def elsewhere(self) -> str:
        """Where it goes."""
        return f"to syslog (facility daemon, tag {self._app})"

    @property
    def pause(self) -> float:
        """Seconds to wait for syslog, with lines that nothing but time brings on."""
        return max(self._outlet.pause, FIRST_DELAY) if self._stuck else 0.0

    def move(self, pipe: int) -> int:
        """Take what a pipe holds, and send the lines that are whole."""
        taken = self._spool.take(pipe)
        if taken:
            self._heard(self._spool.waiting[-taken:])
        self._send_lines()
        return taken

    def write(self, data: bytes) -> None:
        """Send what came in another way."""
        self._spool.add(data)
        self._heard(data)
        self._send_lines()

    def finish(self) -> None:
        """Send what waits for the end of its line, as a line."""
        rest = self._spool.waiting
        if rest and self._deal_with(rest):
            self._spool.give_up(len(rest))

    def _send_lines(self) -> None:
        self._stuck = True
        for line, ended in pieces(self._spool.waiting, LONGEST):
            if not self._deal_with(line):
                return
            self._spool.give_up(len(line) + ended)
        self._stuck = False

    def _deal_with(self, line: bytes) -> bool:
        """Send a line, or lose it when it has waited long enough; False while it is to wait."""
        told = self._outlet.ready() and (not self._losses or self._tell())
        if told and self._send(_INFO, line):
            return True
        if self._outlet.patient:
            return False
        self._losses.add(line + b"\n")
        return True

    def _tell(self) -> bool:
        if not self._send(_WARNING, self._losses.notice(self._outlet.reason).encode()):
            return False
        self._losses.told()
        return True

    def _send(self, level: int, line: bytes) -> bool:
        now = time.strftime("%b %e %H:%M:%S")
        assert self._outlet.socket is not None
        try:
            self._outlet.socket.send(f"<{_DAEMON | level}>{now} {self._app}: ".encode() + line)
        except OSError as error:
            self._outlet.failed(error)
            return False
        self._outlet.worked()
        return True

    def _heard(self, data: bytes) -> None:
        self._kept.add(data)
        if self.listener is not None:
            self.listener(data)

    def reopen(self) -> None:
        """Connect anew with the next line."""
        self._outlet.reopen()

    def tail(self, lines: int, limit: int = KEPT, waiting: bytes = b"") -> str:
        """The last lines, as far as they are kept."""
        return self._kept.tail(lines, limit, waiting)

    def close(self) -> None:
        """Close it; what is not sent waits for the next server."""
        self._outlet.close()
        self._spool.close()
