"""A machine that systemd runs, in namespaces of its own, with cmappd installed on it.

systemd is its first process, sees no units but those that it is given, and has a cgroup (v2) of its
own for its root. The file system is this machine's, but for /run, /etc/cmappd, /var/log and what is
installed. It needs root, and is gone with the process that made it.
"""

import contextlib
import os
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

from tests.server.harness import wait_for

SYSTEMD = Path("/lib/systemd/systemd")
NAMESPACES = "--pid --mount --uts --ipc --cgroup --fork --kill-child=KILL"
TARGETS = ("basic", "sysinit", "shutdown", "network-online", "time-sync", "multi-user", "machine")

# Overlays without an upper layer, so that nothing can be written to this machine's own.
INIT = """
set -e
mount --make-rprivate /
mount -t overlay overlay -o lowerdir={destdir}/usr:/usr /usr
mount -t overlay overlay -o lowerdir={folder}/etc:/etc /etc
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind {folder}/run /run
mount --bind {folder}/cmappd /etc/cmappd
mount --bind {folder}/log /var/log
mount -t proc proc /proc
exec env -i container=test PATH=$PATH SYSTEMD_UNIT_PATH={folder}/units \\
    {systemd} --system --unit=machine.target --log-target=console --show-status=no
"""
LOG = """
[Service]
StandardOutput=append:{log}
StandardError=append:{log}
"""


class Machine:
    """Made, used and closed by one test."""

    def __init__(self, folder: Path, destdir: Path) -> None:
        self.folder = folder
        self.config = folder / "cmappd"
        for name in ("run", "cmappd", "log", "units", "etc/cmappd"):
            (folder / name).mkdir(parents=True)
        for target in TARGETS:
            (folder / f"units/{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        for unit in (destdir / "usr/lib/systemd/system").iterdir():
            (folder / "units" / unit.name).write_text(unit.read_text())
        (folder / "units/service.d").mkdir()
        (folder / "units/service.d/log.conf").write_text(LOG.format(log=folder / "services.log"))
        self._cgroup = _own_cgroup()
        script = INIT.format(destdir=destdir, folder=folder, systemd=SYSTEMD)
        begin = f'echo $$ > {self._cgroup}/cgroup.procs; exec unshare {NAMESPACES} /bin/sh -c "$0"'
        with (folder / "systemd.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", begin, script], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.init = wait_for(self._first_process)
        wait_for(lambda: self.run("systemctl", "is-active", "machine.target").returncode == 0)

    def _first_process(self) -> int:
        assert self._process.poll() is None, (self.folder / "systemd.log").read_text()
        with open(f"/proc/{self._process.pid}/task/{self._process.pid}/children") as file:
            return int((file.read().split() or ["0"])[0])

    def said(self) -> str:
        """What the services have written."""
        log = self.folder / "services.log"
        return log.read_text() if log.exists() else ""

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a program on the machine."""
        enter = ["nsenter", "--target", str(self.init), "--all"]
        return subprocess.run(
            [*enter, *words], capture_output=True, text=True, timeout=60, check=False
        )

    def do(self, *words: str) -> str:
        """What a program that must succeed writes."""
        done = self.run(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}\n{self.said()}"
        return done.stdout

    def show(self, unit: str, key: str) -> str:
        """A property of a unit."""
        return self.do("systemctl", "show", "--value", "--property", key, unit).strip()

    def drop_in(self, unit: str, text: str) -> None:
        """Change a unit as an administrator does."""
        folder = self.folder / f"units/{unit}.d"
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(textwrap.dedent(text))
        self.do("systemctl", "daemon-reload")

    def close(self) -> None:
        """End everything on it: the kernel does, with the first process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        self._process.wait(30)
        _remove(self._cgroup)


def _own_cgroup() -> Path:
    """A new cgroup (v2); where there are none, what needs this machine cannot run."""
    with open("/proc/self/mountinfo") as file:
        points = [line.split()[4] for line in file if " - cgroup2 " in line]
    cgroup = Path(points[0]) / f"cmappd-test-{os.getpid()}"
    cgroup.mkdir()
    return cgroup


def _remove(cgroup: Path) -> None:
    def emptied() -> bool:
        with contextlib.suppress(OSError):
            for folder, _, _ in os.walk(cgroup, topdown=False):
                os.rmdir(folder)
        return not cgroup.exists()

    wait_for(emptied)


@contextlib.contextmanager
def machine(folder: Path, destdir: Path) -> Iterator[Machine]:
    found = Machine(folder, destdir)
    try:
        yield found
    finally:
        found.close()
