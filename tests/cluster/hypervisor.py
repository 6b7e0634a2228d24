"""The hypervisor of the tests: VMs that are machines, on nodes that are machines.

The agents in ``agents/`` ask it for what they cannot do from inside a node. A VM is at one node
at a time, dies with that, is cut off with it, and may be moved. One thread does all of that, and
lives as long as the cluster, because the machines that it boots die with it.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.cluster.machines import PATIENCE, Machine

OK, FAILED, NOT_RUNNING = 0, 1, 7


class Vm(Protocol):
    """One VM: where it is or was, and what may be done with it."""

    node: str

    @property
    def running(self) -> bool:
        """Whether it has power."""

    def start(self, node: str) -> None:
        """Give it power."""

    def stop(self) -> None:
        """Kill it, as a hypervisor does when the time is over."""

    def move(self, node: str) -> bool:
        """Migrate it while it runs; whether it is there."""

    def cut(self) -> None:
        """Cut its link, as that of its node."""


class StandIn:
    """A VM that is a machine beside those of the nodes."""

    def __init__(self, boot: Callable[[], Machine]) -> None:
        self.node = ""
        self.machine: Machine | None = None
        self._boot = boot

    @property
    def running(self) -> bool:
        return self.machine is not None and self.machine.running

    def start(self, node: str) -> None:
        self.machine, self.node = self._boot(), node

    def stop(self) -> None:
        if self.machine is not None:
            self.machine.kill()
            self.machine = None

    def move(self, node: str) -> bool:
        assert self.machine is not None
        self.machine.freeze()  # as all of them do while the last pages are copied
        self.machine.thaw()
        self.node = node
        return True

    def cut(self) -> None:
        if self.machine is not None:
            self.machine.cut()


class Hypervisor:
    """All VMs, all nodes, and the socket at which agents ask."""

    def __init__(self, path: Path, nodes: dict[str, Machine]) -> None:
        """``nodes`` are those with power."""
        self.vms: dict[str, Vm] = {}
        self.violations: list[str] = []
        self.fenced: list[str] = []
        self._nodes = nodes
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """End all VMs."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._listener.close()
        for vm in self.vms.values():
            vm.stop()

    def take_fenced(self) -> list[str]:
        """The nodes that were fenced since it was asked last, which was as it should be."""
        with self._lock:
            fenced, self.fenced[:] = list(self.fenced), ()
            return fenced

    def power_off(self, node: str) -> None:
        """Kill a node, and with it the VMs that are there."""
        with self._lock:
            self._power_off(node)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, self._lock, contextlib.suppress(OSError):  # its agent was cancelled
                connection.settimeout(PATIENCE)
                words = connection.recv(1024).decode().split()
                if words:
                    connection.sendall(str(self._try(*words)).encode())

    def _try(self, *words: str) -> int:
        try:
            return self._answer(*words)
        except Exception as error:  # noqa: BLE001  a test will look
            self.violations.append(f"{words}: {error!r}")
            return FAILED

    def _answer(self, action: str, name: str, node: str, target: str) -> int:
        if action == "off":
            asker = self._nodes.get(node)
            if asker is None or asker.is_cut:  # power switches are reached by the network, too
                return FAILED
            self.fenced.append(name)
            self._power_off(name)
            return OK
        vm = self.vms[name]
        here = vm.running and vm.node == node
        if action == "start":
            return OK if here else self._start(vm, name, node)
        if action == "stop":
            if here:
                vm.stop()
            return OK
        if action == "migrate_to":
            moved = here and target in self._nodes and vm.move(target)
            return OK if moved else FAILED
        if action in ("monitor", "migrate_from"):
            return OK if here else NOT_RUNNING
        return 3

    def _start(self, vm: Vm, name: str, node: str) -> int:
        if vm.running:
            self.violations.append(f"{name} starts at {node}, and runs at {vm.node}")
            return FAILED
        vm.start(node)
        return OK

    def _power_off(self, node: str) -> None:
        for vm in self.vms.values():
            if vm.node == node:
                vm.stop()
        if node in self._nodes:
            self._nodes[node].kill()
            del self._nodes[node]
