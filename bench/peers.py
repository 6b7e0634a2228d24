"""Other supervisors, each with the same applications; used where they are installed."""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from bench import processes
from bench.series import BenchError, T, attempt
from bench.workspace import PYTHON, TIMEOUT, Workspace

Commands = Mapping[str, Sequence[str]]
# Of a supervisor that finds its programs by name.
PATH = f"{Path(PYTHON).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


@dataclass(frozen=True, slots=True)
class Peer:
    """How one supervisor is configured, started, and asked. Commands are argument lists."""

    name: str
    programs: tuple[str, ...]  # that must be installed
    configure: Callable[[Path, Commands], list[str]]  # gives the command that starts it
    status: Callable[[Path], list[str]] | None = None
    reload: Callable[[Path], list[str]] | None = None

    def measure(self, measure: Callable[["Peer"], T]) -> T | str:
        """What is measured with it, or why there is nothing."""
        if any(shutil.which(program, path=PATH) is None for program in self.programs):
            return "not installed"
        return attempt(lambda: measure(self))

    def start(self, workspace: Workspace, commands: Commands) -> Popen[bytes]:
        """Configure and start it; returns at once."""
        return workspace.start(self.configure(workspace.folder, commands), self.name)


def find(program: str) -> str:
    """The path of a program. Raises BenchError where it is not installed."""
    found = shutil.which(program, path=PATH)
    if found is None:
        raise BenchError(f"{program} is not installed")
    return found


def sleepers(workspace: Workspace, count: int) -> dict[str, Sequence[str]]:
    """So many applications that do nothing."""
    return {f"app{number:04d}": workspace.sleeper() for number in range(count)}


def wait_until_running(workspace: Workspace, count: int) -> list[int]:
    """The pids of so many applications that do nothing, once they are there.

    Looks seldom, not to be in the way; when each began is in /proc afterwards.
    """
    deadline = time.monotonic() + TIMEOUT
    while len(found := processes.running(workspace.sleeper())) < count:
        if time.monotonic() > deadline:
            raise BenchError(f"only {len(found)} of {count} run after {TIMEOUT:g} s")
        time.sleep(0.2)
    return found


# supervisord ---------------------------------------------------------------------------


def _supervisord(folder: Path, commands: Commands) -> list[str]:
    socket = folder / "supervisor.sock"
    general = [
        f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\nminfds=10240\n"
        f"pidfile={folder}/supervisord.pid\nchildlogdir={folder}",
        f"[unix_http_server]\nfile={socket}",
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory="
        "supervisor.rpcinterface:make_main_rpcinterface",
        f"[supervisorctl]\nserverurl=unix://{socket}",
    ]
    programs = [
        f"[program:{name}]\ncommand={' '.join(command)}\nautorestart=true\nstartsecs=0\n"
        f"redirect_stderr=true\nstdout_logfile={folder}/{name}.log\nstdout_logfile_maxbytes=0"
        for name, command in commands.items()
    ]
    config = folder / "supervisord.conf"
    config.write_text("\n".join([*general, *programs, ""]))
    return [find("supervisord"), "-c", str(config)]


def _supervisorctl(verb: str) -> Callable[[Path], list[str]]:
    return lambda folder: [find("supervisorctl"), "-c", str(folder / "supervisord.conf"), verb]


# circus --------------------------------------------------------------------------------


def _circusd(folder: Path, commands: Commands) -> list[str]:
    endpoints = (
        f"[circus]\nendpoint=ipc://{folder}/circus.sock\n"
        f"pubsub_endpoint=ipc://{folder}/circus-pubsub.sock"
    )
    watchers = [
        f"[watcher:{name}]\ncmd={command[0]}\nargs={' '.join(command[1:])}\ncopy_env=true\n"
        f"stdout_stream.class=FileStream\nstdout_stream.filename={folder}/{name}.log\n"
        f"stderr_stream.class=FileStream\nstderr_stream.filename={folder}/{name}.log"
        for name, command in commands.items()
    ]
    config = folder / "circus.ini"
    config.write_text("\n".join([endpoints, *watchers, ""]))
    return [find("circusd"), str(config)]


def _circusctl(verb: str) -> Callable[[Path], list[str]]:
    def command(folder: Path) -> list[str]:
        endpoint = f"ipc://{folder}/circus.sock"
        return [find("circusctl"), "--timeout", "60", "--endpoint", endpoint, verb]

    return command


# s6 and runit --------------------------------------------------------------------------


def _directories(folder: Path, commands: Commands) -> Path:
    services = folder / "services"
    for name, command in commands.items():
        run = services / name / "run"
        run.parent.mkdir(parents=True)
        run.write_text(f"#!/bin/sh\nexec {' '.join(command)}\n")
        run.chmod(0o755)
    return services


def _s6(folder: Path, commands: Commands) -> list[str]:
    most = str(len(commands) + 8)
    return [find("s6-svscan"), "-c", most, str(_directories(folder, commands))]


def _runit(folder: Path, commands: Commands) -> list[str]:
    return [find("runsvdir"), str(_directories(folder, commands))]


def _sv(folder: Path) -> list[str]:
    return [find("sv"), "status", *map(str, sorted((folder / "services").iterdir()))]


# monit ---------------------------------------------------------------------------------


def _monit(folder: Path, commands: Commands) -> list[str]:
    """The commands are health checks, each made every ten seconds."""
    own = (f"{kind}file {folder}/monit.{kind}" for kind in ("log", "pid", "id", "state"))
    general = ["set daemon 10", *(f"set {one}" for one in own)]
    checks = [
        f'check program {name} with path "{" ".join(command)}"\n  if status != 0 then alert'
        for name, command in commands.items()
    ]
    config = folder / "monitrc"
    config.touch(mode=0o600)
    config.write_text("\n".join([*general, *checks, ""]))
    return [find("monit"), "-I", "-c", str(config)]


SUPERVISORD = Peer(
    "supervisord",
    ("supervisord", "supervisorctl"),
    _supervisord,
    _supervisorctl("status"),
    _supervisorctl("update"),
)
CIRCUS = Peer(
    "circus", ("circusd", "circusctl"), _circusd, _circusctl("status"), _circusctl("reloadconfig")
)
S6 = Peer("s6", ("s6-svscan", "s6-supervise"), _s6)
RUNIT = Peer("runit", ("runsvdir", "runsv", "sv"), _runit, _sv)
MONIT = Peer("monit", ("monit",), _monit)
ALL = (SUPERVISORD, CIRCUS, S6, RUNIT)
