"""The same with a guest that has a kernel of its own, in a VM of QEMU's.

Everything in it takes some twenty times as long, and so the guest stays: each scenario finds the
package as the one before it has left it, running well at either node, or starts it.
"""

import time
from functools import partial

from tests.cluster.cluster import Cluster
from tests.cluster.machines import wait_for
from tests.cluster.resources import OTHER, app, group, vm
from tests.cluster.scenarios import Scenario

# Seconds in which anything happens: a guest boots in ten, and beside others in a hundred.
SLOW = 300.0
NAME, APPS = "real1", ("web", "db")
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
REBOOT = """\
kill $(cat /run/boot.pid /run/server.pid)
while [ -d /proc/$(cat /run/server.pid) ]; do sleep 0.2; done
umount /etc/cmappd /disk; reboot -f"""


class Package:
    """The VM with two applications as a group, at whatever node."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.guest = cluster.real
        self.vm = self.guest.vm
        if not self.vm.running:
            self.guest.declare(*APPS)
            cluster.load(package())
        self.settle()
        self.node = self.vm.node
        self.pid = self.vm.pid
        self.pids = self.living()
        self.starts = self.guest.starts("db")
        # What is on record stays: to clean it up after a migration would restart the VM.
        self.failed = self.failures()

    def settle(self, node: str = "") -> None:
        """Wait until all of it is there, or at whatever node, and the cluster is done."""

        def settled() -> bool:
            here = node or self.vm.node
            return self.cluster.is_at(here, NAME, *APPS) and self.cluster.idle()

        wait_for(settled, f"all of it at {node or 'some node'}", SLOW, every=0.2)

    def living(self) -> dict[str, int]:
        """The one process of each application; it has others for a moment while it begins."""
        for each in APPS:
            wait_for(partial(self.guest.runs_once, each), f"{each} to run once", SLOW)
        assert self.guest.violations() == ""
        return {each: self.guest.pids(each)[0] for each in APPS}

    def failures(self) -> list[int]:
        """The fail-counts: of the VM, of ``web`` and of ``db``."""
        return [self.cluster.failures(each) for each in (NAME, *APPS)]

    def managers(self, node: str) -> list[int]:
        """Those that are there."""
        return sorted(self.cluster.processes_in(node, f"--guest {NAME} --report"))

    def said(self, text: str) -> int:
        """How often the log of ``db`` has that."""
        return self.cluster.package_log(self.node, "db").count(text)

    def dies_and_is_restarted(self) -> float:
        """The seconds until ``db`` runs again; its end is counted once, and nothing else is."""
        before, (vm, web, db) = self.guest.starts("db"), self.failures()
        self.guest.order("db", 3)
        begin = time.monotonic()
        wait_for(lambda: self.guest.starts("db") == before + 1, "the next start", SLOW)
        seconds = time.monotonic() - begin
        self.settle()
        assert self.failures() == [vm, web, db + 1]
        assert self.living()["web"] == self.pids["web"]
        assert self.vm.pid == self.pid
        return seconds

    def recovery(self, node: str = "") -> float:
        """The seconds from now until another VM has all of it, there, each application once."""
        begin = time.monotonic()
        wait_for(lambda: self.vm.running and self.vm.pid != self.pid, "the next VM", SLOW)
        self.settle(node)
        seconds = time.monotonic() - begin
        self.living()
        assert self.guest.starts("db") == self.starts + 1
        return seconds

    def goes_to_the_other(self) -> float:
        """The seconds until the other node has all of it; the one that is lost comes back then."""
        there = OTHER[self.node]
        seconds = self.recovery(there)
        self.cluster.boot(self.node)
        self.cluster.wait_online(*OTHER)
        self.settle(there)
        return seconds


def package() -> str:
    """As resources. It stays where it is."""
    stays = {"resource_stickiness": "100", "allow_migrate": "true"}
    slow = {"config": "/etc/cmappd/slow.toml", "answer_timeout": "5"}
    apps = [app(each, NAME, timeouts=("240s", "120s"), meta=stays, **slow) for each in APPS]
    return group(f"package-{NAME}", vm(NAME, **stays), *apps)


def real_application_dies(cluster: Cluster) -> float:
    """It is restarted, alone, and counted once."""
    return Package(cluster).dies_and_is_restarted()


def real_server_is_killed(cluster: Cluster) -> float:
    """The cluster notices nothing, and the applications neither."""
    it = Package(cluster)
    before = it.said("connected again")
    it.guest.shell.must("kill -9 $(cat /run/server.pid)")
    begin = time.monotonic()
    wait_for(lambda: it.said("connected again") > before, "the link", SLOW)
    seconds = time.monotonic() - begin
    it.settle()
    assert it.failures() == it.failed
    assert it.living() == it.pids
    it.dies_and_is_restarted()  # it is noticed as ever
    return seconds


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
    boot = shell.must(BOOT_ID)
    shell.tell(REBOOT)
    begin = time.monotonic()
    wait_for(lambda: shell.booted() and shell.must(BOOT_ID) != boot, "the reboot", SLOW)
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
    it.dies_and_is_restarted()
    return seconds


def real_kernel_panics(cluster: Cluster) -> float:
    """The VM ends, and is started again."""
    it = Package(cluster)
    it.guest.shell.tell("echo c >/proc/sysrq-trigger")
    seconds = it.recovery()
    vm, web, db = it.failed
    assert it.failures() == [vm + 1, web, db]
    return seconds


def real_guest_freezes(cluster: Cluster) -> float:
    """Nobody but the managers notices, and the package moves at the first failure."""
    it = Package(cluster)
    assert it.failed == [0, 0, 0]
    threshold = ("--meta", "--parameter-value", "1", "--set-parameter", "migration-threshold")
    for each in APPS:
        cluster.run("crm_resource", "--resource", each, *threshold)
    it.vm.freeze()
    seconds = it.recovery(OTHER[it.node])
    assert it.said("exit 202, lost")
    for each in APPS:
        cluster.run(
            "crm_resource", "--resource", each, "--meta", "--delete-parameter", threshold[-1]
        )
    return seconds


def real_vm_dies(cluster: Cluster) -> float:
    """QEMU is killed, and started again."""
    it = Package(cluster)
    it.vm.stop()
    seconds = it.recovery()
    vm, web, db = it.failed
    assert it.failures() == [vm + 1, web, db]
    return seconds


def real_node_dies(cluster: Cluster) -> float:
    """The other one fences it, and runs the package."""
    it = Package(cluster)
    cluster.kill(it.node)
    return it.goes_to_the_other()


def real_node_is_cut_off(cluster: Cluster) -> float:
    """Its link is cut, and with it the guest's: the other one fences it first."""
    it = Package(cluster)
    fenced = len(cluster.hypervisor.fenced)
    cluster.cut(it.node)
    seconds = it.goes_to_the_other()
    assert cluster.hypervisor.fenced[fenced:] == [it.node]
    return seconds


REAL_SCENARIOS: tuple[Scenario, ...] = (
    real_guest_freezes,  # the first: a threshold would count the failures of the others
    real_application_dies,
    real_server_is_killed,
    real_guest_migrates,
    real_guest_is_rebooted,
    real_kernel_panics,
    real_vm_dies,
    real_node_dies,
    real_node_is_cut_off,
)
