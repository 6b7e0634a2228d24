"""A VM of QEMU's in a node: it is a process there, and its card is plugged into the node's bridge.

It has a disk, which all nodes reach. QEMU locks that: a second VM with it would not start.
"""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tests.cluster.machines import PATIENCE, Machine, mac, wait_for
from tests.guest_vm.image import Image
from tests.guest_vm.vm import machine

MEMORY = 512  # MiB; all that is in use is copied in a migration
MIGRATION_PORT = 4444
ANSWER = 8.0  # seconds for an answer of QEMU's, which a frozen one does not give
PLUG = '#!/bin/sh\nexec ip link set "$1" master br0 up\n'


class Qemu:
    """One VM: where it is, and its process while it runs."""

    def __init__(self, folder: Path, address: str, image: Image, nodes: dict[str, Machine]) -> None:
        """``nodes`` are those with power. The disk is ``disk`` in the folder."""
        self.node = ""
        self.console = folder / "console.log"
        self._folder = folder
        self._address = address
        self._image = image
        self._nodes = nodes
        self.pid = 0
        self._plug = folder / "plug"
        self._plug.write_text(PLUG)
        self._plug.chmod(0o755)

    @property
    def running(self) -> bool:
        """Whether it runs, or is frozen."""
        return self._is_ours(self.pid)

    @property
    def shell(self) -> Path:
        """The socket that is its second serial port."""
        return self._folder / f"shell-{self.node}"

    def start(self, node: str) -> None:
        """Give it power."""
        self.pid, self.node = self._launch(node), node

    def stop(self) -> None:
        """Take its power; also when it is frozen."""
        self._kill(self.pid)
        self.pid = 0

    def freeze(self) -> None:
        """Stop the process."""
        os.kill(self.pid, signal.SIGSTOP)

    def cut(self) -> None:
        """Nothing: it is cut off with its node."""

    def unplug(self) -> None:
        """Cut its own link only. Where it migrates to, it has a new one."""
        self._nodes[self.node].run("ip", "link", "set", self._tap, "nomaster")

    @property
    def _tap(self) -> str:
        return f"tap-{self._folder.name}"

    def move(self, node: str) -> bool:
        """Migrate it to another node. It stays where it is frozen."""
        new = self._launch(node, "-incoming", f"tcp:0.0.0.0:{MIGRATION_PORT}")
        try:
            with connected(self._folder / f"qmp-{self.node}") as monitor:
                monitor.execute("migrate", uri=f"tcp:{self._nodes[node].address}:{MIGRATION_PORT}")
                monitor.wait_migrated()
        except TimeoutError:
            self._kill(new)
            return False
        except AssertionError as error:
            raise AssertionError(
                f"{error}; the other one: {self._log(node).read_text()}"
            ) from error
        self.stop()
        self.pid, self.node = new, node
        return True

    def _log(self, node: str) -> Path:
        return self._folder / f"qemu-{node}.log"

    def _kill(self, pid: int) -> None:
        if self._is_ours(pid):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self._is_ours(pid), "the end of QEMU")

    def _is_ours(self, pid: int) -> bool:
        return pid > 0 and str(self._folder).encode() in _command_of(pid)

    def _launch(self, node: str, *more: str) -> int:
        """Run QEMU as a process of the node; its number, as it is called outside."""
        own = f"{self._folder}/qmp-{node}"
        self._nodes[node].run(
            *machine(self._image, MEMORY, f"ADDRESS={self._address}/24"),
            *("-chardev", f"file,id=console,path={self.console},append=on"),
            *("-serial", "chardev:console"),
            *("-serial", f"unix:{self._folder}/shell-{node},server=on,wait=off"),
            *("-qmp", f"unix:{own},server=on,wait=off"),
            *("-netdev", f"tap,id=n,ifname={self._tap},script={self._plug},downscript=no"),
            *("-device", f"virtio-net-pci,netdev=n,mac={mac(self._address)},romfile="),
            *("-drive", f"id=d,file={self._folder}/disk,format=raw,if=none"),
            *("-device", "virtio-blk-pci,drive=d"),
            *("-device", "pvpanic-pci", "-action", "panic=shutdown"),
            *("-d", "guest_errors", "-D", self._log(node)),  # and what QEMU itself complains of
            "-daemonize",
            *more,
        )
        (pid,) = [pid for pid in self._nodes[node].pids() if own.encode() in _command_of(pid)]
        return pid


class Monitor:
    """QEMU's own control socket."""

    def __init__(self, connection: socket.socket, lines: TextIO) -> None:
        self._socket = connection
        self._lines = lines
        lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: str) -> Any:
        """What it returns."""
        question = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(question).encode() + b"\n")
        while "event" in (answer := json.loads(self._lines.readline())):
            pass
        assert "return" in answer, f"QEMU refuses {command}: {answer}"
        return answer["return"]

    def wait_migrated(self) -> None:
        """Wait until the machine is at the other end, and no more here."""
        deadline = time.monotonic() + PATIENCE
        while (said := self.execute("query-migrate")).get("status") != "completed":
            assert said.get("status") not in ("failed", "cancelled"), (
                f"no migration: QEMU says {said}"
            )
            assert time.monotonic() < deadline, f"the migration does not end: QEMU says {said}"
            time.sleep(0.05)


@contextlib.contextmanager
def connected(path: Path) -> Iterator[Monitor]:
    """The monitor at a socket. Raises TimeoutError where QEMU is frozen."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("r") as lines:
        connection.settimeout(ANSWER)
        connection.connect(str(path))
        yield Monitor(connection, lines)


def _command_of(pid: int) -> bytes:
    """Empty for a zombie, and for what is no more."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
