"""What peers may say, by TLS and by the control socket; the real program."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmappd.core.messages import (
    Ack,
    Claim,
    Done,
    Ended,
    Hello,
    Logs,
    Message,
    Poll,
    Refused,
    Release,
    Reload,
    Restart,
    Start,
    State,
    Status,
    Stop,
    Text,
)
from cmappd.core.state import Cause
from cmappd.core.wire import MAX_FRAME, encode
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
        assert "whose configuration has problems: see cmappctl status there" in hidden.text
        assert known.text == "vmhost2 may not drive 'db' in this guest"


def test_status_shows_what_may_be_driven(guest: Guest) -> None:
    assert set(guest.manager("vmhost1").statuses()) == {"db"}
    assert set(guest.manager("vmhost2").statuses()) == {"db", "web"}
    assert set(guest.manager("stranger").statuses()) == set()
    assert set(guest.control().statuses()) == {"db", "web"}
    assert set(guest.control().statuses("web")) == {"web"}
    manager = guest.manager("vmhost1")
    assert refusal(manager.ask(Status(manager.next(), ("db", "web")))) == "denied"
    everybody = guest.manager("vmhost2")
    assert refusal(everybody.ask(Status(everybody.next(), ("db", "no")))) == "unknown-app"


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
