"""Nodes, a guest that is the VM of packages, and packages; ``staged`` ends all of it."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import tomli_w

from tests.end_to_end.guest import Guest
from tests.end_to_end.harness import INTERVALS, Scene
from tests.end_to_end.programs import PROGRAMS, Table
from tests.serviceguard.runner import EXAMPLES, Definition, Node, Package, read, read_legacy

# What starts and stops the VM: here cmappserver, which is not awaited, as a boot is not.
VM = """#!/bin/bash
case $1 in
    start)
        setsid {program} --config {config} >>{folder}/server.log 2>&1 </dev/null &
        echo $! >{folder}/vm.pid
        ;;
    stop)
        pid=$(<{folder}/vm.pid)
        kill -TERM "$pid"
        while grep -qs . "/proc/$pid/cmdline"; do sleep 0.05; done
        rm {folder}/vm.pid
        ;;
esac
"""


class Stage:
    """Two nodes, the guest that they drive, and packages."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.guest = scene.guest
        self.folder = scene.folder
        self._guests: dict[str, Table] = {}
        self._scripts: dict[str, str] = {}
        self._packages: list[Package] = []
        self._closing = contextlib.ExitStack()
        self.add("vm1", self.guest, "guest1", self.guest.port)
        self.nodes: tuple[Node, ...] = (self.node("vmhost1"), self.node("vmhost2"))

    def add(self, name: str, guest: Guest, server_name: str, port: int) -> None:
        """Make a guest known to the nodes that come; they reach it at this port."""
        vm = guest.folder / "vm.sh"
        program, config = PROGRAMS / "cmappserver", guest.config
        vm.write_text(VM.format(program=program, config=config, folder=guest.folder))
        vm.chmod(0o755)
        self._guests[name] = {"address": f"127.0.0.1:{port}", "server_name": server_name}
        self._scripts[f"/etc/cmcluster/{name}/vm.sh"] = str(vm)
        if guest is not self.guest:  # which the scene ends
            self._closing.callback(guest.close)
        self._closing.callback(kill_vm, guest)

    def node(self, name: str, guest: str = "vm1", **intervals: str) -> Node:
        """A host, with a certificate of its own, and a guest that is meant where none is named."""
        certificate, key = self.scene.authority.manager(name)
        table = {
            "guest": guest,
            "guests": self._guests,
            "tls": {"certificate": certificate, "key": key, "ca": self.scene.authority.ca},
            "manager": {**INTERVALS, **intervals},
        }
        folder = self.folder / f"host{len(list(self.folder.glob('host*')))}"
        folder.mkdir()
        config = folder / "cmappmgr.toml"
        config.write_text(tomli_w.dumps(table))
        files = {**self._scripts, "/etc/cmcluster/vm1": str(folder / name)}
        return Node(folder, name, str(config), files)

    def package(self, definition: Definition) -> Package:
        """A package that is closed with the stage."""
        name = f"package{len(self._packages)}"
        (self.folder / name).mkdir()
        self._packages.append(Package(self.folder / name, definition, self.nodes))
        return self._packages[-1]

    def services(self) -> Definition:
        """The example whose applications are services."""
        return read((EXAMPLES / "services.conf").read_text(), PEV_CMAPPD_ANSWER_TIMEOUT="2")

    def external(self, **parameters: str) -> Definition:
        """The example whose applications are started by the external script."""
        here = {"PROGRAM": "/usr/local/bin/cmappmgr", "ANSWER_TIMEOUT": "2"}
        given = {f"PEV_CMAPPD_{name}": value for name, value in {**here, **parameters}.items()}
        return read((EXAMPLES / "external-script.conf").read_text(), **given)

    def legacy(self, **settings: str) -> Definition:
        """The example of a legacy package, with further settings."""
        here = {"PROGRAM": "/usr/local/bin/cmappmgr", "ANSWER_TIMEOUT": "2", **settings}
        lines = "".join(f"CMAPPD_{name}={value}\n" for name, value in here.items())
        filled_in = (EXAMPLES / "legacy.cntl").read_text().replace("\n. /", f"\n{lines}. /")
        return read_legacy((EXAMPLES / "legacy.conf").read_text(), filled_in, self.nodes)

    def closing(self, end: contextlib.AbstractContextManager[object]) -> None:
        """Have something ended with the stage."""
        self._closing.enter_context(end)

    def print_logs(self) -> None:
        """For people who read of a failure."""
        for path in sorted(self.folder.rglob("*.log")):
            print(f"---- {path.relative_to(self.folder)}\n{path.read_text(errors='replace')}")

    def close(self) -> None:
        for package in self._packages:
            package.close()
        self._closing.close()


def kill_vm(guest: Guest) -> None:
    """Take the power from a guest that runs by its script."""
    pid = guest.folder / "vm.pid"
    if not pid.exists():
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid.read_text()), signal.SIGKILL)
    pid.unlink()
    for each in guest.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """A stage in a folder, on which nothing runs yet."""
    folder.chmod(0o700)
    scene = Scene(folder)
    stage = Stage(scene)
    try:
        yield stage
    finally:
        stage.close()
        scene.close()
