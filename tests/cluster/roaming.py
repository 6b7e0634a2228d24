"""What happens to an application that may run in either of two guests (see scenarios.py)."""

import os
import signal
import time

from cmappd.core import at_most_once
from tests.cluster.cluster import Cluster
from tests.cluster.machines import wait_for
from tests.cluster.resources import in_order, prefers, roaming, stays, vm

LEASE, STOP_TIMEOUT = 5, 5  # seconds


class Roamer:
    """An application that has a guest at each node, and data that both can reach."""

    def __init__(self, cluster: Cluster, **parameters: str) -> None:
        self.cluster = cluster
        keys = {
            "manager": {"on_lost": "stop", "lease": f"{LEASE}s"},
            "stop": {"timeout": f"{STOP_TIMEOUT}s"},
        }
        cluster.declare("vm1", "db", stubborn=True, **keys)
        cluster.declare("vm2", "db", **keys)
        vms = {"vm1": "node1", "vm2": "node2"}
        cluster.load(
            "".join(map(vm, vms)) + roaming("db", {"node1": "vm1", "node2": "vm2"}, **parameters),
            "".join(stays(name, node) + in_order(name, "db") for name, node in vms.items())
            + prefers("db", "node1"),
        )
        cluster.wait_at("node1", "vm1", "db")
        cluster.wait_at("node2", "vm2")
        cluster.settle()
        cluster.read_logs()

    def recovery(self, begin: float) -> float:
        """The seconds from ``begin`` until it runs in the other guest."""
        wait_for(lambda: self.cluster.disk.runs("db")[-1] == "started in vm2", "vm2")
        self.cluster.wait_at("node2", "vm2", "db")
        return time.monotonic() - begin


def guest_ends_it_alone(cluster: Cluster) -> float:
    """The other guest starts it when the one that is cut off has ended it, and no node dies.

    The worst case: it ends only by SIGKILL, its manager is killed, and stop waits no longer than it
    must.
    """
    within = at_most_once.ends_within(LEASE, STOP_TIMEOUT, has_after=False)
    needed = at_most_once.ends_alone_after(within)
    it = Roamer(cluster, other_guests="true", ends_alone_after=str(needed))
    machine, node = cluster.guest_machine("vm1"), cluster.nodes["node1"]
    (manager,) = cluster.processes_in("node1", "cmappd-db/report")
    machine.cut()
    begin = time.monotonic()
    os.kill(manager, signal.SIGKILL)
    kept = "/run/resource-agents/cmappd-db"
    wait_for(lambda: node.run("test", "-d", kept, check=False).returncode, "the end of the stop")
    assert not set(machine.pids()) & set(cluster.disk.pids("db")), "stop has not waited for its end"
    seconds = it.recovery(begin)
    assert "the guest ends it by itself" in cluster.package_log("node1", "db")
    return seconds


def guest_may_not_end_it(cluster: Cluster) -> float:
    """The stop fails, the node is fenced, and with it the guest; then the other one starts it."""
    it = Roamer(cluster, other_guests="true")
    cluster.guest_machine("vm1").cut()
    seconds = it.recovery(time.monotonic())
    assert cluster.hypervisor.take_fenced() == ["node1"]
    assert "exit 202, lost" in cluster.package_log("node1", "db")
    return seconds


def node_of_a_guest_dies(cluster: Cluster) -> float:
    """And the guest with it, so that nobody has to wait for its lease."""
    it = Roamer(cluster, other_guests="true", ends_alone_after="60")
    cluster.kill("node1")
    seconds = it.recovery(time.monotonic())
    assert cluster.hypervisor.take_fenced() == ["node1"]
    assert cluster.active() == {"vm2": ["node2"], "db": ["node2"]}
    return seconds


def two_guests_and_a_standby(cluster: Cluster) -> float:
    """The VM and the application in it go: first the application, and no node is fenced."""
    it = Roamer(cluster, other_guests="true")
    cluster.run("crm_attribute", "--node", "node1", "--name", "standby", "--update", "on")
    begin = time.monotonic()
    cluster.disk.wait_starts("db", 2)
    seconds = time.monotonic() - begin
    cluster.wait_at("node2", "vm2", "db")
    assert it.cluster.disk.runs("db")[-1] == "started in vm2"
    assert "exit 0, stopped" in cluster.package_log("node1", "db")
    cluster.run("crm_attribute", "--node", "node1", "--name", "standby", "--delete")
    cluster.wait_at("node1", "vm1", "db")
    assert cluster.failures("db") == 0
    return seconds
