"""The stand-in guests: machines that run the real cmappserver, and applications that obey.

All guests share a disk, as the VMs of a cluster do. An application locks it as long as it runs, and
says there when somebody else has the lock: nothing that a cluster does may ever run two.
"""

import contextlib
import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import tomli_w

from tests.certificates import Authority
from tests.cluster.machines import Machine, Switch, wait_for

GUESTS = {"vm1": "10.77.0.11", "vm2": "10.77.0.12"}
# With kernels of their own, slow: see qemu.py.
REAL = {"real1": "10.77.0.21", "real2": "10.77.0.22", "real3": "10.77.0.23"}
PROGRAMS = Path(sys.executable).parent

BOOT = """\
exec </dev/null
mount -n -t tmpfs -o mode=755 tmpfs /run
mount -n -t tmpfs -o ro tmpfs /sys/fs/cgroup
mount -n -t proc proc /proc
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount -n --bind /run/boot_id /proc/sys/kernel/random/boot_id
(
    sleep {delay}
    while :; do
        {programs}/cmappserver --config {folder}/cmappserver.toml || :
        sleep 0.3
    done
) &
"""

APPLICATION = """\
exec 9>lock
flock -n 9 || echo "a second copy of {name} in {guest}" >>{disk}/violations
echo "started in {guest}" >>runs
read -r code <orders
echo "ends with $code" >>runs
exit "$code"
"""


class Disk:
    """What the guests share: a folder for each application."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def add(self, app: str) -> None:
        """Make room for an application."""
        (self.folder / app).mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self.folder / app / "orders")

    def order(self, app: str, code: int) -> None:
        """Let an application end with this code."""
        path = self.folder / app / "orders"

        def opened() -> int:
            with contextlib.suppress(OSError):  # fifo(7): nobody reads, so far
                return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            return 0

        with open(wait_for(opened, f"{app} to take orders"), "w") as file:
            file.write(f"{code}\n")

    def clear(self) -> None:
        """Forget all applications."""
        for folder in self.folder.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)
            else:
                folder.unlink()

    def pids(self, app: str) -> list[int]:
        """The processes of an application in whatever guest, as they are called outside."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self.folder / app):
                    found.append(process.pid)
        return found

    def pid(self, app: str) -> int:
        """The one process of an application; it has others for a moment while it begins."""

        def alone() -> list[int]:
            found = self.pids(app)
            return found if len(found) == 1 else []

        return wait_for(alone, f"{app} to run once")[0]

    def wait_starts(self, app: str, times: int) -> None:
        """Wait until it was started so often."""
        wait_for(lambda: self.starts(app) == times, f"start {times} of {app}")

    def runs(self, app: str) -> list[str]:
        """How often it was started, and where."""
        path = self.folder / app / "runs"
        return path.read_text().splitlines() if path.exists() else []

    def starts(self, app: str) -> int:
        """How often it was started."""
        return sum(line.startswith("started") for line in self.runs(app))

    def violations(self) -> str:
        """What the applications saw that must not be."""
        path = self.folder / "violations"
        return path.read_text() if path.exists() else ""


class Guest:
    """The files of one guest, which outlive its machine."""

    def __init__(self, name: str, folder: Path, authority: Authority, disk: Disk) -> None:
        self.name = name
        self.folder = folder
        self.delay = 0.5  # seconds that it takes to boot
        self.apps: dict[str, dict[str, Any]] = {}
        self._authority = authority
        self._identity = authority.guest(name, [GUESTS[name]], end=timedelta(days=90))
        self._disk = disk
        folder.mkdir()
        self.write()

    def define(self, app: str, *, stubborn: bool = False, **keys: Any) -> None:
        """Declare an application that obeys, and is ready at once where the keys say nothing.

        A stubborn one only ends by SIGKILL.
        """
        self._disk.add(app)
        script = APPLICATION.format(name=app, guest=self.name, disk=self._disk.folder)
        if stubborn:
            script = f"trap '' TERM\n{script}"
        self.apps[app] = {
            "command": ["/bin/sh", "-c", script],
            "directory": str(self._disk.folder / app),
            "start": {"ready": "0s"},
            "log": {"path": str(self.folder / f"{app}.log")},
            **keys,
        }

    def forget(self) -> None:
        """Declare nothing, and lose the logs."""
        self.apps.clear()
        self.write()
        for log in self.folder.glob("*.log"):
            log.unlink()

    def write(self) -> None:
        """Replace the configuration."""
        certificate, key = self._identity
        table = {
            "server": {"state_directory": "/run/cmappd"},
            "tls": {"certificate": certificate, "key": key, "ca": self._authority.ca},
            "managers": {"vmhost1": {"apps": ["*"]}, "vmhost2": {"apps": ["*"]}},
            "apps": self.apps,
        }
        new = self.folder / "new"
        new.write_text(tomli_w.dumps(table))
        new.chmod(0o600)
        new.rename(self.folder / "cmappserver.toml")

    def boot(self, switch: Switch) -> Machine:
        """Give it power."""
        script = BOOT.format(delay=self.delay, programs=PROGRAMS, folder=self.folder)
        return Machine(switch, GUESTS[self.name], self.folder, script)


def hosts_file(authority: Authority, number: int, **intervals: str) -> str:
    """The ``cmappmgr.toml`` of node ``number``."""
    certificate, key = authority.manager(f"vmhost{number}", end=timedelta(days=90))
    usual = {"poll_interval": "1s", "connect_timeout": "3s", "lost_after": "8s"}
    table = {
        "guests": {name: {"address": address} for name, address in (GUESTS | REAL).items()},
        "tls": {"certificate": certificate, "key": key, "ca": authority.ca},
        "manager": {**usual, **intervals},
    }
    return tomli_w.dumps(table)
