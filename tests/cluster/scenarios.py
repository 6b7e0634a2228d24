"""What happens in a cluster, and how soon the application runs again.

Each scenario is given a cluster without resources, makes things happen, and gives the seconds from
the blow until the application runs and the cluster knows it; it fails where anything is not as it
must be. The tests run each once, and ``python -m tests.cluster`` as often as one likes.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence

from tests.cluster.cluster import Cluster
from tests.cluster.machines import wait_for
from tests.cluster.resources import package

SOON = 60.0  # seconds; what takes longer has not recovered


class Package:
    """A VM with applications as a group at node1, from its start."""

    def __init__(self, cluster: Cluster, vm_name: str = "vm1", node: str = "node1",
                 apps: Sequence[str] = ("web", "db"), timeouts: tuple[str, str] = ("60s", "60s"),
                 **meta: str) -> None:  # fmt: skip
        self.cluster = cluster
        self.vm = vm_name
        self.apps = apps
        self.all = (vm_name, *apps)
        cluster.declare(vm_name, *apps)
        cluster.load(*package(vm_name, apps, node, timeouts, **meta))
        self.wait_at(node)
        self.pids = {each: self.pid(each) for each in apps}

    def pid(self, name: str) -> int:
        """The one process of an application; it has others for a moment while it begins."""
        wait_for(lambda: len(self.cluster.disk.pids(name)) == 1, f"{name} to run once", SOON)
        return self.cluster.disk.pids(name)[0]

    def wait_at(self, node: str) -> None:
        """Until all of it is there and the cluster is done; every application runs once."""
        for each in self.apps:
            self.pid(each)
        self.cluster.wait_at(node, *self.all, seconds=SOON)
        for each in self.apps:
            self.pid(each)

    def recovery(self, node: str, begin: float) -> float:
        """The seconds from ``begin`` until all of it is there."""
        self.wait_at(node)
        return time.monotonic() - begin


def application_dies(cluster: Cluster) -> float:
    """It is restarted, alone, and each death is counted once."""
    it, deaths, worst = Package(cluster), 3, 0.0
    machine = cluster.guest_machine("vm1")
    for death in range(1, deaths + 1):
        cluster.disk.order("db", 3)
        begin = time.monotonic()
        wait_for(lambda: cluster.disk.starts("db") == death + 1, "a restart", SOON)  # noqa: B023
        worst = max(worst, time.monotonic() - begin)
        it.wait_at("node1")
    assert cluster.failures("db") == deaths
    assert it.pid("web") == it.pids["web"]
    assert cluster.guest_machine("vm1") is machine
    assert "exit 3, app: ended by itself, exit code 3" in cluster.package_log("node1", "db")
    return worst


def threshold_is_reached(cluster: Cluster) -> float:
    """The second death moves the package."""
    it = Package(cluster, migration_threshold="2")
    cluster.disk.order("db", 3)
    wait_for(lambda: cluster.disk.starts("db") == 2, "a restart", SOON)
    it.wait_at("node1")
    cluster.disk.order("db", 4)
    return it.recovery("node2", time.monotonic())


def node_dies(cluster: Cluster) -> float:
    """The other one fences it, and runs the package."""
    it = Package(cluster)
    cluster.kill("node1")
    return it.recovery("node2", time.monotonic())


def vm_dies(cluster: Cluster) -> float:
    """It is started again, and the applications in it."""
    it = Package(cluster)
    cluster.hypervisor.vms["vm1"].stop()
    begin = time.monotonic()
    wait_for(lambda: cluster.disk.starts("db") == 2, "a restart", SOON)
    return it.recovery("node1", begin)


def guest_freezes(cluster: Cluster) -> float:
    """Nobody but the managers notices; after the restart fails the package moves."""
    it = Package(cluster, timeouts=("8s", "20s"))
    cluster.guest_machine("vm1").freeze()
    seconds = it.recovery("node2", time.monotonic())
    log = cluster.package_log("node1", "db")
    assert "exit 202, lost" in log
    assert "stopped as far as the cluster is concerned" in log
    return seconds


def guest_is_cut_off(cluster: Cluster) -> float:
    """As if frozen: what cannot be reached is started where it can be."""
    it = Package(cluster, timeouts=("8s", "20s"))
    cluster.guest_machine("vm1").cut()
    seconds = it.recovery("node2", time.monotonic())
    assert "exit 202, lost" in cluster.package_log("node1", "db")
    return seconds


def node_is_cut_off(cluster: Cluster) -> float:
    """Fencing comes first: never do both run it."""
    it = Package(cluster)
    cluster.cut("node1")
    begin = time.monotonic()
    wait_for(lambda: len(cluster.nodes) == 1, "the fencing", SOON)
    (left,) = cluster.nodes
    return it.recovery(left, begin)


def server_is_killed(cluster: Cluster) -> float:
    """The cluster notices nothing, and the applications neither."""
    it = Package(cluster)
    (server,) = cluster.processes_in("vm1", "cmappserver")
    os.kill(server, signal.SIGKILL)
    begin = time.monotonic()
    wait_for(lambda: "connected again" in cluster.package_log("node1", "db"), "the link", SOON)
    seconds = time.monotonic() - begin
    cluster.disk.order("db", 5)  # and its end is noticed as ever
    wait_for(lambda: cluster.disk.starts("db") == 2, "a restart", SOON)
    it.wait_at("node1")
    assert (cluster.failures("db"), cluster.failures("web")) == (1, 0)
    assert it.pid("web") == it.pids["web"]
    return seconds


def manager_is_killed(cluster: Cluster) -> float:
    """That is a failure, not a stop: the application lives in the guest, and is not lost."""
    it = Package(cluster)
    (manager,) = cluster.processes_in("node1", "--app db")
    os.kill(manager, signal.SIGKILL)
    begin = time.monotonic()
    wait_for(lambda: cluster.failures("db") == 1, "the failure", SOON)
    wait_for(lambda: cluster.disk.starts("db") == 2, "a restart", SOON)
    return it.recovery("node1", begin)


def node_is_put_on_standby(cluster: Cluster) -> float:
    """The package moves in order, and nothing is called a failure."""
    it = Package(cluster)
    cluster.run("crm_attribute", "--node", "node1", "--name", "standby", "--update", "on")
    seconds = it.recovery("node2", time.monotonic())
    cluster.run("crm_attribute", "--node", "node1", "--name", "standby", "--delete")
    it.wait_at("node1")
    assert (cluster.failures("db"), cluster.failures("web")) == (0, 0)
    return seconds


def cluster_is_stopped_unmanaged(cluster: Cluster) -> float:
    """Pacemaker goes and comes back: everything runs on, and is found."""
    it = Package(cluster)
    cluster.run("crm_attribute", "--name", "maintenance-mode", "--update", "true")
    cluster.settle()
    begin = time.monotonic()
    cluster.restart_pacemaker("node1")
    cluster.wait_online("node1", "node2")
    it.wait_at("node1")
    cluster.run("crm_attribute", "--name", "maintenance-mode", "--delete")
    cluster.settle()
    seconds = it.recovery("node1", begin)
    assert {each: it.pid(each) for each in it.apps} == it.pids
    cluster.disk.order("db", 3)
    wait_for(lambda: cluster.disk.starts("db") == 2, "a restart", SOON)
    it.wait_at("node1")
    assert cluster.failures("db") == 1
    return seconds


def cleanup_allows_a_node_again(cluster: Cluster) -> float:
    """After a cleanup the package may come back."""
    it = Package(cluster, migration_threshold="1")
    cluster.disk.order("db", 3)
    it.wait_at("node2")
    cluster.settle()
    cluster.run("crm_resource", "--cleanup", "--resource", "db")
    seconds = it.recovery("node1", time.monotonic())
    assert cluster.failures("db") == 0
    return seconds


def two_packages_fail_over(cluster: Cluster) -> float:
    """Three applications each, side by side."""
    first = Package(cluster, "vm1", "node1", ("a1", "a2", "a3"))
    second = Package(cluster, "vm2", "node1", ("b1", "b2", "b3"))
    cluster.kill("node1")
    begin = time.monotonic()
    return max(first.recovery("node2", begin), second.recovery("node2", begin))


Scenario = Callable[[Cluster], float]
SCENARIOS: tuple[Scenario, ...] = (
    application_dies,
    threshold_is_reached,
    vm_dies,
    node_dies,
    node_is_cut_off,
    guest_freezes,
    guest_is_cut_off,
    server_is_killed,
    manager_is_killed,
    node_is_put_on_standby,
    cluster_is_stopped_unmanaged,
    cleanup_allows_a_node_again,
    two_packages_fail_over,
)
