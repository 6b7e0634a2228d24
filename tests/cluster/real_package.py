"""The package of the scenarios with a guest that has a kernel of its own, in a VM of QEMU's.

Everything in it takes some twenty times as long, and so the guest stays: each scenario finds the
package as the one before it has left it, running well at either node, or starts it.
"""

import time
from collections.abc import Sequence
from functools import partial

from tests.cluster.cluster import Cluster
from tests.cluster.machines import wait_for
from tests.cluster.resources import OTHER, app, group, vm

# Seconds in which anything happens: a guest boots in ten, and beside others in a hundred.
SLOW = 300.0
NAME, APPS = "real1", ("web", "db")


class Package:
    """The VM with its applications as a group, at whatever node."""

    def __init__(self, cluster: Cluster, name: str = NAME, apps: Sequence[str] = APPS) -> None:
        self.cluster = cluster
        self.apps = apps
        self.all = (name, *apps)
        self.guest = cluster.real(name)
        self.vm = self.guest.vm
        if not self.vm.running:
            self.guest.declare(*apps)
            cluster.load(package(name, apps))
        self.settle()
        self.node = self.vm.node
        self.pid = self.vm.pid
        self.boot = self.guest.boot()
        self.pids = self.living()
        self.starts = self.guest.starts(apps[-1])
        # What is on record stays: to clean it up after a migration would restart the VM.
        self.failed = self.failures()
        cluster.read_logs()

    def settle(self, node: str = "") -> None:
        """Wait until all of it is there, or at whatever node, and the cluster is done."""

        def settled() -> bool:
            here = node or self.vm.node
            return self.cluster.is_at(here, *self.all) and self.cluster.idle()

        wait_for(settled, f"all of it at {node or 'some node'}", SLOW, every=0.2)

    def living(self) -> dict[str, int]:
        """The one process of each application; it has others for a moment while it begins."""
        for each in self.apps:
            wait_for(partial(self.guest.runs_once, each), f"{each} to run once", SLOW)
        assert self.guest.violations() == ""
        return {each: self.guest.pids(each)[0] for each in self.apps}

    def failures(self) -> list[int]:
        """The fail-counts: of the VM, and of each application."""
        return [self.cluster.failures(each) for each in self.all]

    def managers(self, node: str) -> list[int]:
        """Those that are there."""
        return sorted(self.cluster.processes_in(node, f"--guest={NAME} --report"))

    def said(self, text: str) -> int:
        """How often the log of ``db``, where it was at first, has that since then."""
        return self.cluster.package_log(self.node, "db").count(text)

    def managers_ended(self) -> int:
        """How many of the managers of ``db`` have ended, as they say; the agent quotes others."""
        return self.said(f"cmappmgr db@{NAME}: exit ")

    def set(self, resources: Sequence[str], name: str, value: str) -> None:
        """Set a meta attribute of resources."""
        words = ("--meta", "--set-parameter", name, "--parameter-value", value)
        for each in resources:
            self.cluster.run("crm_resource", "--resource", each, *words)

    def dies_and_is_restarted(self) -> float:
        """The seconds until ``db`` runs again; its end is counted once, and nothing else is.

        A monitor waits for it.
        """
        before, (vm, web, db) = self.guest.starts("db"), self.failures()
        self.cluster.wait_watched(self.node, "db")
        self.guest.order("db", 3)
        begin = time.monotonic()
        wait_for(lambda: self.guest.starts("db") == before + 1, "the next start", SLOW)
        seconds = time.monotonic() - begin
        self.settle()
        assert self.failures() == [vm, web, db + 1]
        assert self.managers_ended() == 1
        assert self.living()["web"] == self.pids["web"]
        assert self.vm.pid == self.pid
        return seconds

    def recovery(self, node: str = "", begin: float | None = None) -> float:
        """The seconds until another VM has all of it, there, each application once."""
        begin = time.monotonic() if begin is None else begin
        wait_for(lambda: self.vm.running and self.vm.pid != self.pid, "the next VM", SLOW)
        self.settle(node)
        seconds = time.monotonic() - begin
        self.living()
        assert self.guest.starts(self.apps[-1]) == self.starts + 1
        for each in self.apps:
            assert "running, pid" in self.cluster.package_log(self.vm.node, each)
        return seconds

    def goes_to_the_other(self) -> float:
        """The seconds until the other node has all of it; the one that is lost comes back then."""
        there = OTHER[self.node]
        seconds = self.recovery(there)
        self.cluster.boot(self.node)
        self.cluster.wait_online(*OTHER)
        self.settle(there)
        return seconds


def package(name: str, apps: Sequence[str]) -> str:
    """As resources. It stays where it is."""
    stays = {"resource_stickiness": "100", "allow_migrate": "true"}
    slow = {"config": "/etc/cmappd/slow.toml", "answer_timeout": "5"}
    members = [app(each, name, timeouts=("240s", "120s"), meta=stays, **slow) for each in apps]
    return group(f"package-{name}", vm(name, **stays), *members)
