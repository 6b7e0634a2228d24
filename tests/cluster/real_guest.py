"""A guest with a kernel of its own: what is on its disk, and what is asked through its shell."""

import os
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import tomli_w

from tests.certificates import Authority
from tests.cluster.guests import APPLICATION, REAL
from tests.cluster.qemu import Qemu
from tests.guest_vm.shell import Shell

# Of its managers: what takes a second elsewhere takes it a minute on a busy machine.
INTERVALS = {"poll_interval": "2s", "connect_timeout": "30s", "lost_after": "25s"}
CONTROL = "cmappctl --socket /run/cmappd/control.sock"
# What is in its initramfs is new after each boot. What must last is on the disk: the configuration,
# what cmappserver keeps across reboots, and what the applications do.
BOOT = """\
mkdir -p /etc/cmappd /var/lib
mount --bind /disk/etc /etc/cmappd
ln -s /disk/lib /var/lib/cmappd
echo $$ >/run/boot.pid
while :; do
    cmappserver </dev/null >/dev/ttyS0 2>&1 &
    echo $! >/run/server.pid
    wait
done
"""
PIDS = """\
for each in /proc/[0-9]*; do
    [ "$(readlink $each/cwd)" != /disk/{app} ] || echo ${{each#/proc/}}
done
"""


class RealGuest:
    """The guest of a `Qemu`."""

    def __init__(self, name: str, folder: Path, authority: Authority) -> None:
        self.name = name
        self.folder = folder
        self.vm: Qemu
        self._authority = authority
        self._identity = authority.guest(name, [REAL[name]], end=timedelta(days=90))
        self._shell: Shell | None = None
        self._called = -1
        folder.mkdir()

    def declare(self, *apps: str) -> None:
        """Make a disk with these applications, which obey."""
        root = self.folder / "root"
        for part in ("etc", "lib", *apps):
            (root / part).mkdir(parents=True)
        for app in apps:
            os.mkfifo(root / app / "orders")
        (root / "boot").write_text(BOOT)
        certificate, key = self._identity
        for name, path in {"pem": certificate, "key": key, "ca": self._authority.ca}.items():
            shutil.copy(path, root / "etc" / name)
        table = {
            "tls": {"certificate": "pem", "key": "key", "ca": "ca"},
            "managers": {"vmhost1": {"apps": ["*"]}, "vmhost2": {"apps": ["*"]}},
            "apps": {app: self._definition(app) for app in apps},
        }
        config = root / "etc/cmappserver.toml"
        config.write_text(tomli_w.dumps(table))
        config.chmod(0o600)
        disk = self.folder / "disk"
        disk.unlink(missing_ok=True)
        words = ("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), "32M")
        subprocess.run(words, check=True, capture_output=True)
        shutil.rmtree(root)

    def _definition(self, app: str) -> dict[str, Any]:
        return {
            "command": [
                "/bin/sh",
                "-c",
                APPLICATION.format(name=app, guest=self.name, disk="/disk"),
            ],
            "directory": f"/disk/{app}",
            "start": {"ready": "0s"},
        }

    # While it runs -------------------------------------------------------------------

    @property
    def shell(self) -> Shell:
        """The shell of the VM, wherever that is by now."""
        called = self.vm.pid
        if self._shell is None or called != self._called:
            self.hang_up()
            self._shell, self._called = Shell(self.vm.shell, self.vm.console, self._runs), called
            self._shell.connect()
            self._shell.wait_booted()
        return self._shell

    def _runs(self) -> bool:
        return self.vm.running

    def hang_up(self) -> None:
        """Leave its line."""
        if self._shell is not None:
            self._shell.hang_up()
            self._shell = None

    def control(self, *words: str) -> str:
        """Run cmappctl."""
        return self.shell.must(f"{CONTROL} {' '.join(words)}")

    def order(self, app: str, code: int) -> None:
        """Let an application end with this code."""
        self.shell.must(f"echo {code} >/disk/{app}/orders")

    def pids(self, app: str) -> list[int]:
        """The processes of an application."""
        return [int(pid) for pid in self.shell.must(PIDS.format(app=app)).split()]

    def runs_once(self, app: str) -> bool:
        """Whether there is one process of it."""
        return len(self.pids(app)) == 1

    def starts(self, app: str) -> int:
        """How often it was started, since the disk is new."""
        return int(self.shell.run(f"grep -c ^started /disk/{app}/runs").output.split()[-1])

    def boot(self) -> str:
        """Which boot of its kernel this is."""
        return self.shell.must("cat /proc/sys/kernel/random/boot_id")

    def violations(self) -> str:
        """What the applications saw that must not be."""
        return self.shell.must("cat /disk/violations 2>/dev/null || :")
