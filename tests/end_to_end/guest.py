"""A guest: its files, its certificates, and cmappserver while it runs."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import tomli_w

from cmappd.system import marks
from tests.certificates import Authority
from tests.end_to_end.programs import PATIENCE, PROGRAMS, Program, Table, wait_for
from tests.ports import free_port
from tests.server.harness import remove_cgroups, replace_file

GRACE = 2.0  # seconds for applications to end in order when a test is over


class Guest:
    """One guest, in a folder of its own."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "cmappserver.toml"
        self.state = folder / "state"
        self.identity = authority.guest("guest1", end=timedelta(days=90))
        self.apps: dict[str, Table] = {}
        self.managers: dict[str, Table] = {"vmhost1": {"apps": ["*"]}, "vmhost2": {"apps": ["*"]}}
        self.keys: Table = {}  # more of [server]
        self.tls: Table = {"ca": authority.ca}
        self.server: Program | None = None

    # The files -----------------------------------------------------------------------

    def define(self, name: str, *command: str, **keys: Any) -> None:
        """Set the stanza of an application, which is ready at once unless the keys say else."""
        start = {"ready": "0s", **keys.pop("start", {})}
        stop = {"timeout": "10s", **keys.pop("stop", {})}
        log = {"path": str(self.app_log(name))}
        basis = {"command": list(command), "directory": str(self.folder)}
        self.apps[name] = {**basis, **keys, "start": start, "stop": stop, "log": log}

    def shell(self, name: str, script: str, **keys: Any) -> None:
        """Set an application that is a shell script, which runs in the guest's folder."""
        self.define(name, "/bin/sh", "-c", script, **keys)

    def obedient(self, name: str, **keys: Any) -> None:
        """Set an application that runs until ``order``, and exits with the code ordered."""
        os.mkfifo(self.folder / f"{name}.orders")
        self.shell(name, f"read code <{name}.orders; exit $code", **keys)

    def order(self, name: str, code: int) -> None:
        """Let an obedient application exit with this code."""
        path = self.folder / f"{name}.orders"

        def opened() -> int:
            # ENXIO is fifo(7)'s word for nobody who reads, so far.
            with contextlib.suppress(OSError):
                return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            return 0

        with open(wait_for(opened, f"{name} to take orders"), "w") as file:
            file.write(f"{code}\n")

    def write(self) -> None:
        """Replace the configuration as it is set now."""
        certificate, key = self.identity
        server = {"listen": [f"127.0.0.1:{self.port}"], "state_directory": str(self.state)}
        table = {
            "server": {**self.keys, **server},
            "tls": {"certificate": certificate, "key": key, **self.tls},
            "managers": self.managers,
            "apps": self.apps,
        }
        replace_file(self.config, tomli_w.dumps(table))

    def app_log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def app_said(self, name: str) -> str:
        """What an application has written, as far as it is in its log."""
        path = self.app_log(name)
        return path.read_text() if path.exists() else ""

    def server_said(self) -> str:
        """The log of cmappserver."""
        return (self.folder / "server.log").read_text()

    # The server ----------------------------------------------------------------------

    def start(self, prefix: Sequence[str] = ()) -> Program:
        """Write the configuration, run cmappserver, and wait until it is ready for everybody."""
        self.write()
        words = ("--config", str(self.config))
        log = self.folder / "server.log"
        self.server = Program("cmappserver", *words, folder=self.folder, log=log, prefix=prefix)
        self.server.wait_said(" is ready, ")
        return self.server

    def ctl(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run cmappctl to its end."""
        return subprocess.run(
            [PROGRAMS / "cmappctl", "--socket", self.state / "control.sock", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def status(self, app: str) -> Table:
        """What ``cmappctl status --json`` says of an application."""
        done = self.ctl("status", "--json", app)
        assert done.returncode == 0, done.stderr
        (status,) = json.loads(done.stdout)["apps"]
        return dict(status)

    def wait_status(self, app: str, **wanted: object) -> Table:
        """Its status once these fields have these values."""

        def found() -> Table | None:
            status = self.status(app)
            return status if all(status[key] == value for key, value in wanted.items()) else None

        return wait_for(found, f"{app}: {wanted}") or {}

    def pid_of(self, app: str) -> int:
        """The main process of an application that runs."""
        return int(self.wait_status(app, phase="running")["pid"])

    def pids(self, app: str = "") -> list[int]:
        """The processes that bear a run mark of this guest, from /proc; all, or an application's.

        Not those of checks, which bear one too, nor those that write their title over it.
        """
        epochs = self.state / "epochs"
        mine = epochs.read_text().split() if epochs.exists() else []
        return [
            member.pid
            for run, members in marks.marked().items()
            if run.rpartition(".")[0] in {f"{app or run.rsplit('.', 2)[0]}.{one}" for one in mine}
            for member in members
            if not run.endswith("/health")
        ]

    def close(self) -> None:
        """End it, in order if it does; afterwards nothing of its applications may live."""
        below: list[psutil.Process] = []
        if self.server is not None and self.server.running:
            below = psutil.Process(self.server.pid).children(recursive=True)
            self.server.signal(signal.SIGCONT)
            self.server.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.server.wait(GRACE)
            if self.server.running:
                self.server.signal(signal.SIGTERM)  # which kills
            assert self.server.wait() == 0
        for pid in self.pids():  # of a server that was killed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.pids(), "the end of all applications")
        remove_cgroups(self.state)
        assert not [process for process in below if process.is_running()]
        said = "" if self.server is None else self.server.said()
        assert "Traceback" not in said, said
