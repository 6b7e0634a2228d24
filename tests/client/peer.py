"""A real TLS or unix-socket server that speaks by a script, and the programs that talk to it."""

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cmappd.core import wire
from cmappd.core.messages import AppStatus, Claim, Hello, Message, Request, State, Welcome
from cmappd.core.state import Goal, Phase
from cmappd.system import tls
from tests.certificates import YEAR, Authority

DEADLINE = 15.0  # seconds; a test that waits longer fails
RUNNING = AppStatus("oracle", Goal.UP, Phase.RUNNING, run="r1", pid=7)


class HungUpError(Exception):
    """The client has ended the connection."""


class Conversation:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._receiver = wire.requests()
        self._pending: list[Request] = []

    def hear(self) -> Request:
        """The next request. Raises HungUpError when there will be none."""
        while not self._pending:
            try:
                data = self.connection.recv(65536)
            except (ConnectionError, ssl.SSLError):
                data = b""
            if not data:
                raise HungUpError
            self._pending += self._receiver.receive(data)
        return self._pending.pop(0)

    def say(self, *messages: Message) -> None:
        """Send messages."""
        self.connection.sendall(b"".join(map(wire.encode, messages)))

    def greet(self, boot: str = "b1", epoch: str = "e1") -> None:
        """Hello, and Welcome."""
        hello = self.hear()
        assert isinstance(hello, Hello)
        self.say(Welcome(hello.seq, "0.1", "guest1", boot, epoch))

    def grant(self, status: AppStatus = RUNNING, boot: str = "b1", epoch: str = "e1") -> Claim:
        """The greeting, and a claim that is granted; gives the claim."""
        self.greet(boot, epoch)
        claim = self.hear()
        assert isinstance(claim, Claim)
        self.say(State(claim.seq, status, boot, epoch))
        return claim


Script = Callable[[Conversation], None]


class Peer:
    """A listener; its connections are served by the scripts in turn, the last one for ever."""

    def __init__(
        self, listener: socket.socket, context: ssl.SSLContext | None, scripts: tuple[Script, ...]
    ) -> None:
        self._listener = listener
        self._context = context
        self._scripts = scripts
        self._thread = threading.Thread(target=self._serve)
        self._errors: list[BaseException] = []
        self.connections = 0
        self.port = listener.getsockname()[1] if listener.family == socket.AF_INET else 0
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            connection.settimeout(DEADLINE)
            try:
                self._converse(connection, script)
            except HungUpError:
                pass
            except BaseException as error:  # noqa: BLE001  told by close()
                self._errors.append(error)

    def _converse(self, connection: socket.socket, script: Script) -> None:
        with connection:
            if self._context is None:
                script(Conversation(connection))
                return
            with suppress(ssl.SSLError, ConnectionError):
                secured = self._context.wrap_socket(connection, server_side=True)
                with secured:
                    script(Conversation(secured))

    def close(self) -> None:
        """Raises what a script has raised."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        if self._errors:
            raise self._errors[0]


def _listen(port: int = 0) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


@contextmanager
def raw_peer(*scripts: Script) -> Iterator[Peer]:
    """One that speaks no TLS."""
    peer = Peer(_listen(), None, scripts)
    try:
        yield peer
    finally:
        peer.close()


@contextmanager
def unix_peer(path: Path, *scripts: Script) -> Iterator[Peer]:
    """One on a unix socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    peer = Peer(listener, None, scripts)
    try:
        yield peer
    finally:
        peer.close()


@dataclass
class Site:
    """A host and a guest with their certificates, and the host's configuration."""

    directory: Path
    authority: Authority
    end: timedelta = YEAR  # of the certificates

    @contextmanager
    def peer(self, *scripts: Script) -> Iterator[Peer]:
        """A guest that speaks by these scripts."""
        guest = self.authority.guest("guest1", end=self.end)
        context = tls.server_context(guest.certificate, guest.key, self.authority.ca, None)
        peer = Peer(_listen(), context, scripts)
        try:
            yield peer
        finally:
            peer.close()

    def configure(self, port: int, **intervals: str) -> Path:
        """Write the host's configuration, with short intervals where none are given."""
        manager = self.authority.manager("vmhost1", end=self.end)
        usual = {"connect_timeout": "5s", "poll_interval": "500ms", "lost_after": "5s"}
        lines = [f'{key} = "{value}"' for key, value in {**usual, **intervals}.items()]
        path = self.directory / "cmappmgr.toml"
        path.write_text(
            f'[guests.guest1]\naddress = "127.0.0.1:{port}"\n'
            f'[tls]\ncertificate = "{manager.certificate}"\nkey = "{manager.key}"\n'
            f'ca = "{self.authority.ca}"\n[manager]\n' + "\n".join(lines)
        )
        return path


PROGRAM = "from cmappd.client.{} import main; main()"


def start(program: str, *words: str | Path, **options: object) -> "subprocess.Popen[str]":
    """Start cmappmgr ("manager") or cmappctl ("control")."""
    command = [sys.executable, "-c", PROGRAM.format(program), *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **{**pipes, **options})  # type: ignore[call-overload,no-any-return]


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Its exit code, output and errors; kills it when it does not end."""
    try:
        output, errors = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, output, errors


def run(program: str, *words: str | Path, **options: object) -> tuple[int, str, str]:
    """Start it and wait for its end."""
    return finish(start(program, *words, **options))


def wait_for(condition: Callable[[], object]) -> None:
    """Until it is so, and not for ever."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.01)


def read(path: Path) -> str:
    """The text of a file that may not be there yet."""
    return path.read_text() if os.path.exists(path) else ""
