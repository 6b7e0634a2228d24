"""Peers that do not behave, while one that does is served all the time."""

import contextlib
import logging
import os
import resource
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cmappd.core.messages import Done, Poll, Refused, Reload, State, Status
from cmappd.core.wire import MAX_FRAME, encode
from cmappd.server import connections
from cmappd.server.connections import Connections, ManagerConnection
from cmappd.server.office import Office
from cmappd.server.peer import Peer
from tests.certificates import CLIENT, DAY, SERVER, Authority, Identity
from tests.server.harness import Client, Cut, Guest, replace_file, shell, stanza, wait_for

SLOW = 15.0  # seconds for a poll while the server is being abused; the machine is shared
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """One server for all that is done to it here: it has to stand all of it."""
    names = ("db", "web")
    apps = "".join(stanza(name, "/bin/sleep", "600", autostart=True) for name in names)
    with Guest(tmp_path_factory.mktemp("guest"), apps).started() as made:
        for name in names:
            made.control().wait_app(name, lambda status: status.phase == "running")
        made.hang_up()
        yield made


@pytest.fixture
def guest(running: Guest) -> Iterator[Guest]:
    """The server, with an empty log."""
    running.log_path.write_text("")
    yield running
    running.hang_up()
    assert "Traceback" not in running.log()


@pytest.fixture
def owner(guest: Guest) -> Client:
    """The honest manager."""
    admin = guest.control()
    admin.wait_app("db", lambda status: status.owner_silent_for is not None or not status.owner)
    manager = guest.manager()
    assert isinstance(manager.claim("db"), State)
    return manager


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def assert_served(owner: Client) -> None:
    """The owner's poll is answered."""
    reply = owner.ask(Poll(owner.next()), SLOW)
    assert isinstance(reply, State)
    assert reply.status.owner == "vmhost1"


def is_cut(sock: socket.socket) -> bool:
    """Whether the server has closed a connection; waits for it."""
    sock.settimeout(15)
    try:
        while sock.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


# Who is not known --------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01" + b"\xff" * 4096,
        b"\0" * 65536,
        b'{"type":"hello"}\n',
    ],
    ids=["http", "tls-like", "zeros", "plain"],
)
def test_garbage_instead_of_tls(guest: Guest, owner: Client, garbage: bytes) -> None:
    with guest.raw() as sock:
        sock.sendall(garbage)
        assert is_cut(sock)
    assert_served(owner)
    guest.wait_log("warning 127.0.0.1:.*: disconnected: |more connections refused")


def test_a_thousand_half_open_connections(guest: Guest, owner: Client, many_files: None) -> None:
    before = guest.memory()
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(guest.raw()) for _ in range(1000)]
        assert_served(owner)
        other = guest.manager("vmhost2")  # a new one gets in
        assert other.statuses()
        bound = connections.MAX_UNKNOWN
        wait_for(lambda: len(open_sockets(socks)) <= bound)
        assert_served(owner)
        assert guest.memory() - before < 30 * MEGABYTE
    # One line a sweep, not one a connection.
    wait_for(lambda: "more connections refused" in guest.log())
    assert guest.log().count("disconnected") < 10
    assert_served(owner)


def open_sockets(socks: list[socket.socket]) -> list[socket.socket]:
    """Those that the server has not closed."""
    found = []
    for sock in socks:
        sock.setblocking(False)
        try:
            if sock.recv(1):
                found.append(sock)
        except BlockingIOError:
            found.append(sock)
        except OSError:
            continue
    return found


def test_a_handshake_that_never_ends_is_cut(guest: Guest, owner: Client) -> None:
    """This one takes the time that a handshake has."""
    began = time.monotonic()
    with guest.raw() as silent, guest.raw() as slow:
        slow.settimeout(0.2)
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 400
        cut_after = None
        for byte in hello:  # a byte at a time: what counts is the time since the connection
            try:
                slow.send(bytes([byte]))
                if slow.recv(100) == b"":
                    raise ConnectionResetError
            except TimeoutError:
                continue
            except OSError:
                cut_after = time.monotonic() - began
                break
        assert cut_after is not None
        assert cut_after > connections.HANDSHAKE_TIMEOUT - 1
        assert is_cut(silent)
    assert_served(owner)


def certificates(guest: Guest) -> dict[str, Callable[[], Identity]]:
    authority = guest.authority
    return {
        "expired": lambda: authority.manager("vmhost1", -3 * DAY, -DAY),
        "not yet valid": lambda: authority.manager("vmhost1", DAY, 2 * DAY),
        "guest": lambda: authority.guest("vmhost1"),
        "other authority": lambda: Authority(guest.folder / "other").manager("vmhost1"),
        "no name": lambda: authority.issue([], [CLIENT], ["vmhost1"]),
        "two names": lambda: authority.issue(["vmhost1", "vmhost2"], [CLIENT], []),
        "no usage": lambda: authority.issue(["vmhost1"], [], []),
        "line break": lambda: authority.issue(["vmhost1\nerror db: stopped"], [CLIENT], []),
        "wrong usage": lambda: authority.issue(["vmhost1"], [SERVER], []),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "expired",
        "not yet valid",
        "guest",
        "other authority",
        "no name",
        "two names",
        "no usage",
        "line break",
        "wrong usage",
    ],
)
def test_a_certificate_that_is_no_managers(guest: Guest, owner: Client, kind: str) -> None:
    identity = certificates(guest)[kind]()
    context = ssl.create_default_context(cafile=guest.authority.ca)
    context.set_alpn_protocols(["cmapp/1"])
    context.load_cert_chain(*identity)
    with pytest.raises((Cut, OSError)):
        guest.connect_with(context).greet()
    assert_served(owner)
    guest.wait_log("disconnected: .*certificate|more connections refused")
    assert "\nerror db" not in guest.log()


def test_a_manager_without_one_name_is_told_so(guest: Guest, owner: Client) -> None:
    for kind, names in {"no name": "0", "two names": "2"}.items():
        refused = guest.connect(certificates(guest)[kind]()).hear(Refused)
        assert refused.reason == "tls"
        assert f"certificate has {names} common names instead of one" in refused.text
    assert_served(owner)


def test_no_certificate_and_another_protocol(guest: Guest, owner: Client) -> None:
    for change in ("no certificate", "no protocol", "old version"):
        context = ssl.create_default_context(cafile=guest.authority.ca)
        if change != "no protocol":
            context.set_alpn_protocols(["cmapp/1"])
        if change != "no certificate":
            context.load_cert_chain(*guest.manager_identity("vmhost2"))
        if change == "old version":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((Cut, OSError)):
            guest.connect_with(context).greet()
        assert_served(owner)


def test_a_revoked_certificate_is_refused_after_a_reload(guest: Guest, owner: Client) -> None:
    before = guest.config.read_text()
    revoked = guest.manager("vmhost1", instance="other")
    crl = guest.authority.crl([guest.manager_identity("vmhost2")], end=timedelta(days=9))
    text = guest.config.read_text().replace("[tls]\n", f'[tls]\ncrl = "{crl}"\n')
    replace_file(guest.config, text)
    # Who was connected is verified again, and so is who comes in the middle of that.
    revoked.wait_cut()
    owner.wait_cut()
    guest.wait_log(r"\[tls\] changed")
    guest.wait_log("the ca or the crl has changed: all connections are ended")
    with pytest.raises((Cut, OSError)):
        guest.manager("vmhost2").statuses()
    again = guest.manager("vmhost1", instance=owner.instance)
    assert isinstance(again.claim("db"), State)
    # The same list under another name ends nothing, and neither does a reload without a change.
    aside = Path(crl).with_suffix(".2.pem")
    aside.write_bytes(Path(crl).read_bytes())
    aside.chmod(0o600)
    replace_file(guest.config, text.replace(crl, str(aside)))
    guest.wait_log(r"\[tls\] changed", times=2)
    assert_served(again)
    guest.config.touch()
    admin = guest.control()
    assert isinstance(admin.ask(Reload(admin.next())), Done)
    assert_served(again)
    replace_file(guest.config, before)
    guest.wait_log(r"\[tls\] changed", times=3)
    again.wait_cut()
    guest.manager("vmhost2")


def send(sock: socket.socket, data: bytes) -> bool:
    """Send what goes; False when the server has cut the connection."""
    try:
        sock.sendall(data)
    except TimeoutError:  # it is not read any more, for now
        return True
    except OSError:
        return False
    return True


# Who is known ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b"x" * (2 * MAX_FRAME),
        b'{"type":"status","seq":2,"apps":["' + b"x" * MAX_FRAME + b'"]}\n',
        b'{"type":"status","seq":2,"x":' + b"[" * 60_000 + b"\n",
        b'{"type":"status","seq":2,"x":' + b'{"x":' * 10_000 + b"\n",
        b'{"type":"nonsense","seq":2}\n',
        b'{"type":"status","seq":2,"type":"claim","app":"db"}\n',
        b'{"type":"status","seq":"two"}\n',
        b'{"type":"stop","seq":2,"app":"\xff"}\n',
        b'{"type":"stop","seq":2,"app":"\\ud800"}\n',
        b'{"type":"status","seq":' + b"9" * 10_000 + b"}\n",
        b"[]\n",
        b"\n",
    ],
    ids=[
        "endless",
        "giant",
        "arrays",
        "objects",
        "type",
        "twice",
        "text",
        "bytes",
        "surrogate",
        "digits",
        "array",
        "empty",
    ],
)
def test_a_frame_that_cannot_be_read(guest: Guest, owner: Client, frame: bytes) -> None:
    manager = guest.manager("vmhost2")
    with contextlib.suppress(OSError):  # cut while we send
        manager.socket.sendall(frame)
    told = [one for one in manager.wait_cut() if isinstance(one, Refused)]
    assert {one.reason for one in told} <= {"protocol"}
    assert_served(owner)
    guest.wait_log("warning vmhost2.*disconnected|more disconnections of vmhost2")


def test_frames_that_are_odd_but_right(guest: Guest, owner: Client) -> None:
    for frame in (
        b'{"type":"status","seq":2,"unknown":{"deep":[1,2,{}]}}\n',
        b'{"type":"status","seq":7,"seq":2}\n',
        b' { "seq" : 2 , "type" : "status" } \r\n',
    ):
        manager = guest.manager("vmhost2")
        for at in range(len(frame)):
            manager.socket.sendall(frame[at : at + 1])
        assert isinstance(manager.answer(2), State)
    assert_served(owner)


def test_a_name_as_long_as_a_frame_is_answered_or_refused(guest: Guest, owner: Client) -> None:
    manager = guest.manager("vmhost2")
    name = "x" * (MAX_FRAME - 60)
    with contextlib.suppress(OSError):
        manager.socket.sendall(b'{"type":"stop","seq":2,"app":"' + name.encode() + b'"}\n')
    assert [one for one in manager.wait_cut(5) if isinstance(one, Refused)]
    assert_served(owner)


def test_a_peer_that_sends_and_never_reads_is_cut(guest: Guest, owner: Client) -> None:
    before = guest.memory()
    manager = guest.manager("vmhost2")
    manager.socket.settimeout(1)
    flood = b"".join(encode(Status(seq)) for seq in range(2, 2000))
    served = 0
    deadline = time.monotonic() + 20
    while send(manager.socket, flood):
        assert_served(owner)
        served += 1
        assert time.monotonic() < deadline, "it was never cut"
    guest.wait_log("it does not read what it is sent|more disconnections of vmhost2")
    assert served < 1000
    assert guest.memory() - before < 30 * MEGABYTE
    assert_served(owner)


def test_a_flood_of_polls_slows_nobody_down(guest: Guest, owner: Client) -> None:
    flooder = guest.manager("vmhost2")
    flooder.claim("web")
    flood = b"".join(encode(Poll(seq)) for seq in range(10, 2000))
    flooder.socket.settimeout(0.5)
    for _ in range(20):
        if not send(flooder.socket, flood):
            break
        assert_served(owner)
    assert_served(owner)
    guest.wait_log("vmhost2 at .*disconnected|more disconnections of vmhost2")


def test_an_authenticated_flood_leaves_a_bounded_log(guest: Guest, owner: Client) -> None:
    identity = guest.manager_identity("vmhost2")
    for _ in range(60):
        client = guest.connect(identity)
        client.socket.sendall(b"garbage\n")
        client.close()
    assert_served(owner)
    # A line a sweep, and a sweep every two seconds.
    assert guest.log().count("vmhost2") < 20


def test_a_reset_in_the_middle_of_everything(guest: Guest, owner: Client) -> None:
    for data in (b"", b"\x16\x03\x01\x02\x00"):
        sock = guest.raw()
        sock.sendall(data)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    manager = guest.manager("vmhost2")
    manager.send(Status(2), Status(3))
    manager.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    manager.close()
    assert_served(owner)


def test_a_control_peer_that_never_reads_is_cut(tmp_path: Path) -> None:
    script = "head -c 1000000 /dev/zero; exec sleep 600"
    with Guest(tmp_path, shell("db", script, autostart=True)).started() as guest:
        owner = guest.manager()
        owner.claim("db")
        admin = guest.control()
        admin.socket.settimeout(1)
        request = b'{"type":"logs","seq":2,"app":"db","lines":100000}\n' * 200
        before = guest.memory()
        deadline = time.monotonic() + 20
        while send(admin.socket, request):
            assert_served(owner)
            assert time.monotonic() < deadline, "it was never cut"
        assert guest.memory() - before < 60 * MEGABYTE
        assert guest.control().statuses()


# Time, with literal instants ----------------------------------------------------------


OFFICE = cast(Office, SimpleNamespace(world=SimpleNamespace(log=logging.getLogger("test"))))


class _Silent(ManagerConnection):
    """A connection of which only the clock matters; it waits for an answer, or for none."""

    __slots__ = ("why",)

    def __init__(self, heard: float, leaving: float | None = None, *, waits: bool = False) -> None:
        self._peer = cast(Peer, SimpleNamespace(waits=waits, name="vmhost1")) if waits else None
        self._leaving = leaving
        self.heard = heard
        self.why = ""

    def cut(self, why: str) -> None:
        self.why = why


def test_the_sweep_cuts_whose_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("cmappd.server.connections.time.monotonic", lambda: now)
    swept = Connections(OFFICE)
    late, early = _Silent(0), _Silent(0)
    stranger = _Silent(0, waits=True)
    now = 1000.0 - connections.HANDSHAKE_TIMEOUT - 0.1
    swept.opened(late)
    swept.opened(stranger)
    now = 1000.0 - connections.HANDSHAKE_TIMEOUT + 0.1
    swept.opened(early)
    idle, busy = _Silent(1000 - connections.IDLE_TIMEOUT - 1), _Silent(999)
    waiting = _Silent(1000 - connections.IDLE_TIMEOUT - 1, waits=True)
    stuck = _Silent(999, 1000 - connections.LINGER - 1, waits=True)
    leaving = _Silent(999, 1000 - connections.LINGER + 1, waits=True)
    for one in (idle, busy, waiting, stuck, leaving):
        swept.opened(one)
        assert swept.authenticated(one, "vmhost1")
    now = 1000.0
    swept.sweep()
    assert [one.why for one in (late, stranger, early, idle, busy, waiting, stuck, leaving)] == [
        "no handshake in time",
        "there is no [managers.vmhost1]",
        "",
        "nothing was heard of it",
        "",
        "",
        "it does not read what it is sent",
        "",
    ]


def test_there_is_a_bound_for_those_of_one_name_and_one_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MAX_KNOWN", 8)
    swept = Connections(OFFICE)

    def come(name: str) -> list[bool]:
        made = [_Silent(0) for _ in range(6)]
        for one in made:
            swept.opened(one)
        return [swept.authenticated(one, name) for one in made]

    first = _Silent(0)
    swept.opened(first)
    assert swept.authenticated(first, "vmhost1")
    assert come("vmhost1") == [True] * 3 + [False] * 3
    assert come("vmhost2") == [True] * 4 + [False] * 2
    assert come("vmhost3") == [False] * 6
    swept.closed(first, "vmhost1")
    assert come("vmhost3") == [True] + [False] * 5


def test_without_descriptors_for_who_comes_the_log_stays_short(tmp_path: Path) -> None:
    with Guest(tmp_path).started() as guest, contextlib.ExitStack() as stack:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = len(os.listdir(f"/proc/{guest.pid}/fd"))
        resource.prlimit(guest.pid, resource.RLIMIT_NOFILE, (files + 10, hard))
        for _ in range(40):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(guest.control_path))
        guest.wait_log(r"error|warning socket.accept\(\) out of system resource: .*open files")
        guest.wait_log(r"[1-9] more failures: socket.accept\(\)", times=2)
        assert len(guest.log().splitlines()) < 50
        stack.close()
        assert guest.control().statuses() == {}
        guest.manager()


def test_a_flood_from_outside_hides_nothing_of_a_known_manager(guest: Guest, owner: Client) -> None:
    other = guest.manager("vmhost2")
    for _ in range(20):
        with guest.raw() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert is_cut(sock)
    other.socket.sendall(b"garbage\n")
    other.wait_cut()
    guest.wait_log("warning vmhost2 at 127.0.0.1:.*: disconnected: a frame cannot be read")
    guest.wait_log("more connections refused")
    assert_served(owner)


def test_a_flood_of_a_stranger_holds_up_nobody(guest: Guest, owner: Client) -> None:
    strangers = [guest.manager("stranger") for _ in range(8)]
    flood = b"".join(encode(Status(seq)) for seq in range(2, 2000))
    for one in strangers:
        one.socket.settimeout(0.5)
    for _ in range(5):
        for one in strangers:
            send(one.socket, flood)
        assert_served(owner)
    guest.wait_log("warning stranger at .*: denied: .*there is no .managers.stranger")
