"""What fails in a cluster, with a guest that has a kernel of its own (see real_package.py)."""

import time

from tests.cluster.cluster import Cluster
from tests.cluster.machines import wait_for
from tests.cluster.real_package import APPS, SLOW, Package
from tests.cluster.resources import OTHER
from tests.cluster.scenarios import Scenario, assert_soon

NEVER = "1000000"  # deaths that move the package, as by default (INFINITY)


def real_application_dies(cluster: Cluster) -> float:
    """It is restarted, alone, soon, and counted once."""
    it = Package(cluster)
    seconds = it.dies_and_is_restarted()
    assert_soon(seconds)
    assert it.said("exit 3, app: ended by itself, exit code 3") == 1
    return seconds


def real_threshold_is_reached(cluster: Cluster) -> float:
    """The second death at a node moves the whole package; the guest goes along as it is."""
    it = Package(cluster)
    it.set(APPS, "migration-threshold", "2")
    it.dies_and_is_restarted()
    there = OTHER[it.node]
    it.guest.order("db", 4)
    begin = time.monotonic()
    it.settle(there)
    seconds = time.monotonic() - begin
    vm, web, db = it.failed
    assert it.failures() == [vm, web, db + 2]
    assert it.living()["web"] == it.pids["web"]
    assert it.guest.starts("db") == it.starts + 2
    assert it.said("exit 4, app: ended by itself, exit code 4") == 1
    assert "running, pid" in cluster.package_log(there, "db")
    it.set(APPS, "migration-threshold", NEVER)
    return seconds


def real_server_is_killed(cluster: Cluster) -> float:
    """The cluster notices nothing, and the applications neither."""
    it = Package(cluster)
    it.guest.shell.must("kill -9 $(cat /run/server.pid)")
    begin = time.monotonic()
    wait_for(lambda: it.said("connected again"), "the link", SLOW)
    seconds = time.monotonic() - begin
    it.settle()
    assert it.failures() == it.failed
    assert it.living() == it.pids
    it.dies_and_is_restarted()  # it is noticed as ever
    return seconds


def real_kernel_panics(cluster: Cluster) -> float:
    """The VM ends, and is started again."""
    it = Package(cluster)
    it.guest.shell.tell("echo c >/proc/sysrq-trigger")
    seconds = it.recovery()
    vm, web, db = it.failed
    assert it.failures() == [vm + 1, web, db]
    assert it.said("the link was lost")
    assert it.said("stopped as far as the cluster is concerned")
    return seconds


def real_guest_freezes(cluster: Cluster) -> float:
    """Nobody but the managers notices, and the package moves at the first failure."""
    it = Package(cluster)
    assert it.failed == [0, 0, 0]
    it.set(APPS, "migration-threshold", "1")
    it.vm.freeze()
    seconds = it.recovery(OTHER[it.node])
    assert it.said("exit 202, lost")
    assert it.said("stopped as far as the cluster is concerned")
    it.set(APPS, "migration-threshold", NEVER)
    return seconds


def real_guest_is_cut_off(cluster: Cluster) -> float:
    """Only its own link is: the package moves, and the guest, which is well, moves as it is.

    So do the applications, but for those whose stop comes so late that the guest hears it again. It
    moves back to the node that it had failed at, which a cleanup allows.
    """
    it = Package(cluster)
    there = OTHER[it.node]
    for each in APPS:
        cluster.run("crm_resource", "--cleanup", "--resource", each, "--node", there)
    it.settle(it.node)
    assert it.failures() == [0, 0, 0]
    it.set(APPS, "migration-threshold", "1")
    it.vm.unplug()
    begin = time.monotonic()
    it.settle(there)
    seconds = time.monotonic() - begin
    living = it.living()
    assert it.guest.boot() == it.boot
    said = {each: cluster.package_log(it.node, each) for each in APPS}
    assert any("exit 202, lost" in text for text in said.values())
    for each in APPS:
        assert (living[each] == it.pids[each]) != ("exit 0, stopped" in said[each])
        assert "running, pid" in cluster.package_log(there, each)
    it.set(APPS, "migration-threshold", NEVER)
    return seconds


def real_vm_dies(cluster: Cluster) -> float:
    """QEMU is killed, and started again."""
    it = Package(cluster)
    it.vm.stop()
    seconds = it.recovery()
    vm, web, db = it.failed
    assert it.failures() == [vm + 1, web, db]
    assert it.said("the link was lost")
    assert it.said("stopped as far as the cluster is concerned")
    return seconds


def real_node_dies(cluster: Cluster) -> float:
    """The other one fences it, and runs the package."""
    it = Package(cluster)
    cluster.kill(it.node)
    seconds = it.goes_to_the_other()
    assert cluster.hypervisor.take_fenced() == [it.node]
    assert not it.managers_ended()
    return seconds


def real_node_is_cut_off(cluster: Cluster) -> float:
    """Its link is cut, and with it the guest's: the other one fences it first."""
    it = Package(cluster)
    cluster.cut(it.node)
    seconds = it.goes_to_the_other()
    assert cluster.hypervisor.take_fenced() == [it.node]
    assert not it.managers_ended()
    return seconds


REAL_SCENARIOS: tuple[Scenario, ...] = (
    # The first: a threshold counts the failures of the others at that node.
    real_guest_freezes,
    real_guest_is_cut_off,
    real_threshold_is_reached,
    real_application_dies,
    real_server_is_killed,
    real_kernel_panics,
    real_vm_dies,
    real_node_dies,
    real_node_is_cut_off,
)
