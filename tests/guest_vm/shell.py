"""A guest's shell, from outside: its second serial port, which is a socket of QEMU's."""

import base64
import contextlib
import re
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

BOOT = 300.0  # seconds; alone it takes some ten, and this is a machine in software
PATIENCE = 120.0  # seconds for a command: TCG is slow, and so may the host be
_PIECE = 512  # bytes written to the serial line at once, less than its buffer


class Result(NamedTuple):
    """What came of a command: its exit code, and its output with its errors."""

    code: int
    output: str


class Shell:
    """Runs commands in a guest, as root, without the network."""

    def __init__(self, path: Path, console: Path, alive: Callable[[], bool]) -> None:
        """``console`` is what the kernel says, for people; ``alive`` is whether QEMU runs."""
        self.console = console
        self._path = path
        self._alive = alive
        self._socket: socket.socket | None = None
        self._said = b""

    def connect(self) -> None:
        """Wait until QEMU listens."""
        deadline = time.monotonic() + BOOT
        while self._socket is None:
            assert self._alive(), f"QEMU has ended: {self._console()}"
            assert time.monotonic() < deadline, "QEMU does not listen"
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(str(self._path))
                self._socket = line
            except OSError:
                line.close()
                time.sleep(0.05)

    def wait_booted(self) -> None:
        """Wait until the guest answers."""
        deadline = time.monotonic() + BOOT
        while not self.booted():
            assert self._alive(), f"QEMU has ended: {self._console()}"
            assert time.monotonic() < deadline, (
                f"it does not boot; its shell said {self._said!r}, its console: {self._console()}"
            )

    def booted(self) -> bool:
        """Whether the guest answers at once.

        What is sent before its shell is there is lost up to any byte. So no end of what is sent
        here opens anything, a quotation or a bracket, that all later commands would stand in.
        """
        with contextlib.suppress(AssertionError):
            self._ask("", 3.0, "the probe")
            return True
        return False

    def hang_up(self) -> None:
        """Leave the line to somebody else."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # Commands ------------------------------------------------------------------------

    def run(self, command: str, seconds: float = PATIENCE) -> Result:
        """Run a command of the guest's shell, as root, and wait for its end."""
        return self._ask(f"( {command}\n) 2>&1 </dev/null; ", seconds, command)

    def must(self, command: str, seconds: float = PATIENCE) -> str:
        """The output of a command that has to succeed."""
        result = self.run(command, seconds)
        assert result.code == 0, f"{command}: {result}"
        return result.output

    def tell(self, command: str) -> None:
        """Have a command run, of which no answer is expected."""
        self._send(f"{command}\n".encode())

    def until(self, command: str, seconds: float = PATIENCE) -> str:
        """The output of a command, tried until it succeeds."""
        deadline = time.monotonic() + seconds
        while (result := self.run(command)).code != 0:
            assert time.monotonic() < deadline, f"waited in vain: {command}: {result}"
            time.sleep(0.1)
        return result.output

    def write(self, path: str, text: str, mode: str = "600") -> None:
        """Write a file of the guest, with the directories above it."""
        encoded = base64.encodebytes(text.encode()).decode()
        self.must(
            f"mkdir -p $(dirname {path}); base64 -d >{path} <<'.'\n{encoded}.\nchmod {mode} {path}"
        )

    # The serial line -----------------------------------------------------------------

    def _ask(self, words: str, seconds: float, what: str) -> Result:
        """Send words for the shell; what they write, and their exit code, are before a mark.

        The backslash tells the mark from the words themselves, which a terminal may echo.
        """
        mark = secrets.token_hex(8)
        self._send(f"{words}echo {mark[:8]}\\{mark[8:]} $?\n".encode())
        end = re.compile(rb"(.*?)%s (\d+)\r?\n" % mark.encode(), re.DOTALL)
        found = self._hear(end, time.monotonic() + seconds, what)
        return Result(int(found[2]), found[1].decode(errors="replace").replace("\r\n", "\n"))

    def _send(self, data: bytes) -> None:
        assert self._socket is not None
        self._socket.settimeout(PATIENCE)
        for at in range(0, len(data), _PIECE):
            self._socket.sendall(data[at : at + _PIECE])

    def _hear(self, end: re.Pattern[bytes], deadline: float, what: str) -> re.Match[bytes]:
        assert self._socket is not None
        while (found := end.search(self._said)) is None:
            left = deadline - time.monotonic()
            assert left > 0, f"{what!r} does not end: {self._said!r}"
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                data = self._socket.recv(65536)
                assert data, f"the guest has ended: {self._console()}"
                self._said += data
        self._said = self._said[found.end() :]
        return found

    def _console(self) -> str:
        return self.console.read_text(errors="replace")[-2000:] if self.console.exists() else ""
