"""A cmappserver of our own, and what its managers and its administrator need to reach it.

As in production, no directory on the way to the configuration has a file that is written often:
cmappserver watches them, and would be woken for each write.
"""

import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import tomli_w

from bench import processes
from bench.series import BenchError
from bench.workspace import PYTHON, Lines, Workspace
from cmappd.system import pki

Stanza = Mapping[str, Any]
HOST, NAME, MANAGER = "127.0.0.1", "guest1", "vmhost1"

_RUNNING = r'"message": "(?:(\S+): running \(|configuration: (.*)"\})'
_PROGRAMS = {
    "cmappserver": "from cmappd.server.main import main; main()",
    "cmappmgr": "from cmappd.client.manager import main; main()",
    "cmappctl": "from cmappd.client.control import main; main()",
}


def program(name: str, *arguments: str) -> tuple[str, ...]:
    """The command line of one of ours, as the console script has it."""
    return (PYTHON, "-c", _PROGRAMS[name], *arguments)


def sleeper(workspace: Workspace, **keys: object) -> Stanza:
    """The stanza of an application that does nothing, and is ready at once."""
    command = list(workspace.sleeper())
    return {"command": command, "autostart": True, "start": {"ready": "0s"}, **keys}


def many(workspace: Workspace, count: int, **keys: object) -> dict[str, Stanza]:
    """So many stanzas of applications that do nothing."""
    return {f"app{number:04d}": sleeper(workspace, **keys) for number in range(count)}


class Guest:
    """A configured guest. Its folder is the workspace's; everything ends with that.

    ``first`` is Python that cmappserver carries out before it begins.
    """

    def __init__(self, workspace: Workspace, apps: Mapping[str, Stanza], first: str = "") -> None:
        self._workspace = workspace
        self._first = first
        self._etc = workspace.folder / "etc"
        self._pki = self._etc / "pki"
        self.logs = workspace.folder / "log"
        self.control = workspace.folder / "run/control.sock"
        self.port = _free_port()
        self.apps = dict(apps)
        self.process: subprocess.Popen[bytes] | None = None
        self._lines: Lines | None = None
        for directory in (self._etc / "apps.d", self.logs, self.control.parent):
            directory.mkdir(mode=0o700, parents=True)
        self._issue_certificates()
        self._configure()

    def _issue_certificates(self) -> None:
        pki.init(self._pki)
        pki.issue_guest(self._pki, NAME, ["localhost", HOST])
        pki.issue_manager(self._pki, MANAGER)

    def _configure(self) -> None:
        server = {
            "listen": [f"{HOST}:{self.port}"],
            "include": ["apps.d/*.toml"],
            "control": str(self.control),
            "state_directory": str(self.control.parent),
            "log_format": "json",
        }
        managers = {MANAGER: {"apps": ["*"]}}
        main = {"server": server, "tls": self._tls(NAME), "managers": managers}
        _write(self._etc / "cmappserver.toml", main)
        guests = {NAME: {"address": f"{HOST}:{self.port}"}}
        _write(self._etc / "cmappmgr.toml", {"guests": guests, "tls": self._tls(MANAGER)})

    def _tls(self, name: str) -> dict[str, str]:
        certificate, key, ca = self.certificate(name)
        return {"certificate": certificate, "key": key, "ca": ca}

    def certificate(self, name: str) -> tuple[str, str, str]:
        """The files of a certificate, of its key, and of the authority."""
        return f"{self._pki}/{name}.pem", f"{self._pki}/{name}.key", f"{self._pki}/ca.pem"

    @property
    def stanzas(self) -> Path:
        """The directory of the included files."""
        return self._etc / "apps.d"

    @property
    def place(self) -> tuple[str, ...]:
        """What a program that speaks TLS needs to reach it as a manager: words."""
        return (HOST, str(self.port), *self.certificate(MANAGER))

    def write_apps(self, file: str, names: Sequence[str]) -> float:
        """Write an included file with these stanzas; when it was there, as perf_counter counts."""
        stanzas = {name: self._with_log(name) for name in names}
        return _write(self.stanzas / file, {"apps": stanzas})

    def _with_log(self, name: str) -> dict[str, Any]:
        log = self.apps[name].get("log", {})
        if "destination" not in log:
            log = {**log, "path": str(self.logs / f"{name}.log"), "max_size": "1000G"}
        return {**self.apps[name], "log": log}

    def start(self) -> None:
        """Start cmappserver with all applications in one file; return when it is ready."""
        self.write_apps("all.toml", tuple(self.apps))
        self.launch()

    def launch(self) -> None:
        """Start cmappserver with the files as they are; return when it is ready."""
        config = str(self._etc / "cmappserver.toml")
        python, option, code, *words = program("cmappserver", "--config", config)
        command = (python, option, self._first + code, *words)
        self.process = self._workspace.start(command, "cmappserver")
        self._lines = self._workspace.follow("cmappserver")
        self._lines.wait("is ready")

    @property
    def pid(self) -> int:
        """Of cmappserver."""
        assert self.process is not None
        return self.process.pid

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """The next line of its log in which the pattern is found."""
        assert self._lines is not None
        return self._lines.wait(pattern)

    def wait_until_running(self) -> float:
        """Wait for all that start by themselves; when the last one ran, as ``time.time`` counts."""
        log = self._workspace.follow("cmappserver")
        left = {name for name, stanza in self.apps.items() if stanza["autostart"]}
        stamp = ""
        while left:
            found = log.wait(_RUNNING)
            if found[2]:
                raise BenchError(f"cmappserver refuses its configuration: {found[2]}")
            left.discard(found[1])
            stamp = found.string
        return _time_of(stamp) if stamp else time.time()

    def manager(self, app: str, *arguments: str) -> tuple[str, ...]:
        """The command line of a cmappmgr for an application."""
        config = str(self._etc / "cmappmgr.toml")
        return program("cmappmgr", "--config", config, "--app", app, *arguments)

    def administrator(self, *arguments: str) -> tuple[str, ...]:
        """The command line of a cmappctl."""
        return program("cmappctl", "--socket", str(self.control), *arguments)

    def pids(self) -> list[int]:
        """Those of the applications."""
        return processes.running(self._workspace.sleeper())


def _time_of(line: str) -> float:
    found = re.search('"time": "([^"]+)"', line)
    if found is None:
        raise BenchError(f"cmappserver logs a line without a time: {line}")
    return datetime.fromisoformat(found[1]).timestamp()


def _write(path: Path, content: Mapping[str, Any]) -> float:
    """Write aside and rename, as editors do; when, as perf_counter counts."""
    aside = path.with_suffix(".new")
    aside.write_text(tomli_w.dumps(dict(content)))
    renamed = time.perf_counter()
    os.replace(aside, path)
    return renamed


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])
