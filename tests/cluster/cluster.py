"""A real cluster of two nodes, the VMs that it runs, and what may be asked of them."""

import contextlib
import os
import re
import shutil
import subprocess
import time
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tests.certificates import Authority
from tests.cluster import nodes
from tests.cluster.guests import GUESTS, REAL, Disk, Guest, hosts_file
from tests.cluster.hypervisor import Hypervisor, StandIn
from tests.cluster.machines import PATIENCE, Machine, Switch, wait_for
from tests.cluster.qemu import Qemu
from tests.cluster.real_guest import INTERVALS, RealGuest
from tests.cluster.resources import ASKED_EVERY
from tests.guest_vm.image import image

NEEDED = ("corosync", "pacemakerd", "cibadmin", "crm_mon", "unshare", "setpriv", "nsenter", "ip")
PENDING = "-1"  # as the status of an operation


def why_not() -> str:
    """Why there can be no cluster here; nothing, where there can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        return f"needs {', '.join(missing)} (packages pacemaker, corosync and pacemaker-cli-utils)"
    script = f"mount -n -t overlay overlay -o lowerdir={Path(__file__).parent}:/srv /srv"
    namespaces = ("--net", "--mount", "--ipc", "--uts", "--pid", "--fork")
    tried = subprocess.run(
        ["unshare", *namespaces, "sh", "-c", script], capture_output=True, text=True, check=False
    )
    return f"needs namespaces and overlays: {tried.stderr.strip()}" if tried.returncode else ""


class Cluster:
    """Two nodes; the programs of Pacemaker are run in one that has power."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, Machine] = {}
        self._read: dict[Path, int] = {}  # bytes of each package log
        self.reals: dict[str, RealGuest] = {}
        self._switch = Switch()
        nodes.prepare(folder)
        self._authority = Authority(folder / "pki")
        self.disk = Disk(folder / "disk")
        self.guests = {
            name: Guest(name, folder / name, self._authority, self.disk) for name in GUESTS
        }
        self.hypervisor = Hypervisor(folder / "harness/harness.sock", self.nodes)
        for name, guest in self.guests.items():
            boot = partial(guest.boot, self._switch)
            self.hypervisor.vms[name] = StandIn(boot)
        for number, name in enumerate(nodes.NODES, 1):
            for file, intervals in {"cmappmgr.toml": {}, "slow.toml": INTERVALS}.items():
                config = folder / name / "etc/cmappd" / file
                config.write_text(hosts_file(self._authority, number, **intervals))
                config.chmod(0o600)
            self.boot(name)
        self.wait_online(*nodes.NODES)

    def close(self) -> None:
        """End all of it."""
        self.hypervisor.close()
        for real in self.reals.values():
            real.hang_up()
        for node in self.nodes.values():
            node.kill()
        self._switch.close()

    # Power ---------------------------------------------------------------------------

    def boot(self, name: str) -> None:
        """Give a node power."""
        self.nodes[name] = nodes.boot(name, self._switch, self.folder)

    def kill(self, name: str) -> None:
        """Take a node's power, and with it that of the VMs there."""
        self.hypervisor.power_off(name)

    def guest_machine(self, name: str) -> Machine:
        """The machine of a VM that runs."""
        vm = self.hypervisor.vms[name]
        assert isinstance(vm, StandIn)
        assert vm.machine is not None, f"{name} does not run"
        return vm.machine

    def real(self, name: str = "real1") -> RealGuest:
        """A guest with a kernel of its own, made when it is asked for. Raises CannotError."""
        if name not in self.reals:
            guest = RealGuest(name, self.folder / name, self._authority)
            guest.vm = Qemu(guest.folder, REAL[name], image(guest.folder), self.nodes)
            self.hypervisor.vms[name] = guest.vm
            self.reals[name] = guest
        return self.reals[name]

    def cut(self, name: str) -> None:
        """Cut a node's link, and with it those of the VMs there."""
        self.nodes[name].cut()
        for vm in self.hypervisor.vms.values():
            if vm.node == name:
                vm.cut()

    def restart(self) -> None:
        """Begin anew, with nodes that know of nothing."""
        for name in list(self.nodes):
            self.kill(name)
        self._forget()
        for name in nodes.NODES:
            nodes.reset(self.folder / name)
            self.boot(name)
        self.wait_online(*nodes.NODES)

    def restart_pacemaker(self, name: str) -> None:
        """Stop Pacemaker and Corosync at a node in order, and start them again."""
        node = self.nodes[name]
        node.run("sh", "-c", "kill -TERM $(pidof pacemakerd)")
        wait_for(lambda: not self.processes_in(name, "pacemakerd"), "the end of Pacemaker")
        node.run("corosync-cfgtool", "-H")
        wait_for(lambda: not self.processes_in(name, "corosync"), "the end of Corosync")
        node.run("sh", "-c", nodes.START)

    def processes_in(self, machine: str, words: str) -> list[int]:
        """The processes of a node or a guest whose command line has these words."""
        found = []
        where = self.nodes.get(machine) or self.guest_machine(machine)
        for pid in where.pids():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if words in line:
                    found.append(pid)
        return found

    # What the guests declare -----------------------------------------------------------

    def declare(self, guest: str, *apps: str, **keys: Any) -> None:
        """Have a guest declare applications, which obey."""
        for app in apps:
            self.guests[guest].define(app, **keys)
        self.guests[guest].write()

    def violations(self) -> str:
        """What the applications or the hypervisor saw that must never be."""
        seen = [f"{node} was fenced, for nothing\n" for node in self.hypervisor.fenced]
        return self.disk.violations() + "".join([*seen, *self.hypervisor.violations])

    def _forget(self) -> None:
        self.hypervisor.violations.clear()
        self.hypervisor.fenced.clear()
        self.disk.clear()
        for guest in self.guests.values():
            guest.forget()

    # What Pacemaker is told ----------------------------------------------------------

    def run(self, *words: str | Path, check: bool = True) -> str:
        """Run a program in the first node that has power; what it writes."""
        assert self.nodes, f"no node has power; fenced: {self.hypervisor.fenced}"
        done = next(iter(self.nodes.values())).run(*words, check=False)
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def load(self, resources: str, constraints: str = "") -> None:
        """Add resources with their constraints, as one change."""
        self.run(
            "cibadmin", "--modify", "--allow-create", "--xml-text",
            f"<configuration><resources>{resources}</resources>"
            f"<constraints>{constraints}</constraints></configuration>",
        )  # fmt: skip

    def clear(self) -> None:
        """Stop and forget all resources, and give power to all nodes."""
        # In this order: a node that comes back would be given what is to be stopped.
        self._default_role("Stopped")
        wait_for(lambda: not self.active() and self.idle(), "all to stop", every=0.1)
        for name in nodes.NODES:
            if name not in self.nodes:
                self.boot(name)
        self.wait_online(*nodes.NODES)
        self.run("crm_resource", "--cleanup")
        wait_for(self.idle, "the cleanup", every=0.1)
        self.run("cibadmin", "--replace", "--xml-text", "<constraints/>")
        self.run("cibadmin", "--replace", "--xml-text", nodes.RESOURCES)
        self._default_role("Started")
        assert not self.violations(), self.violations()
        self._forget()
        wait_for(self.idle, "the end of all", every=0.1)

    def _default_role(self, role: str) -> None:
        self.run("crm_attribute", "--type", "rsc_defaults", "--name", "target-role",
                 "--update", role)  # fmt: skip

    # What Pacemaker says -------------------------------------------------------------

    def status(self) -> ET.Element:
        """What crm_mon says, or nothing while it cannot say anything."""
        words = ("crm_mon", "-1", "--output-as=xml", "--inactive", "--include=failcounts,failures")
        try:
            return ET.fromstring(self.run(*words, check=False))
        except ET.ParseError:
            return ET.Element("none")

    def idle(self) -> bool:
        """Whether there is nothing that the cluster still wants to do."""
        dc = re.search(r"node(\d)", self.run("crmadmin", "--dc_lookup", check=False))
        if dc is None:
            return False
        return "S_IDLE" in self.run("crmadmin", "--status", dc[0], check=False)

    def wait_online(self, *names: str) -> None:
        """Wait until these are members of the cluster, and no others."""

        def online() -> bool:
            found = self.status().findall("nodes/node[@online='true'][@pending='false']")
            return {node.get("name") for node in found} == set(names)

        wait_for(online, f"{names} online", every=0.1)

    def active(self) -> dict[str, list[str]]:
        """The resources that are active, each with the nodes where it is."""
        return {
            str(resource.get("id")): [str(node.get("name")) for node in resource.findall("node")]
            for resource in self.status().iter("resource")
            if resource.get("id") != "switch" and resource.get("active") == "true"
        }

    def is_at(self, node: str, *resources: str) -> bool:
        """Whether these are there, all of them in order, and nowhere else."""
        found = {
            str(one.get("id")): [str(node.get("name")) for node in one.findall("node")]
            for one in self.status().iter("resource")
            if one.get("role") == "Started" and one.get("failed") == "false"
        }
        there = all(found.get(resource) == [node] for resource in resources)
        return there and not self.is_under_way(*resources)

    def is_under_way(self, *resources: str) -> bool:
        """Whether one of these is being started, stopped or migrated.

        Crm_mon tells it as Started, too, where a monitor is under way at another node.
        """
        status = ET.fromstring(self.run("cibadmin", "--query", "--scope", "status"))
        return any(
            operation.get("op-status") == PENDING and operation.get("operation") != "monitor"
            for resource in status.iter("lrm_resource")
            if resource.get("id") in resources
            for operation in resource.iter("lrm_rsc_op")
        )

    def wait_at(self, node: str, *resources: str, seconds: float = PATIENCE) -> None:
        """Wait until it is so; the cluster may have more to do, as the first monitors."""
        what = f"{resources} at {node}"
        wait_for(lambda: self.is_at(node, *resources), what, seconds, every=0.05)

    def settle(self) -> None:
        """Wait until the cluster has nothing more to do."""
        wait_for(self.idle, "the cluster to be idle", every=0.1)

    def wait_watched(self, node: str, app: str) -> None:
        """Wait until a monitor there waits for the end of the manager, and the other behind it."""

        def watched() -> bool:
            for pid in self.processes_in(node, f"cmappd-{app}/lock true"):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if time.time() - psutil.Process(pid).create_time() > 1.5 * ASKED_EVERY:
                        return True
            return False

        wait_for(watched, f"a monitor of {app} to wait", every=0.1)

    def failures(self, resource: str) -> int:
        """The fail-count of a resource, over all nodes."""
        return sum(
            int(str(history.get("fail-count", 0)).replace("INFINITY", "1000000"))
            for history in self.status().iter("resource_history")
            if history.get("id") == resource
        )

    def read_logs(self) -> None:
        """Be done with what the package logs have: a claim must not rest on old words."""
        for path in self.folder.glob("node*/var/log/cmappd/*.log"):
            self._read[path] = path.stat().st_size

    def package_log(self, node: str, resource: str) -> str:
        """What the manager and the agent have written there since the logs were read."""
        path = self.folder / node / "var/log/cmappd" / f"{resource}.log"
        return path.read_bytes()[self._read.get(path, 0) :].decode() if path.exists() else ""
