"""What happens in a cluster, and how soon the application runs again.

Each scenario is given a cluster without resources, makes things happen, and gives the seconds from
the blow until the application runs and the cluster knows it; it fails where anything is not as it
must be. The tests run each once, and ``python -m tests.cluster`` as often as one likes.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial

from tests.cluster import roaming
from tests.cluster.cluster import Cluster
from tests.cluster.guests import PROGRAMS
from tests.cluster.machines import wait_for
from tests.cluster.resources import OTHER, package

SOON = 2.0  # seconds from a death to the next start, on a machine that has time


def assert_soon(seconds: float) -> None:
    """Fail where it took longer; where many share a processor, each may take as much longer."""
    soon = SOON * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert seconds < soon, f"{seconds:.2f} s is not within {soon:.2f} s"


class Package:
    """A VM with applications as a group at a node, from its start."""

    def __init__(
        self,
        cluster: Cluster,
        vm_name: str = "vm1",
        node: str = "node1",
        apps: Sequence[str] = ("web", "db"),
        timeouts: tuple[str, str] = ("60s", "60s"),
        **meta: str,
    ) -> None:
        self.cluster = cluster
        self.apps = apps
        self.all = (vm_name, *apps)
        cluster.declare(vm_name, *apps)
        cluster.load(*package(vm_name, apps, node, timeouts, **meta))
        self.wait_at(node)
        self.pids = self.living()
        cluster.read_logs()

    def living(self) -> dict[str, int]:
        """The one process of each application."""
        return {each: self.cluster.disk.pid(each) for each in self.apps}

    def wait_at(self, node: str) -> None:
        """Until all of it is there, as far as the cluster knows; every application runs once."""
        self.living()
        self.cluster.wait_at(node, *self.all)
        self.living()

    def recovery(self, node: str, begin: float) -> float:
        """The seconds from ``begin`` until all of it runs again, and the package log has it.

        The cluster may call started what is being started.
        """
        self.wait_at(node)
        for each in self.apps:
            wait_for(partial(self.is_told_of, node, each), f"{each} to run, by the package log")
        return time.monotonic() - begin

    def is_told_of(self, node: str, app: str) -> bool:
        """Whether the package log says that it runs."""
        return "running, pid" in self.cluster.package_log(node, app)

    def stays(self, node: str, begin: float) -> float:
        """The seconds from ``begin`` until all of it is there, as it was; no manager has a word."""
        self.wait_at(node)
        seconds = time.monotonic() - begin
        assert self.living() == self.pids
        for each in self.apps:
            assert "cmappmgr" not in self.cluster.package_log(node, each)
        return seconds


def application_dies(cluster: Cluster) -> float:
    """It is restarted, alone, soon, and counted once, be it watched already or not."""
    it, deaths, worst = Package(cluster), 4, 0.0
    machine = cluster.guest_machine("vm1")
    for death in range(1, deaths + 1):
        if death % 2 == 0:
            cluster.wait_watched("node1", "db")
        cluster.disk.order("db", 3)
        begin = time.monotonic()
        cluster.disk.wait_starts("db", death + 1)
        worst = max(worst, time.monotonic() - begin)
        it.wait_at("node1")
    cluster.wait_watched("node1", "db")  # by then each monitor has told what it had to tell
    cluster.settle()
    assert cluster.failures("db") == deaths, "not each death was counted once"
    assert_soon(worst)
    assert cluster.disk.pid("web") == it.pids["web"]
    assert cluster.guest_machine("vm1") is machine
    log = cluster.package_log("node1", "db")
    assert log.count("exit 3, app: ended by itself, exit code 3") == deaths
    assert "cmappmgr" not in cluster.package_log("node1", "web")
    return worst


def threshold_is_reached(cluster: Cluster) -> float:
    """The second death moves the package."""
    it = Package(cluster, migration_threshold="2")
    cluster.disk.order("db", 3)
    cluster.disk.wait_starts("db", 2)
    it.wait_at("node1")
    cluster.disk.order("db", 4)
    seconds = it.recovery("node2", time.monotonic())
    log = cluster.package_log("node1", "db")
    assert [code for code in (3, 4) if f"exit {code}, app" in log] == [3, 4]
    assert "exit 0, stopped" in cluster.package_log("node1", "web")
    return seconds


def node_dies(cluster: Cluster) -> float:
    """The other one fences it, and runs the package."""
    it = Package(cluster)
    cluster.kill("node1")
    seconds = it.recovery("node2", time.monotonic())
    assert cluster.hypervisor.take_fenced() == ["node1"]
    assert "cmappmgr db@vm1: exit" not in cluster.package_log("node1", "db")
    return seconds


def vm_dies(cluster: Cluster) -> float:
    """It is started again, and the applications in it."""
    it = Package(cluster)
    cluster.hypervisor.vms["vm1"].stop()
    begin = time.monotonic()
    cluster.disk.wait_starts("db", 2)
    seconds = it.recovery("node1", begin)
    assert "stopped as far as the cluster is concerned" in cluster.package_log("node1", "db")
    return seconds


def guest_freezes(cluster: Cluster) -> float:
    """Nobody but the managers notices; at the first failure the package moves."""
    it = Package(cluster, migration_threshold="1")
    cluster.guest_machine("vm1").freeze()
    seconds = it.recovery("node2", time.monotonic())
    log = cluster.package_log("node1", "db")
    assert "exit 202, lost" in log
    assert "stopped as far as the cluster is concerned" in log
    return seconds


def guest_is_cut_off(cluster: Cluster) -> float:
    """A new start waits for the guest until its time is over; then the package moves."""
    it = Package(cluster, timeouts=("25s", "60s"))
    cluster.guest_machine("vm1").cut()
    seconds = it.recovery("node2", time.monotonic())
    assert "exit 202, lost" in cluster.package_log("node1", "db")
    return seconds


def node_is_cut_off(cluster: Cluster) -> float:
    """Fencing comes first: never do both run it."""
    it = Package(cluster)
    cluster.cut("node1")
    begin = time.monotonic()
    wait_for(lambda: cluster.hypervisor.take_fenced() == ["node1"], "the fencing")
    seconds = it.recovery("node2", begin)
    assert "cmappmgr db@vm1: exit" not in cluster.package_log("node1", "db")
    return seconds


def server_is_killed(cluster: Cluster) -> float:
    """The cluster notices nothing, and the applications neither."""
    it = Package(cluster)
    (server,) = cluster.processes_in("vm1", "cmappserver")
    os.kill(server, signal.SIGKILL)
    begin = time.monotonic()
    wait_for(lambda: "connected again" in cluster.package_log("node1", "db"), "the link")
    seconds = time.monotonic() - begin
    cluster.disk.order("db", 5)  # and its end is noticed as ever
    cluster.disk.wait_starts("db", 2)
    it.wait_at("node1")
    assert (cluster.failures("db"), cluster.failures("web")) == (1, 0)
    assert cluster.disk.pid("web") == it.pids["web"]
    return seconds


def manager_is_killed(cluster: Cluster) -> float:
    """That is a failure, not a stop: the application lives in the guest, and is not lost."""
    it = Package(cluster)
    (manager,) = cluster.processes_in("node1", "cmappd-db/report")
    os.kill(manager, signal.SIGKILL)
    begin = time.monotonic()
    wait_for(lambda: cluster.failures("db") == 1, "the failure")
    cluster.disk.wait_starts("db", 2)
    it.wait_at("node1")
    seconds = time.monotonic() - begin
    log = cluster.package_log("node1", "db")
    assert "stopped as this manager was asked" in log  # by the agent's own, before the next one
    assert "running, pid" in log
    assert cluster.disk.pid("web") == it.pids["web"]
    return seconds


def guest_migrates(cluster: Cluster) -> float:
    """There and back: nothing is stopped, and nothing has failed."""
    it = Package(cluster, allow_migrate="true")
    machine = cluster.guest_machine("vm1")
    for standby, node in (("on", "node2"), ("off", "node1")):
        cluster.read_logs()
        begin = time.monotonic()
        cluster.run("crm_attribute", "--node", "node1", "--name", "standby", "--update", standby)
        it.wait_at(node)
        seconds = time.monotonic() - begin
        cluster.settle()
        assert it.living() == it.pids
        assert cluster.guest_machine("vm1") is machine
        assert "detached: the application runs on" in cluster.package_log(OTHER[node], "db")
        assert "running, pid" in cluster.package_log(node, "db")
    assert (cluster.failures("db"), cluster.failures("web")) == (0, 0)
    cluster.disk.order("db", 3)
    cluster.disk.wait_starts("db", 2)
    it.wait_at("node1")
    assert cluster.failures("db") == 1
    return seconds


def somebody_works_on_it(cluster: Cluster) -> float:
    """Under maintenance it may be stopped in the guest, and the cluster does nothing."""
    it = Package(cluster)
    guest = cluster.guest_machine("vm1")
    control = (PROGRAMS / "cmappctl", "--socket", "/run/cmappd/control.sock")
    guest.run(*control, "maintenance", "db", "on", "--reason", "new disks")
    guest.run(*control, "stop", "db")
    assert not cluster.disk.pids("db")
    time.sleep(3)  # in which a cluster that were to react had done so
    cluster.settle()
    assert cluster.is_at("node1", *it.all)
    assert not cluster.disk.pids("db")
    guest.run(*control, "start", "db")
    guest.run(*control, "maintenance", "db", "off")
    it.wait_at("node1")
    assert (cluster.failures("db"), cluster.disk.starts("db")) == (0, 2)
    wait_for(lambda: "maintenance is over" in cluster.package_log("node1", "db"), "its end")
    log = cluster.package_log("node1", "db")
    assert "under maintenance" in log
    assert "new disks" in log
    assert "stopped in the guest by its administrator" in log
    assert "cmappmgr db@vm1: exit" not in log
    begin = time.monotonic()
    cluster.disk.order("db", 3)
    cluster.disk.wait_starts("db", 3)
    it.wait_at("node1")
    assert cluster.failures("db") == 1
    return time.monotonic() - begin


def node_is_put_on_standby(cluster: Cluster) -> float:
    """The package moves in order, and nothing is called a failure."""
    it = Package(cluster)
    cluster.run("crm_attribute", "--node", "node1", "--name", "standby", "--update", "on")
    seconds = it.recovery("node2", time.monotonic())
    for each in it.apps:
        assert "exit 0, stopped" in cluster.package_log("node1", each)
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
    seconds = it.stays("node1", begin)
    cluster.disk.order("db", 3)
    cluster.disk.wait_starts("db", 2)
    it.wait_at("node1")
    assert cluster.failures("db") == 1
    return seconds


def application_dies_unmanaged(cluster: Cluster) -> float:
    """Nobody does anything until the cluster looks again; then it is restarted, and counted once.

    Its monitor is killed while it waits, for Pacemaker watches nothing meanwhile.
    """
    it = Package(cluster)
    cluster.wait_watched("node1", "db")
    cluster.run("crm_attribute", "--name", "maintenance-mode", "--update", "true")
    cluster.settle()
    cluster.disk.order("db", 3)
    wait_for(lambda: "exit 3, app" in cluster.package_log("node1", "db"), "its end")
    begin = time.monotonic()
    cluster.run("crm_attribute", "--name", "maintenance-mode", "--delete")
    cluster.disk.wait_starts("db", 2)
    it.wait_at("node1")
    seconds = time.monotonic() - begin
    cluster.wait_watched("node1", "db")
    cluster.settle()
    assert cluster.failures("db") == 1, "it was not counted once"
    return seconds


def cleanup_allows_a_node_again(cluster: Cluster) -> float:
    """After a cleanup the package may come back."""
    it = Package(cluster, migration_threshold="1")
    cluster.disk.order("db", 3)
    it.wait_at("node2")
    cluster.settle()
    assert "exit 3, app" in cluster.package_log("node1", "db")
    cluster.read_logs()
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
    seconds = max(first.recovery("node2", begin), second.recovery("node2", begin))
    assert cluster.hypervisor.take_fenced() == ["node1"]
    return seconds


Scenario = Callable[[Cluster], float]
SCENARIOS: tuple[Scenario, ...] = (
    application_dies,
    threshold_is_reached,
    vm_dies,
    node_dies,
    node_is_cut_off,
    guest_freezes,
    guest_is_cut_off,
    roaming.guest_ends_it_alone,
    roaming.guest_may_not_end_it,
    roaming.node_of_a_guest_dies,
    roaming.two_guests_and_a_standby,
    server_is_killed,
    manager_is_killed,
    guest_migrates,
    somebody_works_on_it,
    node_is_put_on_standby,
    cluster_is_stopped_unmanaged,
    application_dies_unmanaged,
    cleanup_allows_a_node_again,
    two_packages_fail_over,
)
