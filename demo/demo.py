"""cmappd at work, in one temporary folder: make demo

Every command that is shown is run, in that folder, with the programs of this virtual
environment on the path. Nothing is left behind, whether it comes to its end or is interrupted.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import tomli_w

PATIENCE = 15.0  # seconds for anything to happen that should take one or two
CONTROL = "run/control.sock"
STATUS = f"cmappctl --socket {CONTROL} status"
SERVER = "cmappserver --config cmappserver.toml"
MANAGER = "cmappmgr --app web --config cmappmgr.toml"

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Table = dict[str, Any]


class DemoError(Exception):
    """Something did not happen as it should."""


class Demo:
    """The folder, and what was started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "www").mkdir()
        self.definition: Table = {}
        self._started: list[subprocess.Popen[bytes]] = []
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        self._environment = {**os.environ, "PATH": path, "XDG_STATE_HOME": str(folder)}

    # Commands ------------------------------------------------------------------------

    def run(self, command: str) -> None:
        """Show a command, and run it to its end."""
        show(command)
        subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env=self._environment,
            check=True,
            timeout=PATIENCE,
        )

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Show a command, and run it in the background; what it says is shown as it comes."""
        show(f"{command} &")
        # A session of its own: Ctrl-C is for the demo, which then ends things in order.
        with uninterrupted():  # else it would run without being known
            process = subprocess.Popen(
                shlex.split(command),
                cwd=self.folder,
                env=self._environment,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._started.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes], command: str) -> int:
        """Send SIGTERM, and give the exit code."""
        show(f"kill -TERM {process.pid}          # {command}")
        process.terminate()
        return process.wait(PATIENCE)

    def clean_up(self) -> None:
        """End what still runs: the manager before the server, in order before by force."""
        for process in reversed(self._started):
            for signum in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
                if process.poll() is None:
                    process.send_signal(signum)
                    with suppress(subprocess.TimeoutExpired):  # the next one is stronger
                        process.wait(PATIENCE)

    # The guest -----------------------------------------------------------------------

    def write(self, name: str, content: Table) -> None:
        """Write a file as editors do: aside, then in its place."""
        aside = self.folder / f".{name}.new"
        aside.write_text(tomli_w.dumps(content))
        aside.rename(self.folder / name)

    def status(self) -> Table:
        """What cmappserver says of the application; nothing while it does not answer."""
        answer = subprocess.run(
            [*shlex.split(STATUS), "--json", "web"],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )
        if answer.returncode != 0:
            return {}
        (status,) = json.loads(answer.stdout)["apps"]
        return dict(status)

    def wait_for(self, what: str, condition: Callable[[Table], bool]) -> Table:
        """The first status of which the condition is true. Raises DemoError."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            status = self.status()
            if status and condition(status):
                return status
            if self._started[-1].poll() is not None:
                raise DemoError(f"{self._started[-1].args!r} has ended, and should not have")
            time.sleep(0.05)
        raise DemoError(f"waited {PATIENCE:g} s in vain: {what}")

    def wait_until_healthy(self, owned: bool = True) -> Table:
        """Its status when it runs, is healthy, and has its owner."""
        return self.wait_for(
            "the application is running and healthy",
            lambda status: (
                (status["phase"], status["health"]) == ("running", "healthy")
                and bool(status["owner"]) == owned
            ),
        )


# What is shown -----------------------------------------------------------------------


def say(text: str) -> None:
    """A sentence of the story."""
    print(f"\n## {text}", flush=True)


def show(command: str) -> None:
    """A command."""
    print(f"$ {command}", flush=True)


# The story ---------------------------------------------------------------------------


def tell(demo: Demo) -> None:
    """All of it."""
    make_certificates(demo)
    server = start_server(demo)
    manager = start_manager(demo)
    kill_application(demo, manager)
    manager = start_again(demo)
    edit(demo)
    break_file(demo)
    stop(demo, manager, server)


def make_certificates(demo: Demo) -> None:
    say("An authority, and a certificate for each end. The manager's name in it is who it is.")
    demo.run("cmappctl pki init --dir pki")
    demo.run("cmappctl pki issue guest guest1 --address 127.0.0.1 --dir pki")
    demo.run("cmappctl pki issue manager vmhost1 --dir pki")


def start_server(demo: Demo) -> subprocess.Popen[bytes]:
    port, web_port = free_ports(2)
    demo.definition = guest_file(port, web_port)
    demo.write("cmappserver.toml", demo.definition)
    demo.write("cmappmgr.toml", host_file(port))
    say("The guest declares what may run: here a small web server, with a health command.")
    demo.run("cat cmappserver.toml")
    say("The guest starts cmappserver. The application waits for its manager.")
    server = demo.start(SERVER)
    demo.wait_for("cmappserver answers", lambda _: True)
    demo.run(STATUS)
    return server


def start_manager(demo: Demo) -> subprocess.Popen[bytes]:
    say("The cluster on the VM host starts the package's service: cmappmgr. It only names it.")
    manager = demo.start(MANAGER)
    demo.wait_until_healthy()
    demo.run(STATUS)
    return manager


def kill_application(demo: Demo, manager: subprocess.Popen[bytes]) -> None:
    pid = demo.status()["pid"]
    say("The application dies. Its manager tells the evidence, and exits with its code.")
    show(f"kill -KILL {pid}")
    os.kill(pid, signal.SIGKILL)
    code = manager.wait(PATIENCE)
    print(f"cmappmgr has ended with exit code {code}, which is 128 + SIGKILL", flush=True)
    if code != 128 + signal.SIGKILL:
        raise DemoError("cmappmgr should have ended with 137")


def start_again(demo: Demo) -> subprocess.Popen[bytes]:
    say("The cluster sees a failed service, counts it, and starts it again, here or elsewhere.")
    manager = demo.start(MANAGER)
    demo.wait_until_healthy()
    return manager


def edit(demo: Demo) -> None:
    say("The guest's file is edited: health.interval applies at once, environment at a restart.")
    app = demo.definition["apps"]["web"]
    app["environment"] = {"GREETING": "hello"}
    app["health"]["interval"] = "500ms"
    demo.write("cmappserver.toml", demo.definition)
    demo.wait_for("the edit is noticed", lambda status: bool(status["restart_pending"]))
    demo.run(STATUS)
    pid = demo.status()["pid"]
    demo.run(f"cmappctl --socket {CONTROL} restart web")
    demo.wait_for("it runs anew", lambda status: status["pid"] not in (None, pid))
    demo.wait_until_healthy()


def break_file(demo: Demo) -> None:
    say("A mistake, intervall for interval, changes nothing: status shows the file and the line.")
    demo.definition["apps"]["web"]["health"]["intervall"] = "10s"
    demo.write("cmappserver.toml", demo.definition)
    demo.wait_for("the mistake is noticed", lambda status: bool(status["problem"]))
    demo.run(STATUS)


def stop(demo: Demo, manager: subprocess.Popen[bytes], server: subprocess.Popen[bytes]) -> None:
    say("The cluster halts the package: the manager stops the application in order, and exits 0.")
    code = demo.end(manager, "cmappmgr")
    print(f"cmappmgr has ended with exit code {code}", flush=True)
    demo.run(STATUS)
    say("The guest stops cmappserver.")
    server_code = demo.end(server, "cmappserver")
    print(f"cmappserver has ended with exit code {server_code}", flush=True)
    if code or server_code:
        raise DemoError("both should have ended with 0")


# The files ---------------------------------------------------------------------------


def guest_file(port: int, web_port: int) -> Table:
    """cmappserver.toml."""
    url = f"http://127.0.0.1:{web_port}/"
    python = sys.executable
    ask = f"import urllib.request as u; print(u.urlopen('{url}', timeout=4).status)"
    web = {
        "command": [python, "-m", "http.server", str(web_port), "--bind", "127.0.0.1"],
        "directory": "www",
        "start": {"ready": "health", "timeout": "10s"},
        "stop": {"timeout": "5s"},
        "health": {"command": [python, "-c", ask], "interval": "1s", "timeout": "5s"},
        "log": {"path": "web.log"},
    }
    return {
        "server": {
            "listen": [f"127.0.0.1:{port}"],
            "control": CONTROL,
            "state_directory": "run",
        },
        "tls": {"certificate": "pki/guest1.pem", "key": "pki/guest1.key", "ca": "pki/ca.pem"},
        "managers": {"vmhost1": {"apps": ["*"]}},
        "apps": {"web": web},
    }


def host_file(port: int) -> Table:
    """cmappmgr.toml."""
    return {
        "guests": {"guest1": {"address": f"127.0.0.1:{port}"}},
        "tls": {"certificate": "pki/vmhost1.pem", "key": "pki/vmhost1.key", "ca": "pki/ca.pem"},
    }


def free_ports(count: int) -> list[int]:
    """TCP ports of this machine that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


# The frame ---------------------------------------------------------------------------


@contextmanager
def temporary() -> Iterator[Demo]:
    """A demo in a folder of its own; afterwards nothing is left of it."""
    with tempfile.TemporaryDirectory(prefix="cmappd-demo-") as folder:
        demo = Demo(Path(folder))
        try:
            yield demo
        finally:
            for signum in INTERRUPTS:
                signal.signal(signum, signal.SIG_IGN)  # impatience would leave things behind
            demo.clean_up()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What stands below is done to its end; an interruption comes afterwards."""
    came: list[int] = []
    for signum in INTERRUPTS:
        signal.signal(signum, lambda number, _frame: came.append(number))
    yield
    for signum in INTERRUPTS:
        signal.signal(signum, interrupt)
    if came:
        raise KeyboardInterrupt


def interrupt(signum: int, _frame: FrameType | None) -> None:
    """As Ctrl-C does."""
    raise KeyboardInterrupt(signum)


def main() -> int:
    """The program."""
    for signum in INTERRUPTS:
        signal.signal(signum, interrupt)
    try:
        with temporary() as demo:
            say(f"All of it happens in {demo.folder}, with this on the path:")
            print(Path(sys.executable).parent, flush=True)
            tell(demo)
    except KeyboardInterrupt:
        return 130
    except (DemoError, subprocess.SubprocessError) as error:
        print(f"\nThe demo has failed: {error}", file=sys.stderr)
        return 1
    say("Nothing is left: no process, no file.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
