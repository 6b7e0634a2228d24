"""What happens to an application that may run in either of two guests (see scenarios.py).

It is the worst there is: it does not heed SIGTERM, and so takes all of its stop timeout. The
intervals are as short as docs/failover-between-guests.md allows, and the proxy that is the link of
the first guest holds back what it has, until the other guest runs the application.
"""

import contextlib
import os
import signal
import time
from math import ceil

from cmappd.core.at_most_once import ends_within, least_lost_after
from tests.cluster.guests import APPLICATION, Disk
from tests.end_to_end.guest import Guest
from tests.end_to_end.programs import wait_for
from tests.end_to_end.proxy import Proxy
from tests.serviceguard.runner import EXAMPLES, Package, read
from tests.serviceguard.stage import Stage, kill_vm

LEASE, STOP_TIMEOUT = 5, 2  # seconds
LOST_AFTER = least_lost_after(ends_within(LEASE, STOP_TIMEOUT, has_after=False))
NODES = {"vm1": "vmhost1", "vm2": "vmhost2"}


class Pair:
    """The packages of the examples, from when the application runs at the first node."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.disk = Disk(stage.folder / "disk")
        self.disk.add("orders")
        (stage.folder / "vm2").mkdir()
        second = Guest(stage.folder / "vm2", stage.scene.authority)
        second.identity = stage.scene.authority.guest("guest2")
        self.guests = {"vm1": stage.guest, "vm2": second}
        self.link = Proxy(stage.guest.port)
        stage.closing(contextlib.closing(self.link))
        stage.add("vm1", stage.guest, "guest1", self.link.port)
        stage.add("vm2", second, "guest2", second.port)
        shortest = f"{ceil(LOST_AFTER * 1000)}ms"
        stage.nodes = tuple(
            stage.node(node, vm, lost_after=shortest, connect_timeout=shortest)
            for vm, node in NODES.items()
        )
        self.vms = {vm: self._run_vm(vm) for vm in NODES}
        self.orders = stage.package(read((EXAMPLES / "two-guests.conf").read_text()))
        assert self.orders.run()
        self.orders.until(lambda: self.times_running("vm1") == 1, "the application")
        self.disk.wait_starts("orders", 1)

    def _run_vm(self, vm: str) -> Package:
        guest = self.guests[vm]
        script = APPLICATION.format(name="orders", guest=vm, disk=self.disk.folder)
        guest.shell(
            "orders",
            f"trap '' TERM\n{script}",
            directory=str(self.disk.folder / "orders"),
            manager={"on_lost": "stop", "lease": f"{LEASE}s"},
            stop={"timeout": f"{STOP_TIMEOUT}s"},
        )
        guest.write()
        text = (EXAMPLES / "two-guests-vm.conf").read_text()
        package = self.stage.package(read(text.replace("vm1", vm).replace("vmhost1", NODES[vm])))
        assert package.run()
        return package

    def times_running(self, guest: str) -> int:
        """How often the package log has it running there."""
        return self.orders.said().count(f"orders@{guest}: running, pid")

    def recovery(self, begin: float) -> float:
        """The seconds from ``begin`` until it runs in the other guest, and nowhere else."""
        self.orders.until(lambda: self.times_running("vm2") == 1, "the failover")
        seconds = time.monotonic() - begin
        self.link.thaw()  # and what was held back may come now
        if self.guests["vm1"].folder.joinpath("vm.pid").exists():
            self.guests["vm1"].wait_status("orders", pid=None)
        self.orders.tend()
        assert not self.disk.violations(), self.disk.violations()
        wait_for(lambda: self.disk.runs("orders")[-1] == "started in vm2", "vm2")
        assert self.guests["vm2"].pids("orders") == [self.disk.pid("orders")]
        assert not self.guests["vm1"].pids("orders")
        assert self.orders.been_at == ["vmhost1", "vmhost2"]
        for vm, package in self.vms.items():
            assert package.been_at == [NODES[vm]]
        return seconds


def one_of_two_guests_is_cut_off(stage: Stage) -> float:
    """Its manager gives up, and the next one in vain; by then the guest has ended it."""
    it = Pair(stage)
    it.link.freeze()
    begin = time.monotonic()
    it.orders.until(lambda: "exit 202, lost" in it.orders.said(), "the end of the manager")
    seconds = it.recovery(begin)
    assert "exit 201, unreachable" in it.orders.said()
    return seconds


def manager_dies_while_its_guest_is_cut_off(stage: Stage) -> float:
    """Serviceguard does not wait; but the next manager does, at the same node."""
    it = Pair(stage)
    it.link.freeze()
    begin = time.monotonic()
    os.kill(it.orders.pid_of("orders"), signal.SIGKILL)
    seconds = it.recovery(begin)
    assert "exit 201, unreachable" in it.orders.said()
    return seconds


def package_is_halted_while_its_guest_is_cut_off(stage: Stage) -> float:
    """The halt waits until the guest has ended it; then it may be run at the other node."""
    it = Pair(stage)
    it.link.freeze()
    begin = time.monotonic()
    assert it.orders.halt() == 0
    assert "service orders is halted, exit code 202" in it.orders.said()
    assert it.orders.run("vmhost2")
    return it.recovery(begin)


def one_of_two_guests_dies(stage: Stage) -> float:
    """As if it were cut off: who does not answer may run it."""
    it = Pair(stage)
    kill_vm(it.guests["vm1"])
    seconds = it.recovery(time.monotonic())
    assert "exit 202, lost" in it.orders.said()
    return seconds


def node_of_one_of_two_guests_dies(stage: Stage) -> float:
    """Nobody has to be waited for: the guest that had it is dead, too."""
    it = Pair(stage)
    begin = time.monotonic()
    kill_vm(it.guests["vm1"])
    it.orders.lose_node()
    return it.recovery(begin)


def application_dies_in_one_of_two_guests(stage: Stage) -> float:
    """It is restarted there; then it goes to the other guest, and no VM is touched."""
    it = Pair(stage)
    for node in it.orders.nodes:
        code, said = it.orders.validate(node)
        assert code == 0, said
    it.disk.order("orders", 3)
    it.orders.until(lambda: it.times_running("vm1") == 2, "the restart")
    assert it.orders.been_at == ["vmhost1"]
    it.disk.order("orders", 4)
    seconds = it.recovery(time.monotonic())
    assert "exit 4, app" in it.orders.said()
    return seconds
