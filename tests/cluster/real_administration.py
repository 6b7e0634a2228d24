"""What is done to a cluster on purpose, with a guest that has a kernel of its own.

All but a stop on request leaves the applications alone (see real_package.py).
"""

import time

from tests.cluster.cluster import Cluster
from tests.cluster.machines import wait_for
from tests.cluster.real_package import APPS, NAME, SLOW, Package
from tests.cluster.resources import OTHER
from tests.cluster.scenarios import Scenario

REBOOT = """\
kill $(cat /run/boot.pid /run/server.pid)
while [ -d /proc/$(cat /run/server.pid) ]; do sleep 0.2; done
umount /etc/cmappd /disk; reboot -f"""


def real_guest_migrates(cluster: Cluster) -> float:
    """Live, from node to node: nothing is stopped, and nothing has failed."""
    it = Package(cluster)
    there = OTHER[it.node]
    cluster.run("crm_resource", "--move", "--resource", NAME, "--node", there)
    begin = time.monotonic()
    it.settle(there)
    seconds = time.monotonic() - begin
    cluster.run("crm_resource", "--clear", "--resource", NAME)
    it.settle(there)
    assert it.failures() == it.failed
    assert it.living() == it.pids
    assert it.said("detached: the application runs on")
    assert "running, pid" in cluster.package_log(there, "db")
    assert (len(it.managers(it.node)), len(it.managers(there))) == (0, 2)
    assert it.guest.control("status", "-v").count(f"vmhost{there[-1]}") >= len(APPS)
    Package(cluster).dies_and_is_restarted()
    return seconds


def real_guest_is_rebooted(cluster: Cluster) -> float:
    """Under maintenance its managers wait for it, and the cluster sees nothing."""
    it = Package(cluster)
    managers, shell = it.managers(it.node), it.guest.shell
    for each in APPS:
        it.guest.control("maintenance", each, "on")
    shell.tell(REBOOT)
    begin = time.monotonic()
    wait_for(lambda: shell.booted() and it.guest.boot() != it.boot, "the reboot", SLOW)
    shell.until("cmappctl status | grep maintenance")
    for each in APPS:
        it.guest.control("start", each)
    seconds = time.monotonic() - begin
    for each in APPS:
        it.guest.control("maintenance", each, "off")
    it.settle()
    assert it.failures() == it.failed
    assert it.managers(it.node) == managers
    assert it.vm.pid == it.pid
    it.pids = it.living()
    assert it.guest.starts("db") == it.starts + 1
    wait_for(lambda: it.said("maintenance is over") == 1, "the end of the maintenance", SLOW)
    it.dies_and_is_restarted()
    return seconds


def real_application_is_worked_on(cluster: Cluster) -> float:
    """Under maintenance it is stopped in the guest, and the cluster does nothing."""
    it = Package(cluster)
    managers = it.managers(it.node)
    it.guest.control("maintenance", "db", "on")
    it.guest.control("stop", "db")
    assert it.guest.pids("db") == []
    time.sleep(3)  # in which a cluster that were to react had done so
    it.settle()
    assert it.guest.pids("db") == []
    begin = time.monotonic()
    it.guest.control("start", "db")
    it.guest.control("maintenance", "db", "off")
    it.settle()
    seconds = time.monotonic() - begin
    assert it.failures() == it.failed
    assert it.managers(it.node) == managers
    assert it.living()["web"] == it.pids["web"]
    assert it.guest.starts("db") == it.starts + 1
    assert it.said("stopped in the guest by its administrator") == 1
    wait_for(lambda: it.said("maintenance is over") == 1, "the end of the maintenance", SLOW)
    it.dies_and_is_restarted()  # it is noticed as ever
    return seconds


def real_unmanaged_stop_and_cleanup(cluster: Cluster) -> float:
    """Pacemaker goes and comes back, and finds everything; a cleanup forgets what has failed."""
    it = Package(cluster)
    managers = it.managers(it.node)
    cluster.run("crm_attribute", "--name", "maintenance-mode", "--update", "true")
    it.settle()
    begin = time.monotonic()
    cluster.restart_pacemaker(it.node)
    cluster.wait_online(*OTHER)
    it.settle(it.node)
    cluster.run("crm_attribute", "--name", "maintenance-mode", "--delete")
    it.settle(it.node)
    seconds = time.monotonic() - begin
    assert (it.living(), it.vm.pid, it.managers(it.node)) == (it.pids, it.pid, managers)
    assert not it.said("cmappmgr")
    it.failed = it.failures()
    it.dies_and_is_restarted()
    pids = it.living()
    cluster.run("crm_resource", "--cleanup", "--resource", "db")
    it.settle(it.node)
    assert it.failures()[-1] == 0
    assert (it.living(), it.vm.pid) == (pids, it.pid)
    return seconds


def real_node_is_put_on_standby(cluster: Cluster) -> float:
    """With a VM that may not migrate all is stopped in order, and nothing is called a failure."""
    it = Package(cluster)
    there, standby = OTHER[it.node], ("crm_attribute", "--node", it.node, "--name", "standby")
    it.set((NAME,), "allow-migrate", "false")
    cluster.run(*standby, "--update", "on")
    seconds = it.recovery(there)
    cluster.run(*standby, "--delete")
    it.set((NAME,), "allow-migrate", "true")
    it.settle(there)
    assert it.failures() == it.failed
    assert it.said("exit 0, stopped: stopped as its manager asked") == 1
    return seconds


REAL_ADMINISTRATION: tuple[Scenario, ...] = (
    real_application_is_worked_on,
    real_unmanaged_stop_and_cleanup,
    real_node_is_put_on_standby,
    real_guest_migrates,
    real_guest_is_rebooted,
)
