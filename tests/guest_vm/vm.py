"""One guest while it runs: boot it, run commands in it, stop it."""

import base64
import contextlib
import re
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tests.guest_vm.image import CannotError, Image
from tests.ports import free_port

QEMU = "qemu-system-x86_64"
BOOT = 300.0  # seconds; alone it takes some ten, and this is a machine in software
PATIENCE = 120.0  # seconds for a command: TCG is slow, and so may the host be
PORT = 5315  # of cmappserver in the guest
_KERNEL = "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off"
_PIECE = 512  # bytes written to the serial line at once, less than its buffer


class Result(NamedTuple):
    """What came of a command: its exit code, and its output with its errors."""

    code: int
    output: str


class Vm:
    """A guest. ``port`` on the loopback of the host leads to cmappserver's in the guest."""

    def __init__(self, folder: Path, image: Image, memory: int = 768) -> None:
        """``memory`` in MiB. Raises CannotError without QEMU."""
        if shutil.which(QEMU) is None:
            raise CannotError(f"cannot run a guest without {QEMU} (qemu-system-x86)")
        self.folder = folder
        self.port = free_port()
        self.console = folder / "console.log"
        self._shell = folder / "shell"
        self._socket: socket.socket | None = None
        self._said = b""
        self._process = subprocess.Popen(
            self._command(image, memory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )

    def _command(self, image: Image, memory: int) -> list[str]:
        network = f"user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:{PORT}"
        return [
            *(QEMU, "-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", str(memory)),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
            *("-append", f"{_KERNEL} rdinit=/init"),
            *("-serial", f"file:{self.console}"),
            *("-serial", f"unix:{self._shell},server=on,wait=off"),
            *("-netdev", network, "-device", "virtio-net-pci,netdev=n,romfile="),
        ]

    def __enter__(self) -> "Vm":
        try:
            self._boot()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """As pulling the plug."""
        if self._socket is not None:
            self._socket.close()
        self._process.kill()
        self._process.wait()

    # Commands ------------------------------------------------------------------------

    def run(self, command: str, seconds: float = PATIENCE) -> Result:
        """Run a command of the guest's shell, as root, and wait for its end."""
        mark = secrets.token_hex(8)
        self._send(f"( {command}\n) 2>&1 </dev/null; echo {mark[:8]}''{mark[8:]} $?\n".encode())
        end = re.compile(rb"(.*?)%s (\d+)\r?\n" % mark.encode(), re.DOTALL)
        found = self._hear(end, time.monotonic() + seconds, command)
        return Result(int(found[2]), found[1].decode(errors="replace").replace("\r\n", "\n"))

    def must(self, command: str, seconds: float = PATIENCE) -> str:
        """The output of a command that has to succeed."""
        result = self.run(command, seconds)
        assert result.code == 0, f"{command}: {result}"
        return result.output

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

    def _boot(self) -> None:
        deadline = time.monotonic() + BOOT
        while self._socket is None:
            assert self._process.poll() is None, f"QEMU has ended: {self._console()}"
            assert time.monotonic() < deadline, "QEMU does not listen"
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(str(self._shell))
                self._socket = line
            except OSError:
                line.close()
                time.sleep(0.05)
        while True:  # what is said before the shell is there is lost
            with contextlib.suppress(AssertionError):
                self.run("true", 3.0)
                return
            assert time.monotonic() < deadline, f"it does not boot: {self._console()}"

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
