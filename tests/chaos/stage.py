"""The three programs of the chaos test, their files, and the network between them."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import tomli_w

from tests.certificates import Authority
from tests.chaos.cast import Part, Table
from tests.chaos.world import World, identity_of
from tests.end_to_end.programs import PATIENCE, PROGRAMS, Program
from tests.end_to_end.proxy import Proxy
from tests.ports import free_port
from tests.server.harness import replace_file

INTERVALS = {
    "poll_interval": "1s",
    "connect_timeout": "60s",
    "lost_after": "60s",
    "stop_timeout": "5m",
}
DISK_SIZE = 512 * 1024
SAYS_RUNNING = re.compile(r" running(?:, pid (\d+))? \(run (\S+)\)$", re.MULTILINE)


class Manager:
    """One cmappmgr of an application, from its start to its exit."""

    def __init__(self, folder: Path, app: str, config: Path, number: int, *words: str) -> None:
        self.app = app
        self.number = number
        self.log = folder / "managers" / f"{app}.{number}.log"
        self._report = self.log.with_suffix(".json")
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                [PROGRAMS / "cmappmgr", "--config", config, "--app", app,
                 "--report", self._report, *words],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=folder,
            )  # fmt: skip
        self._size = -1
        self._said = ""
        self.terminated = False  # it was sent SIGTERM
        self.silent_when_terminated = False

    @property
    def code(self) -> int | None:
        """Its exit code, -N for signal N; None while it runs."""
        return self.process.poll()

    def said(self) -> str:
        size = self.log.stat().st_size
        if size != self._size:
            self._size, self._said = size, self.log.read_text()
        return self._said

    def follows(self) -> tuple[int | None, str] | None:
        """The main process and the run that it last said were running."""
        found = SAYS_RUNNING.findall(self.said())
        return (int(found[-1][0]) if found[-1][0] else None, found[-1][1]) if found else None

    def report(self) -> Table:
        return dict(json.loads(self._report.read_text())) if self._report.exists() else {}

    def terminate(self) -> None:
        self.silent_when_terminated = "connected to cmappserver" not in self.said()
        self.terminated = True
        self.process.send_signal(signal.SIGTERM)


class Control:
    """A cmappctl, which is not waited for."""

    def __init__(self, log: Path, socket: Path, words: tuple[str, ...]) -> None:
        self.words = words
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [PROGRAMS / "cmappctl", "--socket", socket, *words],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def answer(self) -> str:
        return self._log.read_text()


class Stage:
    """One guest and the hosts of its managers, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cast = folder / "cast"
        for name in ("cast", "logs", "managers", "apps.d", "control"):
            (folder / name).mkdir()
        self.world = World(self.cast)
        self.disk = small_disk(folder / "disk")
        self.port = free_port()
        self.state = folder / "state"
        self.parts: dict[str, Part] = {}
        self.on_shutdown = "stop"
        self.proxies = [Proxy(self.port) for _ in range(2)]
        authority = Authority(folder / "pki")
        self._guest, self._host = authority.guest("guest1"), authority.manager("vmhost1")
        self._ca = authority.ca
        self._hosts = [self._write_host(proxy.port, n) for n, proxy in enumerate(self.proxies)]
        self._managers = 0
        self._controls = 0
        self.server: Program | None = None
        self.servers: list[Program] = []  # all that were started
        self.server_started = 0.0

    # Files -------------------------------------------------------------------------------

    def _write_host(self, port: int, number: int) -> Path:
        path = self.folder / f"cmappmgr{number}.toml"
        certificate, key = self._host
        tls = {"certificate": certificate, "key": key, "ca": self._ca}
        guests = {"guest1": {"address": f"127.0.0.1:{port}", "server_name": "guest1"}}
        path.write_text(tomli_w.dumps({"guests": guests, "tls": tls, "manager": INTERVALS}))
        return path

    def break_main(self) -> None:
        replace_file(self.folder / "cmappserver.toml", "[server\n")

    def write_main(self) -> None:
        certificate, key = self._guest
        server = {
            "listen": [f"127.0.0.1:{self.port}"],
            "state_directory": str(self.state),
            "include": ["apps.d/*.toml"],
            "on_shutdown": self.on_shutdown,
        }
        tls = {"certificate": certificate, "key": key, "ca": self._ca}
        table = {"server": server, "tls": tls, "managers": {"vmhost1": {"apps": ["*"]}}}
        replace_file(self.folder / "cmappserver.toml", tomli_w.dumps(table))

    def stanza_file(self, name: str) -> Path:
        return self.folder / "apps.d" / f"{name}.toml"

    def write(self, name: str, keys: Table) -> None:
        replace_file(self.stanza_file(name), tomli_w.dumps({"apps": {name: keys}}))

    def add(self, part: Part) -> None:
        """Give it a folder, and a stanza."""
        self.parts[part.name] = part
        folder = self.cast / part.name
        folder.mkdir(exist_ok=True)
        sleep = shutil.which("sleep")
        assert sleep is not None
        if not (folder / "sleep").exists():
            (folder / "sleep").symlink_to(sleep)
        self.write(part.name, part.keys)

    def flag(self, app: str, name: str, *, on: bool) -> None:
        """Make an application sick or unable to start, or well again."""
        path = self.cast / app / name
        if on:
            path.touch()
        else:
            path.unlink(missing_ok=True)

    # Programs ----------------------------------------------------------------------------

    def start_server(self) -> None:
        self.server = Program(
            "cmappserver", "--config", str(self.folder / "cmappserver.toml"),
            folder=self.folder, log=self.folder / "server.log",
        )  # fmt: skip
        self.servers.append(self.server)
        self.server_started = time.monotonic()

    def server_is_ready(self) -> bool:
        assert self.server is not None
        ended = not self.server.running
        ready = " is ready, " in self.server.said()[self.server._seen :]
        assert ready or not ended, "cmappserver ended while it started"
        return ready

    def start_manager(self, app: str, *words: str) -> Manager:
        self._managers += 1
        host = self._hosts[self.host_of(app)]
        return Manager(self.folder, app, host, self._managers, *words)

    def host_of(self, app: str) -> int:
        """The number of the proxy that the managers of an application come by."""
        return len(app) % len(self._hosts)

    def control(self, *words: str) -> Control:
        self._controls += 1
        name = f"{self._controls}-{words[0]}.log"
        return Control(self.folder / "control" / name, self.state / "control.sock", words)

    def status(self) -> dict[str, dict[str, Any]]:
        """What ``cmappctl status --json`` says of each application."""
        done = subprocess.run(
            [PROGRAMS / "cmappctl", "--socket", self.state / "control.sock", "status", "--json"],
            capture_output=True, text=True, timeout=2 * PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"cmappctl status: {done.stderr}"
        return {one["app"]: one for one in json.loads(done.stdout)["apps"]}

    def close(self) -> None:
        for proxy in self.proxies:
            proxy.close()
        if self.disk is not None:
            shutil.copytree(self.disk, self.folder / "logs", dirs_exist_ok=True)
            subprocess.run(["umount", "--lazy", self.disk], check=True)

    def kill(self, pid: int, start: int, signum: int) -> bool:
        """Send a signal to this very process; whether it was there."""
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            if identity_of(pid) != (pid, start):
                return False
            signal.pidfd_send_signal(fd, signum)
        except (ProcessLookupError, AssertionError):
            return False
        finally:
            os.close(fd)
        return True


def small_disk(path: Path) -> Path | None:
    """A file system that is soon full; None where we may not make one."""
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "cmappd-chaos", str(path)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode:
        return None
    return path
