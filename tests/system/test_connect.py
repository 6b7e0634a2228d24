"""Connections as such; what goes over them is in test_netprobe.py."""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cmappd.errors import LaunchError
from cmappd.system import connect
from cmappd.system.connect import Attempt, NotConnected

from ..certificates import Authority
from .conftest import open_files, until
from .services import DEADLINE, Service, closed, deaf, silent

T = TypeVar("T")


async def reach(host: str, port: int, limit: float = 20.0) -> tuple[str, int]:
    """Who is at the other end."""
    async with asyncio.timeout(limit):
        with await connect.connect(host, port, Attempt(limit)) as sock:
            host, port = sock.getpeername()[:2]
            return host, port


def failure(work: Coroutine[Any, Any, object]) -> str:
    with pytest.raises(NotConnected) as caught:
        asyncio.run(work)
    return str(caught.value)


class Resolver:
    """Stands in for the machine's resolver, for names that no machine need know."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.names: dict[str, list[tuple[str, int]]] = {}
        self.answers = threading.Event()  # it hangs until this is set
        self.answers.set()
        self._real = socket.getaddrinfo

    def __call__(self, host: str, port: int, type: int = 0, flags: int = 0) -> list[Any]:
        if flags & socket.AI_NUMERICHOST:
            return self._real(host, port, type=type, flags=flags)
        self.asked.append(host)
        self.answers.wait(DEADLINE)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, type, 6, "", address) for address in self.names[host]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.answers.set()
    until(lambda: not connect._threads)


# Addresses and names -----------------------------------------------------------------


def test_addresses_and_localhost_ask_nobody(resolver: Resolver) -> None:
    with silent() as (host, port):
        for name in (host, "127.1", "localhost", "LocalHost."):
            assert asyncio.run(reach(name, port)) == (host, port)
    assert resolver.asked == []


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
def test_localhost_is_both_families(host: str) -> None:
    with Service(lambda _: None, host) as service:
        assert asyncio.run(reach("localhost", service.port)) == (host, service.port)


def test_refused() -> None:
    with closed() as (host, port):
        assert failure(reach(host, port)) == f"was refused by {host}:{port}"


def test_every_address_that_failed_is_told() -> None:
    with closed() as (_, port):
        both = f"was refused by 127.0.0.1:{port} and was refused by [::1]:{port}"
        assert failure(reach("localhost", port)) == both


def test_unreachable() -> None:
    text = failure(reach("255.255.255.255", 9))
    assert text.startswith("could not reach 255.255.255.255:9: ")


def test_a_name_is_looked_up(resolver: Resolver) -> None:
    with silent() as address:
        resolver.names["db.test"] = [address]
        assert asyncio.run(reach("db.test", 1)) == address
    assert resolver.asked == ["db.test"]


def test_an_address_that_hangs_leaves_time_for_the_next(resolver: Resolver) -> None:
    with deaf() as one, deaf() as two, silent() as three:
        resolver.names["db.test"] = [one, two, three]
        assert asyncio.run(reach("db.test", 1, limit=3.0)) == three


def test_addresses_that_hang_and_refuse(resolver: Resolver) -> None:
    with deaf() as one, closed() as two:
        resolver.names["db.test"] = [one, two]
        text = failure(reach("db.test", 1, limit=1.0))
    assert text == f"got no answer from 127.0.0.1:{one[1]} and was refused by 127.0.0.1:{two[1]}"


def test_unknown_name_is_asked_for_again(resolver: Resolver) -> None:
    text = "could not look up db.test: Name or service not known"
    assert failure(reach("db.test", 1)) == text
    assert failure(reach("db.test", 1)) == text
    assert resolver.asked == ["db.test"] * 2


@pytest.mark.parametrize("name", ["a..b", "a" * 64, "a\0b"])
def test_what_can_be_no_name(name: str) -> None:
    assert failure(reach(name, 1)).startswith(f"could not look up {name}: ")


def test_the_end_of_the_program_does_not_wait_for_the_resolver(resolver: Resolver) -> None:
    resolver.answers.clear()
    with pytest.raises(TimeoutError):
        asyncio.run(reach("db.test", 1, limit=0.1))
    assert not resolver.answers.is_set()
    assert [thread.daemon for thread in threading.enumerate()[1:]] == [True]


def test_a_name_has_one_thread_however_many_ask(resolver: Resolver) -> None:
    resolver.answers.clear()

    async def ask() -> None:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await reach("db.test", 1, limit=0.05)
        late = [asyncio.create_task(reach("db.test", 1)) for _ in range(3)]
        await asyncio.sleep(0)
        resolver.answers.set()
        assert await asyncio.gather(*late) == [address] * 3

    with silent() as address:
        resolver.names["db.test"] = [address]
        asyncio.run(ask())
    assert resolver.asked == ["db.test"]


def test_there_is_a_bound_on_the_threads(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "MAX_THREADS", 1)
    resolver.answers.clear()
    with pytest.raises(TimeoutError):
        asyncio.run(reach("one.test", 1, limit=0.05))
    with pytest.raises(LaunchError, match="1 names are being looked up already"):
        asyncio.run(reach("two.test", 1))
    assert resolver.asked == ["one.test"]


class Unlucky(socket.socket):
    """Gets of all local ports just the one that it connects to, as the kernel may give it."""

    def connect(self, address: Any) -> None:
        self.bind(address)
        super().connect(address)


def test_a_socket_connected_to_itself_is_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    with closed() as (_, port):
        pass  # free again, so that it can be bound
    monkeypatch.setattr(socket, "socket", Unlucky)
    assert failure(reach("127.0.0.1", port)) == f"was refused by 127.0.0.1:{port}"


# The end of a connection -------------------------------------------------------------


def test_cancelling_closes_the_socket_at_once() -> None:
    async def cancel(address: tuple[str, int]) -> None:
        await asyncio.sleep(0)
        before = open_files()
        task = asyncio.create_task(reach(*address))
        while open_files() == before:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert open_files() == before
        assert len(asyncio.all_tasks()) == 1

    with deaf() as address:
        asyncio.run(cancel(address))


async def come_and_go(address: tuple[str, int], limit: float) -> None:
    with await connect.connect(*address, Attempt(20)) as sock:
        await connect.part(sock, limit)


def test_a_server_that_greets_late_sees_an_end_and_no_reset() -> None:
    seen: list[bytes | OSError] = []

    def serve(connection: socket.socket) -> None:
        try:
            seen.append(connection.recv(100))
            connection.sendall(b"220 welcome\r\n" * 10_000)
            seen.append(connection.recv(100))
        except OSError as error:
            seen.append(error)

    with Service(serve) as service:
        asyncio.run(come_and_go(("127.0.0.1", service.port), DEADLINE))
    assert seen == [b"", b""]


def test_a_server_that_does_not_part_is_left() -> None:
    with silent() as address:
        asyncio.run(come_and_go(address, 0.05))


# The system's certificates -----------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the system's authorities, by the variable that OpenSSL has for it."""
    path = tmp_path / "store.pem"
    path.write_text(Path(Authority(tmp_path / "one", "One").ca).read_text())
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    return path


def names(context: ssl.SSLContext) -> list[object]:
    return [ca["subject"] for ca in context.get_ca_certs()]


def common_name(name: str) -> object:
    return ((("commonName", name),),)


def test_the_store_is_read_again_when_it_has_changed(store: Path, tmp_path: Path) -> None:
    async def contexts() -> list[ssl.SSLContext]:
        first = [await connect.client_context(verify=True) for _ in range(2)]
        other = tmp_path / "new.pem"
        other.write_text(Path(Authority(tmp_path / "two", "Two").ca).read_text())
        os.replace(other, store)
        return [*first, await connect.client_context(verify=True)]

    one, again, two = asyncio.run(contexts())
    assert one is again
    assert (names(one), names(two)) == ([common_name("One")], [common_name("Two")])
    assert one.verify_mode == two.verify_mode == ssl.CERT_REQUIRED
    assert one.check_hostname
    assert two.check_hostname


def test_without_verify_no_store_is_read(store: Path) -> None:
    store.unlink()

    async def context() -> list[ssl.SSLContext]:
        return [await connect.client_context(verify=False) for _ in range(2)]

    one, again = asyncio.run(context())
    assert one is again
    assert one.verify_mode == ssl.CERT_NONE


def test_a_missing_store_trusts_nobody(store: Path) -> None:
    store.unlink()
    context = asyncio.run(connect.client_context(verify=True))
    assert names(context) == []
    assert context.verify_mode == ssl.CERT_REQUIRED
