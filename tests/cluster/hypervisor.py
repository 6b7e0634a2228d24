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

from tests.cluster.machines import PATIENCE, Machine

OK, FAILED, NOT_RUNNING = 0, 1, 7


class Vm:
    """One VM: where it is, and its machine while it runs."""

    def __init__(self, boot: Callable[[], Machine]) -> None:
        self.boot = boot
        self.machine: Machine | None = None
        self.node = ""

    def runs_at(self, node: str) -> bool:
        """Whether it runs there."""
        return self.machine is not None and self.machine.running and self.node == node

    def stop(self) -> None:
        """Kill it, as a hypervisor does when the time is over."""
        if self.machine is not None:
            self.machine.kill()
            self.machine = None


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
        if action == "start":
            return self._start(vm, name, node)
        if action == "stop":
            if vm.runs_at(node):
                vm.stop()
            return OK
        if action == "migrate_to":
            return self._move(vm, node, target)
        if action in ("monitor", "migrate_from"):
            return OK if vm.runs_at(node) else NOT_RUNNING
        return 3

    def _start(self, vm: Vm, name: str, node: str) -> int:
        if not vm.runs_at(node):
            if vm.machine is not None and vm.machine.running:
                self.violations.append(f"{name} starts at {node}, and runs at {vm.node}")
                return FAILED
            vm.machine, vm.node = vm.boot(), node
        return OK

    def _move(self, vm: Vm, node: str, target: str) -> int:
        if not vm.runs_at(node) or vm.machine is None or target not in self._nodes:
            return FAILED
        vm.machine.freeze()  # as all of them do while the last pages are copied
        vm.machine.thaw()
        vm.node = target
        return OK

    def _power_off(self, node: str) -> None:
        for vm in self.vms.values():
            if vm.node == node:
                vm.stop()
        if node in self._nodes:
            self._nodes[node].kill()
            del self._nodes[node]
