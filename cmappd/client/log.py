"""Where cmappmgr writes: standard error, syslog, and with ``--log-file`` a file. It never waits.

One line for each thing that happened, in local time::

    2026-11-22 11:40:01 cmappmgr oracle@guest1: running, pid 1234 (run oracle.5f3a.1)

and to syslog, as facility daemon, with the same text after the tag ``cmappmgr[PID]: ``. What a
line says of the application comes from the guest, so every character that does not print is
escaped: nobody can forge a line. Nor can a guest fill the disks of its host: of what it brings
about only so many lines are written a minute, and how many more there were is said. A full pipe,
a full disk, a closed descriptor or an absent syslog costs the line there, and nothing else.
"""

import os
import select
import socket
import time
from contextlib import suppress

from cmappd.core.budget import LINES, Budget
from cmappd.core.printable import printable
from cmappd.errors import UsageError

DAEMON = 3 << 3  # the facility, as syslog(3) counts
WARNING, INFO = 4, 6
LONGEST = 1000  # characters; a write of up to 4096 bytes to a pipe with room does not block


def cut(line: str) -> str:
    """The line, not longer than a line may be."""
    return line if len(line) <= LONGEST else line[:LONGEST] + "..."


class Log:
    """The three places. ``label`` says of what the lines are; ``device`` is syslog's socket."""

    def __init__(self, label: str, path: str | None = None, device: str = "/dev/log") -> None:
        """Raises UsageError where the file at ``path`` cannot be opened."""
        self.label = label
        self._path = None if path is None else os.path.abspath(path)
        self._device = device
        self._budget = Budget()
        self._file: int | None = None
        if self._path is not None:
            try:
                self._file = self._open(self._path)
            except OSError as error:
                raise UsageError(f"cannot write --log-file {path}: {error.strerror}") from None
        self._syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def write(self, text: str, severity: int = INFO) -> None:
        """Write one line everywhere; severities are syslog's."""
        left_out, self._budget.left_out = self._budget.left_out, 0
        if left_out:
            self._put(f"{left_out} more line{'' if left_out == 1 else 's'} left out", WARNING)
        self._put(text, severity)

    def note(self, text: str, severity: int = INFO) -> None:
        """Write what the guest can bring about at will, unless that is too much of it."""
        if self._budget.allows(time.monotonic()):
            self.write(text, severity)
        elif self._budget.left_out == 1:
            self._put(f"more than {LINES} lines in a minute: the rest is left out", WARNING)

    def _put(self, text: str, severity: int) -> None:
        line = cut(printable(f"{self.label}: {text}" if self.label else text))
        stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} cmappmgr {line}\n"
        data = stamped.encode(errors="backslashreplace")
        _write(2, data)
        if self._file is not None:
            _write(self._file, data)
        # A socket of our own instead of syslog(3), which waits for a syslogd that does not read.
        stamp = time.strftime("%b %e %H:%M:%S")
        record = f"<{DAEMON | severity}>{stamp} cmappmgr[{os.getpid()}]: {line}"
        with suppress(OSError):
            self._syslog.sendto(
                record.encode(errors="backslashreplace"), socket.MSG_DONTWAIT, self._device
            )

    def reopen(self) -> None:
        """Go on in a new file of the same name, or in the old one if there can be none."""
        if self._path is None:
            return
        try:
            new = self._open(self._path)
        except OSError as error:
            self.write(f"cannot reopen {self._path}: {error.strerror}", WARNING)
            return
        if self._file is not None:
            os.close(self._file)
        self._file = new

    def close(self) -> None:
        """Give back what is open; standard error stays."""
        self._syslog.close()
        if self._file is not None:
            os.close(self._file)

    @staticmethod
    def _open(path: str) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(path, flags, 0o640)


def _write(fd: int, data: bytes) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    with suppress(OSError):
        if any(mask & select.POLLOUT for _, mask in poller.poll(0)):
            os.write(fd, data)
