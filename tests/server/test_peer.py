"""What peers may say, by TLS and by the control socket; the real program."""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmappd.core import wire
from cmappd.core.messages import (
    Ack,
    AppStatus,
    Claim,
    Detach,
    Done,
    Ended,
    Hello,
    Logs,
    Message,
    Poll,
    Refused,
    Release,
    Reload,
    Reply,
    Restart,
    Start,
    State,
    Status,
    Stop,
    Text,
)
from cmappd.core.session import Identity
from cmappd.core.state import Cause
from cmappd.core.wire import MAX_FRAME, encode
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.office import Office
from cmappd.server.peer import MAX_UNANSWERED, Peer
from cmappd.server.reload import Reloader
from cmappd.server.upgrade import Upgrader
from tests.server.ground import Ground, ground, until
from tests.server.harness import Client, Guest, alive, refusal, shell, stanza, wait_for

APPS = stanza("db", "/bin/sleep", "600") + stanza("web", "/bin/sleep", "600")
GRANTS = '[managers.vmhost1]\napps = ["db"]\n[managers.vmhost2]\napps = ["*"]\n'


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    with Guest(tmp_path, APPS, managers=GRANTS).started() as made:
        yield made


def test_a_greeting_is_answered_with_the_guest(guest: Guest) -> None:
    client = guest.connect(guest.manager_identity("vmhost1"))
    welcome = client.greet()
    assert welcome.guest == socket.gethostname()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert welcome.boot_id == boot_id
    other = guest.connect(guest.manager_identity("vmhost2"))
    assert other.greet().epoch == welcome.epoch


def test_an_application_that_is_not_there_and_one_that_may_not_be_driven(guest: Guest) -> None:
    manager = guest.manager("vmhost1")
    # Whoever may not drive it does not learn whether it is there.
    assert refusal(manager.claim("web")) == "denied"
    assert refusal(manager.claim("nothing")) == "denied"
    assert refusal(manager.ask(Stop(manager.next(), "web"))) == "denied"
    assert refusal(guest.manager("vmhost2").claim("nothing")) == "unknown-app"
    assert refusal(guest.manager("stranger").claim("db")) == "denied"


def test_who_is_not_known_hears_that_a_bad_file_may_hide_it(tmp_path: Path) -> None:
    managers = '[managers.vmhost1]\napps = "db"\n[managers.vmhost2]\napps = ["web"]\n'
    with Guest(tmp_path, APPS, managers=managers).started() as guest:
        hidden, known = (guest.manager(name).claim("db") for name in ("vmhost1", "vmhost2"))
        assert isinstance(hidden, Refused)
        assert isinstance(known, Refused)
        assert hidden.reason == known.reason == "denied"
        assert hidden.text == (
            "vmhost1 may not drive 'db' in this guest: there is no [managers.vmhost1], but a "
            "configuration that has problems: see cmappctl status there"
        )
        assert known.text == (
            "vmhost2 may not drive 'db' in this guest: it is not in apps of [managers.vmhost2]"
        )


def test_status_shows_what_may_be_driven(guest: Guest) -> None:
    assert set(guest.manager("vmhost1").statuses()) == {"db"}
    assert set(guest.manager("vmhost2").statuses()) == {"db", "web"}
    assert set(guest.control().statuses()) == {"db", "web"}
    assert set(guest.control().statuses("web")) == {"web"}
    manager = guest.manager("vmhost1")
    assert refusal(manager.ask(Status(manager.next(), ("db", "web")))) == "denied"
    everybody = guest.manager("vmhost2")
    assert refusal(everybody.ask(Status(everybody.next(), ("db", "no")))) == "unknown-app"


def test_who_may_not_see_an_application_hears_why_and_not_whether_there_is_one(
    guest: Guest,
) -> None:
    manager, stranger = guest.manager("vmhost1"), guest.manager("stranger")
    for client, why in (
        (manager, "it is not in apps of [managers.vmhost1]"),
        (stranger, "there is no [managers.stranger]"),
    ):
        for app in ("web", "nothing"):
            for message in (Status(client.next(), (app,)), Claim(client.next(), app)):
                reply = client.ask(message)
                name = "vmhost1" if client is manager else "stranger"
                text = f"{name} may not drive '{app}' in this guest: {why}"
                assert reply == Refused(message.seq, "denied", text)
    assert refusal(stranger.ask(Status(stranger.next()))) == "denied"
    for name in ("vmhost1", "stranger"):
        guest.wait_log(rf"warning {name} at 127.0.0.1:\d+: denied: {name} may not drive 'web'")
        guest.wait_log(rf"warning \d more denials of {name}\n")


def test_a_seq_that_is_no_number_of_a_request_is_refused(guest: Guest) -> None:
    for seq in (0, -1, 2**53, 10**4000):
        manager = guest.manager("vmhost2")
        manager.socket.sendall(b'{"type":"status","seq":%d}\n' % seq)
        (told,) = manager.wait_cut()
        assert isinstance(told, Refused)
        assert (told.seq, told.reason) == (0, "protocol")
    manager = guest.manager("vmhost2")
    assert isinstance(manager.ask(Claim(2**53 - 1, "db")), State)


def test_more_unanswered_requests_than_anybody_needs_end_the_connection(guest: Guest) -> None:
    manager = guest.manager("vmhost2")
    assert isinstance(manager.claim("db"), State)
    other = guest.manager("vmhost2")
    # The owner does not heed that it is asked to hand over.
    for seq in range(2, 2 * MAX_UNANSWERED):
        other.send(Detach(seq, "db"))
    *_, told = other.wait_cut()
    assert isinstance(told, Refused)
    assert "requests are unanswered" in told.text
    assert isinstance(manager.ask(Poll(manager.next())), State)


@pytest.mark.parametrize("kind", [Start, Restart, Logs])
def test_administration_is_the_administrators(guest: Guest, kind: type[Start]) -> None:
    manager = guest.manager("vmhost2")
    assert refusal(manager.ask(kind(manager.next(), "db"))) == "denied"
    assert refusal(manager.ask(Reload(manager.next()))) == "denied"
    assert guest.control().app("db").pid is None


@pytest.mark.parametrize(
    "message",
    [
        Poll(2),
        Ack(2, "db.e.1"),
        Release(2),
        Hello(2, "again", "i"),
        Done(2),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_is_said_out_of_turn_ends_the_connection(guest: Guest, message: Message) -> None:
    manager = guest.manager()
    manager.send(message)
    (told,) = manager.wait_cut()
    assert isinstance(told, Refused)
    assert (told.seq, told.reason) == (0, "protocol")
    assert guest.manager().statuses()


def test_nothing_may_be_said_before_the_greeting(guest: Guest) -> None:
    client = guest.connect(guest.manager_identity("vmhost1"))
    client.send(Claim(1, "db"))
    (told,) = client.wait_cut()
    assert isinstance(told, Refused)
    assert told.reason == "protocol"
    assert guest.control().app("db").pid is None


def test_the_administrator_owns_nothing(guest: Guest) -> None:
    admin = guest.control()
    assert refusal(admin.claim("db")) == "denied"


def test_all_that_comes_after_a_broken_rule_is_ignored(guest: Guest) -> None:
    manager = guest.manager("vmhost2")
    stop = b"".join(encode(Status(seq)) for seq in range(2, 500))
    manager.socket.sendall(b"no frame\n" + stop + encode(Claim(900, "db")))
    told = manager.wait_cut()
    assert [type(one) for one in told] == [Refused]
    assert guest.control().app("db").pid is None
    assert guest.log().count("disconnected") == 1


def test_requests_may_be_sent_without_waiting_for_answers(guest: Guest) -> None:
    manager = guest.manager("vmhost2")
    stop, claim, poll = (manager.next() for _ in range(3))
    manager.send(Stop(stop, "web"), Claim(claim, "db"))
    assert isinstance(manager.answer(claim), State)
    assert isinstance(manager.answer(stop), Done)
    manager.send(Poll(poll))
    assert isinstance(manager.answer(poll), State)


def test_a_connection_may_claim_again_after_a_release(guest: Guest) -> None:
    manager = guest.manager("vmhost2")
    for app in ("db", "web", "db"):
        assert isinstance(manager.claim(app), State)
        assert isinstance(manager.ask(Release(manager.next())), Done)
    assert guest.control().app("web").owner is None


def test_the_end_of_a_connection_is_the_end_of_the_link(guest: Guest) -> None:
    manager, admin = guest.manager(), guest.control()
    manager.claim("db")
    assert admin.app("db").owner_silent_for is None
    manager.close()
    status = admin.wait_app("db", lambda status: status.owner_silent_for is not None)
    assert status.owner == "vmhost1"
    pid = status.pid
    assert pid is not None
    again = guest.manager()
    answer = again.claim("db")
    assert isinstance(answer, State)
    assert answer.status.pid == pid


def test_a_result_with_output_that_json_makes_long_is_delivered(tmp_path: Path) -> None:
    zeros = "head -c 30000 /dev/zero"
    check = f"if test -e {tmp_path}/sick; then {zeros}; exit 1; fi"
    apps = shell(
        "db",
        f"{zeros}; exec sleep 600",
        health={"command": ["/bin/sh", "-c", check], "interval": "50ms", "failures": 1},
    )
    with Guest(tmp_path, apps).started() as guest:
        manager, admin = guest.manager(), guest.control()
        manager.claim("db")
        admin.wait_app("db", lambda status: status.health == "healthy")
        (tmp_path / "sick").touch()
        ended = manager.hear(Ended)
        assert ended.outcome.cause == "unhealthy"
        assert len(encode(ended)) < MAX_FRAME
        assert ended.health_output
        assert admin.app("db").health_output
        assert isinstance(manager.ask(Ack(manager.next(), ended.outcome.run)), Done)


def test_a_command_of_any_length_can_be_reported(tmp_path: Path) -> None:
    with Guest(tmp_path, stanza("db", "/" + "x" * 80_000)).started() as guest:
        manager = guest.manager()
        manager.claim("db")
        assert manager.hear(Ended).outcome.cause == "not-started"


# The control socket ------------------------------------------------------------------


def logs(admin: Client, lines: int) -> str:
    seq = admin.next()
    admin.send(Logs(seq, "db", lines))
    text = ""
    while isinstance(reply := admin.answer(seq), Text):
        text += reply.text
    assert isinstance(reply, Done)
    return text


def test_logs(tmp_path: Path) -> None:
    with Guest(tmp_path, shell("db", "seq 1000; exec sleep 600")).started() as guest:
        admin = guest.control()
        assert isinstance(admin.ask(Start(admin.next(), "db")), Done)
        wait_for(lambda: logs(admin, 1) == "1000\n")
        assert logs(admin, 3).split() == ["998", "999", "1000"]
        assert len(logs(admin, 10_000).split()) == 1000
        assert logs(admin, 0) == ""
        reply = admin.ask(Logs(admin.next(), "nothing"))
        assert refusal(reply) == "unknown-app"


def test_a_long_log_that_json_makes_longer_arrives_whole(tmp_path: Path) -> None:
    script = "head -c 900000 /dev/zero; echo; echo the end; exec sleep 600"
    with Guest(tmp_path, shell("db", script)).started() as guest:
        admin = guest.control()
        assert isinstance(admin.ask(Start(admin.next(), "db")), Done)
        wait_for(lambda: logs(admin, 1) == "the end\n")
        assert len(logs(admin, 10)) == 900_000 + len("\nthe end\n")


@pytest.mark.root
def test_another_user_is_turned_away(guest: Guest) -> None:
    """The socket's mode does so already; here the mode has been opened by mistake."""
    # A descriptor of the folder, because others may not enter the folders above it.
    guest.control_path.chmod(0o666)
    folder = os.open(guest.state, os.O_PATH)
    child = os.fork()
    if child == 0:
        try:
            os.fchdir(folder)
            guest.state.chmod(0o711)
            os.setresuid(65534, 65534, 65534)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                sock.connect("control.sock")
                sock.sendall(encode(Hello(1, "intruder", "i")))
                os._exit(0 if sock.recv(100) == b"" else 1)
        except (ConnectionResetError, BrokenPipeError):  # it was cut while it still wrote
            os._exit(0)
        except BaseException:  # noqa: BLE001
            os._exit(2)
    os.close(folder)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    guest.wait_log("control socket: uid 65534 is refused")
    assert guest.control().statuses()


def test_two_managers_never_get_two_processes(guest: Guest) -> None:
    managers = [guest.manager(name) for name in ("vmhost1", "vmhost2", "vmhost1", "vmhost2")]
    seqs = [manager.next() for manager in managers]
    for manager, seq in zip(managers, seqs, strict=True):
        manager.send(Claim(seq, "db"))
    answers = [manager.answer(seq) for manager, seq in zip(managers, seqs, strict=True)]
    assert sorted(type(answer).__name__ for answer in answers) == ["Refused"] * 3 + ["State"]
    pid = wait_for(lambda: guest.control().app("db").pid)
    assert pid is not None
    assert alive(pid)
    assert guest.app_pids() == [pid]


def test_a_poll_renews_the_lease_from_the_answer_before_it(tmp_path: Path) -> None:
    """It may have waited in a network that was cut, while its sender gave up."""
    lease = 5.0
    db = stanza("db", "/bin/sleep", "600", manager={"on_lost": "stop", "lease": "5s"})
    with Guest(tmp_path, db).started() as guest:
        manager = guest.manager()
        assert isinstance(manager.claim("db"), State)
        answered = time.monotonic()
        while time.monotonic() < answered + 0.8 * lease:
            time.sleep(0.1)
        poll = Poll(manager.next())
        assert isinstance(manager.ask(poll), State)
        status = guest.control().wait_app("db", lambda status: status.phase == "stopped")
        assert status.last is not None
        assert status.last.cause is Cause.LEASE
        # Had it counted from the poll, 1.8 leases would be the least.
        assert time.monotonic() < answered + 1.6 * lease


# Turns, in this process ----------------------------------------------------------------


class Wire:
    """A carrier that writes down what it is told, and carries nothing."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.complaints: list[str] = []
        self.paused = self.hung_up = False
        self._receiver = wire.replies()

    def write(self, data: bytes) -> None:
        self.replies += self._receiver.receive(data)

    def hang_up(self) -> None:
        self.hung_up = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def complain(self, what: str, text: str) -> None:
        self.complaints.append(text)

    def answered(self) -> list[int]:
        return [one.seq for one in self.replies if isinstance(one, Done | Refused)]


def a_peer(here: Ground, name: str, carrier: Wire, *, administrator: bool = False) -> Peer:
    """Who has said hello, and is served as by the program."""
    world, registry = here.world, here.registry
    reloader = Reloader(world, None, registry)  # type: ignore[arg-type]
    office = Office(world, registry, reloader, Upgrader(world, registry, lambda: None))
    peer = Peer(office, Identity(name, administrator), carrier)
    peer.receive(encode(Hello(1, "test", "one")))
    return peer


MANY = "".join(stanza(f"app{n}", "/bin/sleep", "600") for n in range(20))
GRANTED = MANY + '[managers.vmhost1]\napps = ["*"]\n'


def test_one_request_of_a_peer_is_served_in_a_turn_of_the_loop(tmp_path: Path) -> None:
    flood = b"".join(encode(Status(seq)) for seq in range(2, 100))

    async def scene() -> None:
        async with ground(tmp_path, GRANTED) as here:
            carrier, other = Wire(), Wire()
            peer, quiet = (a_peer(here, "vmhost1", one) for one in (carrier, other))
            peer.receive(flood)
            assert carrier.answered() == [2]
            for seq in range(3, 100):
                assert carrier.paused  # nothing more is read from it until then
                assert peer.waits
                quiet.receive(encode(Status(seq)))
                assert other.answered()[-1] == seq
                await asyncio.sleep(0)
                assert carrier.answered() == list(range(2, seq + 1))
            assert not carrier.paused
            assert not other.paused
            assert not peer.waits

    asyncio.run(scene())


def test_no_status_is_made_that_is_not_to_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    status = Supervisor.status

    def noted(one: Supervisor) -> AppStatus:
        made.append(one.app.name)
        return status(one)

    monkeypatch.setattr(Supervisor, "status", noted)

    async def scene() -> None:
        granted = MANY + '[managers.vmhost1]\napps = ["app3", "app4"]\n'
        async with ground(tmp_path, granted) as here:
            stranger, manager = (a_peer(here, name, Wire()) for name in ("vmhost9", "vmhost1"))
            stranger.receive(encode(Status(2)))
            manager.receive(encode(Status(2, ("app3", "app5"))))
            assert made == []
            manager.receive(encode(Status(3, ("app3",))))
            assert made == ["app3"]
            manager.receive(encode(Status(4)))
            assert made == ["app3", "app3", "app4"]

    asyncio.run(scene())


@pytest.mark.parametrize("cut", [False, True])
def test_what_a_peer_said_before_it_went_counts_unless_it_was_cut(
    tmp_path: Path, cut: bool
) -> None:
    async def scene() -> None:
        async with ground(tmp_path, GRANTED) as here:
            db = here.find("app0")
            carrier = Wire()
            peer = a_peer(here, "vmhost1", carrier)
            peer.receive(encode(Claim(2, "app0")))
            await until(lambda: any(isinstance(one, State) for one in carrier.replies))
            polls = b"".join(encode(Poll(seq)) for seq in range(3, 9))
            peer.receive(polls + encode(Release(9)))
            if cut:
                peer.hang_up()
            peer.parted()
            await until(lambda: db.custody.link is None)
            assert (db.custody.owner is None) is not cut

    asyncio.run(scene())


@pytest.mark.parametrize("at", [1, 2])
def test_who_cannot_be_served_is_hung_up_on(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, or when others of its requests have been served: it would wait for ever."""
    asked: list[str] = []
    status = Supervisor.status

    def starved(one: Supervisor) -> AppStatus:
        asked.append(one.app.name)
        if len(asked) == at:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return status(one)

    async def scene() -> None:
        async with ground(tmp_path, GRANTED) as here:
            db, carrier = here.find("app0"), Wire()
            peer = a_peer(here, "vmhost1", carrier)
            peer.receive(encode(Claim(2, "app0")))
            await until(lambda: db.custody.link is peer)
            monkeypatch.setattr(Supervisor, "status", starved)
            peer.receive(b"".join(encode(Status(seq, ("app1",))) for seq in range(3, 9)))
            await until(lambda: carrier.hung_up)
            monkeypatch.undo()
            assert (len(asked), peer.waits, peer.busy) == (at, False, False)
            assert "ERROR vmhost1: cannot be served: [Errno 24] Too many open files" in here.lines
            peer.parted()
            await until(lambda: db.custody.link is None)

    asyncio.run(scene())


def test_a_log_is_not_followed_for_who_has_gone(tmp_path: Path) -> None:
    """Also where that was still to be heard when it went."""

    async def scene() -> None:
        async with ground(tmp_path, GRANTED) as here:
            db, carrier = here.find("app0"), Wire()
            peer = a_peer(here, "uid 0", carrier, administrator=True)
            follow = Logs(4, "app0", follow=True)
            peer.receive(encode(Status(2)) + encode(Status(3)) + encode(follow))
            peer.parted()
            await until(lambda: not peer.busy)
            fd = db.runner.output.writer(db.app.definition)
            os.write(fd, b"one\n")
            os.close(fd)
            assert db.runner.output.tail() == "one\n"
            assert not [one for one in carrier.replies if isinstance(one, Text)]

    asyncio.run(scene())


def test_who_is_hung_up_on_waits_for_nothing(tmp_path: Path) -> None:
    async def scene() -> None:
        async with ground(tmp_path, GRANTED) as here:
            peer = a_peer(here, "vmhost1", Wire())
            peer.receive(encode(Claim(2, "app0")))
            assert peer.waits
            peer.hang_up()
            assert not peer.waits
            peer.parted()

    asyncio.run(scene())
