"""A guest for the tests: a real ``cmappserver``, its files and certificates, and its peers.

The server runs as a program of its own in a folder of its own, with free ports. ::

    with Guest(tmp_path, stanza("db", "/bin/sleep", "600")).started() as guest:
        manager = guest.manager("vmhost1")
        state = manager.ask(Claim(manager.next(), "db"))
        guest.write(stanza("db", "/bin/sleep", "700"))
        assert guest.control().app("db").restart_pending

Every wait has a deadline. What a guest has started ends with it, also after a kill -9.
"""

import contextlib
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import psutil
import tomli_w

from cmappd.core import wire
from cmappd.core.messages import (
    AppStatus,
    Claim,
    Done,
    Hello,
    Message,
    Refused,
    Reply,
    State,
    Status,
    Welcome,
)
from cmappd.errors import ConfigError
from cmappd.system import hierarchy, marks, proc, tls
from tests.certificates import Authority, Identity
from tests.ports import free_port

PATIENCE = 15.0  # seconds in which what must happen happens, on a busy machine too
PROGRAM = "from cmappd.server.main import main; main()"
EVERYBODY = '[managers.vmhost1]\napps = ["*"]\n[managers.vmhost2]\napps = ["*"]\n'

Found = TypeVar("Found")


def wait_for(condition: Callable[[], Found], seconds: float = PATIENCE) -> Found:
    """The first true value of the condition; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return found


def stanza(name: str, *command: str, **keys: Any) -> str:
    """The TOML of one application, ready at once unless the keys say otherwise."""
    start = {"ready": "0s", **keys.pop("start", {})}
    stop = {"timeout": "5s", **keys.pop("stop", {})}
    log = {"path": f"{name}.log", **keys.pop("log", {})}  # beside the file it is in
    log = {key: value for key, value in log.items() if value is not None}
    table = {"command": list(command), **keys, "start": start, "stop": stop, "log": log}
    return tomli_w.dumps({"apps": {name: table}})


def shell(name: str, script: str, **keys: Any) -> str:
    """The TOML of an application that is a shell script."""
    return stanza(name, "/bin/sh", "-c", script, **keys)


def replace_file(path: Path, text: str) -> None:
    """Write a file as editors do: aside, and renamed."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    aside.write_text(text)
    aside.chmod(0o600)
    aside.replace(path)


def suspend(pid: int) -> None:
    """Stop a process; it stands still when it would have been its turn."""
    os.kill(pid, signal.SIGSTOP)
    status = Path(f"/proc/{pid}/status")
    wait_for(lambda: "\nState:\tT" in status.read_text())


def alive(pid: int) -> bool:
    """Whether there is such a process, zombies not counted."""
    stat = proc.read_stat(pid)
    return stat is not None and stat.alive


def survives(signum: int, pid: int) -> bool:
    """Whether a process handles or ignores a signal, as the kernel knows it."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = re.findall(r"^Sig(?:Ign|Cgt):\t(\w+)$", status, re.MULTILINE)
    return any(int(mask, 16) >> (signum - 1) & 1 for mask in masks)


class Cut(Exception):
    """The server has ended the connection."""


class Client:
    """A blocking peer of cmappserver, over whatever socket it is given."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.instance = secrets.token_hex(8)
        self.unasked: deque[Reply] = deque()  # what came beside the awaited replies
        self._receiver = wire.replies()
        self._seq = 0

    def next(self) -> int:
        """A sequence number for the next request."""
        self._seq += 1
        return self._seq

    def send(self, *messages: Message) -> None:
        self.socket.sendall(b"".join(map(wire.encode, messages)))

    def ask(self, message: Message, seconds: float = PATIENCE) -> Reply:
        """Say something, and wait for the answer; what else comes is kept as unasked."""
        self.send(message)
        return self.answer(message.seq, seconds)

    def answer(self, seq: int, seconds: float = PATIENCE) -> Reply:
        """The next answer to a request."""
        return self._next(lambda reply: reply.seq == seq, seconds)

    def hear(self, kind: type[Found], seconds: float = PATIENCE) -> Found:
        """The next message of a kind, be it one that has come already."""
        reply = self._next(lambda reply: isinstance(reply, kind), seconds)
        assert isinstance(reply, kind)
        return reply

    def hear_state(self, wanted: Callable[[AppStatus], object], seconds: float = PATIENCE) -> State:
        """The next pushed state of which that is true; the ones before are dropped."""
        deadline = time.monotonic() + seconds
        while True:
            state = self.hear(State, deadline - time.monotonic())
            if wanted(state.status):
                return state

    def _next(self, wanted: Callable[[Reply], bool], seconds: float) -> Reply:
        for reply in self.unasked:
            if wanted(reply):
                self.unasked.remove(reply)
                return reply
        deadline = time.monotonic() + seconds
        while True:
            replies = self._read(deadline)
            for at, reply in enumerate(replies):
                if wanted(reply):
                    self.unasked.extend(replies[at + 1 :])
                    return reply
                self.unasked.append(reply)

    def _read(self, deadline: float) -> list[Reply]:
        left = deadline - time.monotonic()
        assert left > 0, f"waited in vain; came: {list(self.unasked)}"
        self.socket.settimeout(left)
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise AssertionError(f"waited in vain; came: {list(self.unasked)}") from None
        except (ConnectionError, ssl.SSLError) as error:
            raise Cut(str(error)) from None
        if not data:
            raise Cut("closed")
        return self._receiver.receive(data)

    def greet(self) -> Welcome:
        reply = self.ask(Hello(self.next(), "test", self.instance))
        assert isinstance(reply, Welcome), reply
        self.greeted = reply
        return reply

    def claim(self, app: str, *, run: str | None = None, takeover: bool = False) -> Reply:
        return self.ask(Claim(self.next(), app, run=run, start=run is None, takeover=takeover))

    def ask_status(self) -> Done:
        """What it is told of the service as a whole."""
        seq = self.next()
        self.send(Status(seq))
        while isinstance(reply := self.answer(seq), State):
            pass
        assert isinstance(reply, Done), reply
        return reply

    def statuses(self, *apps: str) -> dict[str, AppStatus]:
        """What it is told of applications; of all that it may see, if none are named."""
        seq = self.next()
        self.send(Status(seq, apps))
        found = {}
        while isinstance(reply := self.answer(seq), State):
            found[reply.status.app] = reply.status
        assert isinstance(reply, Done), reply
        return found

    def app(self, name: str) -> AppStatus:
        return self.statuses(name)[name]

    def wait_app(
        self, name: str, wanted: Callable[[AppStatus], object], seconds: float = PATIENCE
    ) -> AppStatus:
        """The status of an application once something is true of it."""
        deadline = time.monotonic() + seconds
        while not wanted(status := self.app(name)):
            assert time.monotonic() < deadline, f"waited in vain: {status}"
            time.sleep(0.01)
        return status

    def wait_cut(self, seconds: float = PATIENCE) -> list[Reply]:
        """What still came before the server ended the connection."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(Cut):
            while True:
                self.unasked.extend(self._read(deadline))
        return list(self.unasked)

    def close(self) -> None:
        self.socket.close()


class Guest:
    """One guest: files, certificates, and the server while it runs."""

    def __init__(
        self,
        folder: Path,
        apps: str = "",
        *,
        managers: str = EVERYBODY,
        server: str = "",
        tls: bool = True,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "cmappserver.toml"
        self.state = folder / "state"
        self.control_path = self.state / "control.sock"
        self.log_path = folder / "server.log"
        self.authority = Authority(folder / "pki")
        self.identity = self.authority.guest("guest1", end=timedelta(days=90))
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        self.interpreter = sys.executable
        self.directory = folder  # where the server is started
        self.managers = managers
        self.server = server
        self.process: subprocess.Popen[bytes] | None = None
        self._tls = tls
        self._managers: dict[str, Identity] = {}
        self._clients: list[Client] = []
        (folder / "apps.d").mkdir(mode=0o700, exist_ok=True)
        self.write(apps)

    # The files -----------------------------------------------------------------------

    def head(self) -> str:
        """The configuration without its applications."""
        lines = ["[server]", f'state_directory = "{self.state}"', 'include = ["apps.d/*.toml"]']
        if self._tls:
            lines.append(f'listen = ["127.0.0.1:{self.port}"]')
        lines.append(self.server)
        if self._tls:
            certificate, key = self.identity
            lines += ["[tls]", f'certificate = "{certificate}"', f'key = "{key}"']
            lines.append(f'ca = "{self.authority.ca}"')
        return "\n".join([*lines, self.managers, ""])

    def write(self, apps: str) -> None:
        """Replace the applications in the main file."""
        replace_file(self.config, self.head() + apps)

    def include(self, name: str, text: str) -> Path:
        """Write a file in the include directory."""
        path = self.folder / "apps.d" / name
        replace_file(path, text)
        return path

    # The server ----------------------------------------------------------------------

    def launch(self) -> subprocess.Popen[bytes]:
        """Run the program; its log goes on in the same file."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [self.interpreter, "-c", PROGRAM, "--config", str(self.config)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        return self.process

    def start(self) -> "Guest":
        """Run the program, and wait until it is ready."""
        seen = len(self.log())
        process = self.launch()
        wait_for(lambda: " is ready, " in self.log()[seen:] or process.poll() is not None)
        assert process.poll() is None, self.log()
        return self

    @contextlib.contextmanager
    def started(self) -> Iterator["Guest"]:
        """Run the program for a while; afterwards there must be no traceback in its log."""
        try:
            yield self.start()
        finally:
            self.close()
        assert "Traceback" not in self.log(), self.log()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, signum: int) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit code of the program."""
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """kill -9 of the server alone; its applications live on."""
        self.signal(signal.SIGKILL)
        self.wait()

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def wait_log(self, pattern: str, times: int = 1) -> None:
        """Wait until the log has so many matches of a regular expression."""
        wait_for(lambda: len(re.findall(pattern, self.log())) >= times)

    def memory(self) -> int:
        """Resident bytes of the server."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def app_pids(self) -> list[int]:
        """The processes of this guest's applications, whichever server launched them."""
        epochs = self.state / "epochs"
        mine = set(epochs.read_text().split()) if epochs.exists() else set()
        found = marks.marked().items() if mine else ()
        return [
            one.pid
            for run, members in found
            if run.rpartition(".")[0].rpartition(".")[2] in mine
            for one in members
        ]

    def close(self) -> None:
        """End the server, everything that it has launched, and the connections to it."""
        self.hang_up()
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
            self.process.kill()
            self.process.wait()
        for pid in self.app_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        remove_cgroups(self.state)

    def hang_up(self) -> None:
        """End all connections that were made here."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    # Peers ---------------------------------------------------------------------------

    def manager_identity(self, name: str) -> Identity:
        if name not in self._managers:
            self._managers[name] = self.authority.manager(name)
        return self._managers[name]

    def raw(self) -> socket.socket:
        """A TCP connection to the TLS port; the caller closes it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def connect(self, identity: Identity, ca: str | None = None) -> Client:
        """A TLS connection with any certificate; not greeted."""
        context = tls.client_context(*identity, ca or self.authority.ca)
        return self.connect_with(context)

    def connect_with(self, context: ssl.SSLContext) -> Client:
        """A TLS connection with any context; not greeted."""
        sock = self.raw()
        try:
            return self._client(context.wrap_socket(sock, server_hostname="localhost"))
        except BaseException:
            sock.close()
            raise

    def manager(self, name: str = "vmhost1", instance: str | None = None) -> Client:
        """A manager that has said hello."""
        client = self.connect(self.manager_identity(name))
        client.instance = instance or client.instance
        client.greet()
        return client

    def control(self) -> Client:
        """The administrator, who has said hello."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(str(self.control_path))
        client = self._client(sock)
        client.greet()
        return client

    def _client(self, sock: socket.socket) -> Client:
        client = Client(sock)
        self._clients.append(client)
        return client


def remove_cgroups(state: Path) -> None:
    """What a server that was killed has left, once nobody is in it any more."""
    with contextlib.suppress(ConfigError):
        found = hierarchy.open_hierarchy(hierarchy.name_of(str(state)))
        deadline = time.monotonic() + PATIENCE
        while found.leftovers() and time.monotonic() < deadline:
            time.sleep(0.01)
        found.remove()


def refusal(reply: Reply) -> str:
    """The reason of a refusal; fails for anything else."""
    assert isinstance(reply, Refused), reply
    return reply.reason
