"""A guest that is the VM of packages, and two hosts."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from tests.end_to_end.harness import INTERVALS, Scene
from tests.end_to_end.programs import PROGRAMS
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
        self._vm = self.folder / "vm.sh"
        program, config = PROGRAMS / "cmappserver", self.guest.config
        self._vm.write_text(VM.format(program=program, config=config, folder=self.folder))
        self._vm.chmod(0o755)
        self.nodes: tuple[Node, ...] = (self.node("vmhost1"), self.node("vmhost2"))
        self._packages: list[Package] = []

    def node(self, name: str, **intervals: str) -> Node:
        """A host, with a certificate of its own."""
        certificate, key = self.scene.authority.manager(name)
        table = {
            "guests": {"vm1": {"address": f"127.0.0.1:{self.guest.port}", "server_name": "guest1"}},
            "tls": {"certificate": certificate, "key": key, "ca": self.scene.authority.ca},
            "manager": {**INTERVALS, **intervals},
        }
        folder = self.folder / f"host{len(list(self.folder.glob('host*')))}"
        folder.mkdir()
        config = folder / "cmappmgr.toml"
        config.write_text(tomli_w.dumps(table))
        files = {
            "/etc/cmcluster/vm1/vm.sh": str(self._vm),
            "/etc/cmcluster/vm1": str(folder / name),
        }
        return Node(folder, name, str(config), files)

    def package(self, definition: Definition) -> Package:
        """A package that is closed with the test."""
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

    def close(self) -> None:
        for package in self._packages:
            print(f"---- {package.log}\n{package.said()}")
            package.close()
        pid = self.folder / "vm.pid"
        if pid.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Nothing runs yet."""
    tmp_path.chmod(0o700)
    scene = Scene(tmp_path)
    stage = Stage(scene)
    try:
        yield stage
    finally:
        scene.print_logs()
        stage.close()
        scene.close()
