"""cmappmgr as a process, with a real peer at the other end of a real link."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cmappd.client.link import Address, Link
from cmappd.client.log import INFO, Log
from cmappd.client.manager import Driver
from cmappd.core.follow.actions import Terms
from cmappd.core.follow.follower import Follower
from cmappd.core.follow.following import Stage
from cmappd.core.messages import (
    Ack,
    AppStatus,
    Claim,
    Done,
    Ended,
    Poll,
    Refused,
    Release,
    State,
    Status,
    Stop,
)
from cmappd.core.state import Cause, ExitStatus, Goal, Health, Outcome, Phase
from tests.certificates import Authority, private_pem
from tests.client.peer import (
    DEADLINE,
    PROGRAM,
    RUNNING,
    Conversation,
    Site,
    finish,
    raw_peer,
    read,
    run,
    start,
    wait_for,
)

EXIT_3 = Outcome("r1", Cause.EXIT, ExitStatus(code=3), success=False)
MANAGER = Outcome("r1", Cause.MANAGER, ExitStatus(signal=15), success=False)
STARTING = AppStatus("oracle", Goal.UP, Phase.STARTING, run="r1", pid=7)
STOPPED = AppStatus("oracle", Goal.DOWN, Phase.STOPPED, last=MANAGER)


FORGED, ESCAPED = "\x1b]0;title\x07\x1b[2J\rforged", "\\x1b]0;title\\x07\\x1b[2J\\rforged\n"


def conclude(peer: Conversation, outcome: Outcome, seq: int = 0, log: str = "") -> list[str]:
    """Give a result, and answer what is said of it; gives what it was."""
    peer.say(Ended(seq, "oracle", outcome, log_tail=log))
    said = []
    while "Release" not in said:
        request = peer.hear()
        said.append(type(request).__name__)
        if isinstance(request, Ack | Release):
            peer.say(Done(request.seq))
    return said


def ends_with_3(peer: Conversation) -> None:
    peer.grant()
    assert conclude(peer, EXIT_3, log="ORA-00600\n\x1b[2Jforged\n") == ["Ack", "Release"]


def serve_until_stopped(peer: Conversation) -> None:
    peer.grant()
    while True:
        request = peer.hear()
        if isinstance(request, Poll):
            peer.say(State(request.seq, RUNNING, "b1", "e1"))
        elif isinstance(request, Stop):
            conclude(peer, MANAGER)
            return


def never_answers(peer: Conversation) -> None:
    peer.connection.recv(65536)
    peer.connection.recv(65536)


# To follow -------------------------------------------------------------------------------


def test_the_applications_code_passes_through_with_the_evidence(site: Site) -> None:
    report = site.directory / "report.json"
    with site.peer(ends_with_3) as peer:
        config = site.configure(peer.port)
        code, output, errors = run(
            "manager", "--app", "oracle", "--config", config, "--report", report
        )
    assert (code, output) == (3, "")
    assert "cmappmgr oracle@guest1: running, pid 7 (run r1)" in errors
    assert "last log: ORA-00600 (run r1)" in errors
    assert "last log: \\x1b[2Jforged" in errors
    assert "exit 3, app: ended by itself, exit code 3 (run r1)" in errors
    told = json.loads(report.read_text())
    assert (told["reason"], told["code"], told["exit_code"]) == ("app", 3, 3)
    assert (told["app"], told["guest"], told["run"], told["cause"]) == (
        "oracle", "guest1", "r1", "exit",
    )  # fmt: skip


@pytest.mark.parametrize(
    "status", [ExitStatus(code=256), ExitStatus(code=2**62), ExitStatus(signal=99_999)]
)
def test_what_no_process_ends_with_is_not_exited_with(site: Site, status: ExitStatus) -> None:
    def lie(peer: Conversation) -> None:
        peer.grant()
        conclude(peer, msgspec.structs.replace(EXIT_3, status=status))

    report = site.directory / "report.json"
    with site.peer(lie) as peer:
        config = site.configure(peer.port, lost_after="1s")
        words = ("--app", "oracle", "--config", config, "--report", report)
        code, _, errors = run("manager", *words)
    assert code == json.loads(report.read_text())["code"] == 202
    assert "a frame cannot be read: Expected `int`" in errors


def test_a_guest_cannot_fill_the_disks_of_its_host(site: Site) -> None:
    def flood(peer: Conversation) -> None:
        peer.grant()
        healthy, unhealthy = (
            State(0, msgspec.structs.replace(RUNNING, health=health), "b1", "e1")
            for health in (Health.HEALTHY, Health.UNHEALTHY)
        )
        for _ in range(1000):
            peer.say(healthy, unhealthy)
        text = "\n".join(map(str, range(1000)))
        conclude(peer, msgspec.structs.replace(EXIT_3, detail=text), log=f"{text}\nORA-00600")

    log = site.directory / "log"
    with site.peer(flood) as peer:
        config = site.configure(peer.port)
        words = ("--app", "oracle", "--config", config, "--log-file", log)
        code, _, errors = run("manager", *words)
    assert code == 3
    assert errors == read(log)
    assert len(errors.splitlines()) < 400
    assert re.search(
        r" more than 100 lines in a minute: .*\n.* 190\d more lines left out\n", errors
    )
    assert "last log: ORA-00600 (run r1)" in errors
    assert "exit 3, app: ended by itself, exit code 3" in errors


def test_sigterm_stops_the_application_and_ends_with_0(site: Site) -> None:
    log = site.directory / "log"
    with site.peer(serve_until_stopped) as peer:
        config = site.configure(peer.port)
        process = start("manager", "--app", "oracle", "--config", config, "--log-file", log)
        wait_for(lambda: "running" in read(log))
        process.send_signal(signal.SIGTERM)
        code, _, errors = finish(process)
    assert code == 0
    assert "exit 0, stopped" in errors


def test_it_tells_on_a_descriptor_when_the_application_is_ready(site: Site) -> None:
    go_on = threading.Event()

    def slow(peer: Conversation) -> None:
        peer.grant(STARTING)
        go_on.wait(DEADLINE)
        peer.say(State(0, RUNNING, "b1", "e1"))
        conclude(peer, EXIT_3)

    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    log = site.directory / "log"
    with site.peer(slow) as peer, open(reading, "rb") as told:
        words = ("--app", "oracle", "--config", site.configure(peer.port), "--log-file", log)
        process = start("manager", *words, "--ready-fd", str(writing), pass_fds=(writing,))
        os.close(writing)
        wait_for(lambda: "starting" in read(log))
        assert told.read() is None
        go_on.set()
        assert finish(process)[0] == 3
        assert told.read() == b"ready\n"


def test_it_keeps_what_the_guest_says_last_of_how_it_ends_it_alone(site: Site) -> None:
    """On the disk before it tells that the application is ready, and whenever it changes."""
    path, go_on = site.directory / "alone", threading.Event()

    def script(peer: Conversation) -> None:
        peer.grant(msgspec.structs.replace(RUNNING, ends_within=33.0))
        go_on.wait(DEADLINE)
        peer.say(State(0, msgspec.structs.replace(RUNNING, ends_within=63.0), "b1", "e1"))
        wait_for(lambda: read(path) == "65\n")
        peer.say(State(0, RUNNING, "b1", "e1"))
        peer.hear()

    with site.peer(script) as peer:
        words = ("--app", "oracle", "--config", site.configure(peer.port), "--ends-alone", path)
        reading, writing = os.pipe()
        with open(reading, "rb") as told:
            process = start("manager", *words, "--ready-fd", str(writing), pass_fds=(writing,))
            os.close(writing)
            assert told.read() == b"ready\n"
        assert read(path) == "34\n"
        go_on.set()
        wait_for(lambda: read(path) == "0\n")
        process.kill()
        finish(process)
    assert read(path) == "0\n"


@pytest.mark.parametrize("words", [("--app", "x" * 300), ("--app", "oracle", "--nonsense")])
def test_words_that_are_refused_are_reported_too(site: Site, words: tuple[str, ...]) -> None:
    report = site.directory / "report.json"
    code, _, errors = run("manager", *words, "--report", report)
    told = json.loads(report.read_text())
    assert (code, told["code"], told["reason"], told["claimed"]) == (200, 200, "usage", False)
    assert told["text"].partition(": ")[2] in errors


@pytest.mark.parametrize("fd", ["2", "63", "x"])
def test_a_descriptor_that_is_none_is_a_usage_error(site: Site, fd: str) -> None:
    code, _, errors = run("manager", "--app", "oracle", "--ready-fd", fd)
    assert (code, "--ready-fd" in errors) == (200, True)


def test_a_second_sigterm_kills(site: Site) -> None:
    log = site.directory / "log"
    stops: list[bool] = []

    def script(peer: Conversation) -> None:
        peer.grant()
        while len(stops) < 2:
            request = peer.hear()
            if isinstance(request, Poll):
                peer.say(State(request.seq, RUNNING, "b1", "e1"))
            elif isinstance(request, Stop):
                stops.append(request.kill)
        conclude(peer, MANAGER)

    with site.peer(script) as peer:
        config = site.configure(peer.port)
        process = start("manager", "--app", "oracle", "--config", config, "--log-file", log)
        wait_for(lambda: "running" in read(log))
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: stops)

        def killed() -> bool:
            process.send_signal(signal.SIGINT)  # what comes within a second counts with the first
            return len(stops) > 1

        wait_for(killed)
        code, _, _ = finish(process)
    assert (code, stops) == (0, [False, True])


def test_a_lost_link_is_regained_and_the_run_carried_on(site: Site) -> None:
    claims: list[Claim] = []

    def drops(peer: Conversation) -> None:
        claims.append(peer.grant())

    def goes_on(peer: Conversation) -> None:
        claims.append(peer.grant())
        conclude(peer, EXIT_3)

    with site.peer(drops, goes_on) as peer:
        code, _, errors = run("manager", "--app", "oracle", "--config", site.configure(peer.port))
    assert code == 3
    assert "the link was lost: the peer closed the connection" in errors
    assert "connected again" in errors
    assert [(claim.run, claim.start) for claim in claims] == [(None, True), ("r1", False)]


def test_a_peer_that_does_not_answer_polls_is_given_up_and_lost(site: Site) -> None:
    def silent(peer: Conversation) -> None:
        peer.grant()
        while True:
            peer.hear()

    with site.peer(silent, never_answers) as peer:
        config = site.configure(peer.port, lost_after="2s")
        code, _, errors = run("manager", "--app", "oracle", "--config", config)
    assert code == 202
    assert "state is unknown" in errors


def test_a_stop_that_the_guest_does_not_answer_is_given_up_with_the_link(site: Site) -> None:
    """Not when its time is over: the application may run, and nothing is known of it."""
    log = site.directory / "log"

    def silent(peer: Conversation) -> None:
        peer.grant()
        while True:
            peer.hear()

    with site.peer(silent, never_answers) as peer:
        config = site.configure(peer.port, lost_after="3s", stop_timeout="100ms")
        process = start("manager", "--app", "oracle", "--config", config, "--log-file", log)
        wait_for(lambda: "the link was lost" in read(log))
        process.send_signal(signal.SIGTERM)
        code, _, errors = finish(process)
    assert code == 202
    assert "asked to stop, and the guest may not know" in errors


def test_a_manager_that_was_stopped_reads_before_it_judges(site: Site) -> None:
    log = site.directory / "log"
    with site.peer(serve_until_stopped) as peer:
        config = site.configure(peer.port, lost_after="1s")
        process = start("manager", "--app", "oracle", "--config", config, "--log-file", log)
        wait_for(lambda: "running" in read(log))
        process.send_signal(signal.SIGSTOP)
        time.sleep(2)  # the time itself is what is tested
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        code, _, errors = finish(process)
    assert code == 0
    assert "lost" not in errors


def test_a_word_is_not_heard_before_it_was_said(tmp_path: Path) -> None:
    """Although this process stands still in the middle, as where a log is on a disk that hangs."""
    stalled, spoken = threading.Event(), threading.Event()
    follower = Follower(Terms("oracle", "test", "i"), time.monotonic())
    said: list[float] = []
    links: list[Link] = []

    def opener(now: float, until: float) -> Link:
        place = Address(socket.AF_INET, ("127.0.0.1", peer.port))
        links.append(Link([place], None, now, until))
        return links[-1]

    class Stalling(Log):
        def write(self, text: str, severity: int = INFO) -> None:
            super().write(text, severity)
            if "asked to stop" in text:
                stalled.set()
                assert spoken.wait(DEADLINE)

    def script(peer: Conversation) -> None:
        peer.grant()
        wait_for(lambda: follower.stage is Stage.FOLLOWING)
        os.write(waking, bytes([signal.SIGTERM]))
        assert stalled.wait(DEADLINE)
        said.append(time.monotonic())
        peer.say(Ended(0, "oracle", EXIT_3))
        spoken.set()
        while True:
            peer.hear()

    wakening, waking = os.pipe()
    os.set_blocking(wakening, False)
    with raw_peer(script) as peer:
        log = Stalling("test", device=str(tmp_path / "none"))
        end = Driver(follower, opener, log, wakening).run()
        log.close()
        links[0].close()
    os.close(waking)
    os.close(wakening)
    assert end.code == 3
    assert follower._f.heard >= said[0]


def test_sighup_reopens_the_log_file(site: Site) -> None:
    log, old = site.directory / "log", site.directory / "log.1"
    with site.peer(serve_until_stopped) as peer:
        config = site.configure(peer.port)
        process = start("manager", "--app", "oracle", "--config", config, "--log-file", log)
        wait_for(lambda: "running" in read(log))
        log.rename(old)
        process.send_signal(signal.SIGHUP)
        wait_for(log.exists)
        process.send_signal(signal.SIGTERM)
        assert finish(process)[0] == 0
    assert "exit 0" in log.read_text()
    assert "exit 0" not in old.read_text()


def test_a_log_that_cannot_be_written_does_not_matter(site: Site) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with site.peer(ends_with_3) as peer:
            config = site.configure(peer.port)
            words = ("--app", "oracle", "--config", config, "--log-file", "/dev/full")
            assert run("manager", *words, stderr=writing)[0] == 3
    finally:
        os.close(writing)


def test_a_standard_error_that_nobody_reads_does_not_stall_it(site: Site) -> None:
    def talkative(peer: Conversation) -> None:
        peer.grant()
        conclude(peer, EXIT_3, log="x" * 900 + "\n")

    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
        os.set_blocking(writing, True)
        with site.peer(talkative) as peer:
            config = site.configure(peer.port)
            assert run("manager", "--app", "oracle", "--config", config, stderr=writing)[0] == 3
    finally:
        os.close(reading)
        os.close(writing)


def test_closed_descriptors_an_empty_environment_and_relative_paths(site: Site) -> None:
    with site.peer(ends_with_3) as peer:
        config = site.configure(peer.port)
        program = "import sys; sys.path.insert(0, sys.argv.pop(1)); " + PROGRAM.format("manager")
        command = [sys.executable, "-c", program, str(Path(__file__).parents[2])]
        command += ["--app", "oracle", "--config", config.name, "--log-file", "log"]
        shell = ["/bin/sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *command]
        process = subprocess.Popen(shell, env={}, cwd=site.directory)
        assert process.wait(DEADLINE) == 3
    assert "exit 3" in (site.directory / "log").read_text()


# Not to get that far ----------------------------------------------------------------------


def speaks_http(peer: Conversation) -> None:
    peer.connection.recv(65536)
    peer.connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def speaks_garbage(peer: Conversation) -> None:
    peer.connection.sendall(bytes(range(256)) * 4)
    peer.connection.recv(65536)


def hangs_up(peer: Conversation) -> None:
    pass


@pytest.mark.parametrize(
    ("script", "code"),
    [(speaks_http, 213), (speaks_garbage, 213), (hangs_up, 201), (never_answers, 201)],
)
def test_a_peer_that_is_no_cmappserver(site: Site, script: object, code: int) -> None:
    with raw_peer(script) as peer:  # type: ignore[arg-type]
        config = site.configure(peer.port, connect_timeout="1s")
        result, _, errors = run("manager", "--app", "oracle", "--config", config)
    assert result == code, errors


def test_garbage_inside_tls_is_a_misbehaving_peer(site: Site) -> None:
    def script(peer: Conversation) -> None:
        peer.hear()
        peer.connection.sendall(b"{}\n")
        peer.hear()

    with site.peer(script) as peer:
        code, _, _ = run("manager", "--app", "oracle", "--config", site.configure(peer.port))
    assert code == 213


def test_nobody_there(site: Site) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        config = site.configure(unused.getsockname()[1], connect_timeout="1s")
        code, _, errors = run("manager", "--app", "oracle", "--config", config)
    assert code == 201
    assert "Connection refused" in errors


def test_sigterm_before_the_claim_ends_with_0(site: Site) -> None:
    log = site.directory / "log"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        config = site.configure(unused.getsockname()[1], connect_timeout="1m")
        process = start("manager", "--app", "oracle", "--config", config, "--log-file", log)
        wait_for(lambda: "cannot reach" in read(log))
        process.send_signal(signal.SIGTERM)
        assert finish(process)[0] == 0


def test_a_server_with_a_certificate_of_another_authority(site: Site) -> None:
    other = Site(site.directory, Authority(site.directory / "other"))
    with other.peer(hangs_up) as peer:
        code, _, errors = run("manager", "--app", "oracle", "--config", site.configure(peer.port))
    assert code == 203
    assert "authority" in errors


def test_a_manager_with_a_certificate_of_another_authority(site: Site) -> None:
    other = Site(site.directory, Authority(site.directory / "other"))
    with site.peer(hangs_up) as peer:
        config = other.configure(peer.port)
        config.write_text(config.read_text().replace("other/ca.pem", "pki/ca.pem"))
        code, _, errors = run("manager", "--app", "oracle", "--config", config)
    assert code == 203
    assert "refused our certificate" in errors


def garbage(site: Site) -> str:
    one = site.authority.manager("vmhost1")
    Path(one.certificate).write_text("garbage")
    return f'certificate = "{one.certificate}"\nkey = "{one.key}"'


def anothers_key(site: Site) -> str:
    one, another = site.authority.manager("vmhost1"), site.authority.manager("vmhost1")
    return f'certificate = "{one.certificate}"\nkey = "{another.key}"'


def a_guests(site: Site) -> str:
    one = site.authority.guest("guest1")
    return f'certificate = "{one.certificate}"\nkey = "{one.key}"'


def encrypted(site: Site) -> str:
    one = site.authority.manager("vmhost1")
    key = serialization.load_pem_private_key(Path(one.key).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    Path(one.key).write_bytes(private_pem(key, b"secret"))
    return f'certificate = "{one.certificate}"\nkey = "{one.key}"'


def expired(site: Site) -> str:
    one = site.authority.manager("vmhost1", end=-timedelta(hours=1))
    return f'certificate = "{one.certificate}"\nkey = "{one.key}"'


@pytest.mark.parametrize(
    ("files", "code", "said"),
    [
        (garbage, 200, "holds no certificate"),
        (anothers_key, 200, "does not belong to certificate"),
        (a_guests, 203, "it was not issued for a manager"),
        (encrypted, 200, "it is encrypted"),
        (expired, 203, "it expired on"),
    ],
)
def test_what_is_wrong_with_its_own_files_is_local(
    site: Site, files: Callable[[Site], str], code: int, said: str
) -> None:
    config = site.configure(1)
    ca = f'ca = "{site.authority.ca}"'
    config.write_text(f'[guests.guest1]\naddress = "127.0.0.1:1"\n[tls]\n{files(site)}\n{ca}\n')
    given, _, errors = run("manager", "--app", "oracle", "--config", config)
    assert given == code
    assert said in errors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--app"),
        (("--app", "a", "--frobnicate"), "--frobnicate"),
        (("--app", "a", "--start", "--stop"), "not allowed"),
        (("--app", "a", "--timeout", "1s"), "--timeout"),
        (("--app", "a", "--stop", "--timeout", "soon"), "must be a duration"),
        (("--app", "a\n"), "not a name"),
        (("--app", "a", "--config", "/nonexistent/x.toml"), "cannot read /nonexistent/x.toml"),
        (("--app", "a", "--log-file", "/nonexistent/log"), "/nonexistent/log"),
    ],
)
def test_wrong_arguments_are_code_200(words: tuple[str, ...], said: str) -> None:
    code, _, errors = run("manager", *words)
    assert code == 200
    assert said in errors


def test_help_and_version() -> None:
    assert run("manager", "--version")[:2] == (0, "cmappmgr 0.1.0\n")
    code, output, _ = run("manager", "--help")
    assert code == 0
    assert "--takeover" in output


# The verbs --------------------------------------------------------------------------------


def test_start_returns_when_it_runs_and_gives_it_up(site: Site) -> None:
    said: list[str] = []

    def script(peer: Conversation) -> None:
        peer.grant(STARTING)
        peer.say(State(0, RUNNING, "b1", "e1"))
        request = peer.hear()
        said.append(type(request).__name__)
        peer.say(Done(request.seq))

    with site.peer(script) as peer:
        config = site.configure(peer.port)
        code, _, errors = run("manager", "--app", "oracle", "--config", config, "--start")
    assert (code, said) == (0, ["Release"])
    assert "exit 0, success: running (run r1)" in errors


def test_start_that_takes_longer_than_its_timeout(site: Site) -> None:
    def script(peer: Conversation) -> None:
        peer.grant(STARTING)
        while True:
            peer.say(State(peer.hear().seq, STARTING, "b1", "e1"))

    with site.peer(script) as peer:
        words = ("--config", site.configure(peer.port), "--start", "--timeout", "1s")
        code, _, errors = run("manager", "--app", "oracle", *words)
    assert code == 208
    assert "it is starting" in errors


def test_stop_needs_no_ownership(site: Site) -> None:
    def script(peer: Conversation) -> None:
        peer.greet()
        stop = peer.hear()
        assert stop == Stop(stop.seq, "oracle")
        peer.say(Done(stop.seq))

    with site.peer(script) as peer:
        config = site.configure(peer.port)
        assert run("manager", "--app", "oracle", "--config", config, "--stop")[0] == 0


def test_stop_with_takeover_claims_first_and_starts_nothing(site: Site) -> None:
    def script(peer: Conversation) -> None:
        claim = peer.grant()
        assert claim == Claim(claim.seq, "oracle", start=False, takeover=True)
        stop = peer.hear()
        peer.say(Ended(0, "oracle", MANAGER))
        ack = peer.hear()
        assert ack == Ack(ack.seq, "r1")
        peer.say(Done(ack.seq), Done(stop.seq))

    with site.peer(script) as peer:
        config = site.configure(peer.port)
        words = ("--config", config, "--stop", "--takeover")
        code, _, errors = run("manager", "--app", "oracle", *words)
    assert code == 0, errors


def test_stop_of_what_will_not_go(site: Site) -> None:
    left = AppStatus("oracle", Goal.DOWN, Phase.KILLING, run="r1", pid=7, survivors=(7,))

    def script(peer: Conversation) -> None:
        peer.greet()
        peer.hear()
        status = peer.hear()
        assert isinstance(status, Status)
        peer.say(State(status.seq, left, "b1", "e1"), Done(status.seq))

    with site.peer(script) as peer:
        words = ("--config", site.configure(peer.port), "--stop", "--timeout", "500ms")
        code, _, errors = run("manager", "--app", "oracle", *words)
    assert code == 215
    assert "killing, pid 7, left: pid 7" in errors


def test_stop_goes_on_after_a_lost_link(site: Site) -> None:
    def drops(peer: Conversation) -> None:
        peer.greet()
        peer.hear()

    def stops(peer: Conversation) -> None:
        peer.greet()
        peer.say(Done(peer.hear().seq))

    with site.peer(drops, stops) as peer:
        config = site.configure(peer.port)
        code, _, errors = run("manager", "--app", "oracle", "--config", config, "--stop")
        assert peer.connections == 2
    assert code == 0, errors


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (RUNNING, 0, "oracle@guest1: running, pid 7\n"),
        (AppStatus("oracle", Goal.DOWN, Phase.FAILED, last=EXIT_3), 1, "failed"),
        (STARTING, 2, "starting"),
        (STOPPED, 3, "stopped as its manager asked"),
        (msgspec.structs.replace(RUNNING, owner=FORGED), 0, ESCAPED),
    ],
)
def test_status(site: Site, status: AppStatus, code: int, text: str) -> None:
    def script(peer: Conversation) -> None:
        peer.greet()
        request = peer.hear()
        assert request == Status(request.seq, ("oracle",))
        peer.say(State(request.seq, status, "b1", "e1"), Done(request.seq))

    with site.peer(script) as peer:
        config = site.configure(peer.port)
        result, output, errors = run("manager", "--app", "oracle", "--config", config, "--status")
    assert (result, errors) == (code, "")
    assert text in output


def test_check(site: Site) -> None:
    def script(peer: Conversation) -> None:
        peer.greet()
        seq = peer.hear().seq
        peer.say(State(seq, STOPPED, "b1", "e1"), Done(seq))

    with site.peer(script) as peer:
        config = site.configure(peer.port)
        code, output, _ = run("manager", "--app", "oracle", "--config", config, "--check")
    assert (code, output) == (0, "oracle@guest1: defined in guest1, cmappserver 0.1\n")


def test_check_lets_the_guest_move_no_cursor(site: Site) -> None:
    def script(peer: Conversation) -> None:
        peer.greet()
        seq = peer.hear().seq
        peer.say(State(seq, msgspec.structs.replace(STOPPED, problem=FORGED), "b1", "e1"))
        peer.say(Done(seq))

    with site.peer(script) as peer:
        config = site.configure(peer.port)
        code, output, _ = run("manager", "--app", "oracle", "--config", config, "--check")
    assert code == 0
    assert output.endswith(f"problem: {ESCAPED}")


def test_check_of_what_was_removed_from_the_configuration_and_still_runs(site: Site) -> None:
    def script(peer: Conversation) -> None:
        peer.greet()
        seq = peer.hear().seq
        peer.say(State(seq, msgspec.structs.replace(RUNNING, removed=True), "b1", "e1"), Done(seq))

    with site.peer(script) as peer:
        config = site.configure(peer.port)
        code, output, errors = run("manager", "--app", "oracle", "--config", config, "--check")
    assert (code, output) == (205, "")
    assert "removed from the configuration; it runs on until it ends" in errors


def test_check_warns_of_a_manager_that_gives_up_too_early(site: Site) -> None:
    def script(peer: Conversation) -> None:
        peer.greet()
        seq = peer.hear().seq
        mortal = msgspec.structs.replace(STOPPED, lease=20.0, ends_within=41.0)
        peer.say(State(seq, mortal, "b1", "e1"), Done(seq))

    with site.peer(script) as peer:
        config = site.configure(peer.port)
        code, _, errors = run("manager", "--app", "oracle", "--config", config, "--check")
    assert code == 0
    assert "lost_after must be 42s at least" in errors


@pytest.mark.parametrize(("days", "said"), [(10, True), (60, False)])
@pytest.mark.parametrize("words", [(), ("--check",)])
def test_certificates_that_soon_end_are_told(
    site: Site, words: tuple[str, ...], days: int, said: bool
) -> None:
    def answers_check(peer: Conversation) -> None:
        peer.greet()
        seq = peer.hear().seq
        peer.say(State(seq, STOPPED, "b1", "e1"), Done(seq))

    script = answers_check if words else ends_with_3
    site.end = timedelta(days=days)
    with site.peer(script) as peer:
        config = site.configure(peer.port)
        code, _, errors = run("manager", "--app", "oracle", "--config", config, *words)
    assert code == (0 if words else 3)
    for whose in ("this host", "the guest"):
        warning = rf"the certificate of {whose} ends on \d{{4}}-.* UTC, in 9 days\n"
        assert bool(re.search(warning, errors)) is said


def test_check_of_what_is_not_there(site: Site) -> None:
    def script(peer: Conversation) -> None:
        peer.greet()
        peer.say(Refused(peer.hear().seq, "unknown-app", "there is none"))

    with site.peer(script) as peer:
        config = site.configure(peer.port)
        assert run("manager", "--app", "x", "--config", config, "--check")[0] == 205


def test_a_mistyped_guest_is_told_from_one_that_is_down(site: Site) -> None:
    config = site.configure(1, connect_timeout="1s")
    words = ("--app", "oracle", "--config", config, "--guest", "no..host", "--check")
    code, _, errors = run("manager", *words)
    said = f"'no..host' is none of the guests in {config} (guest1)"
    first, *_, last = errors.splitlines()
    assert code == 201
    assert "cannot reach the server: cannot resolve 'no..host'" in first
    assert first.endswith(f"{said}; trying again")
    assert last.endswith(said)


# What it is made of -----------------------------------------------------------------------


def test_neither_asyncio_nor_pydantic_nor_logging_is_imported() -> None:
    unwanted = {"asyncio", "pydantic", "logging", "typing_extensions", "inspect"}
    program = (
        "import sys, cmappd.client.manager, cmappd.client.verbs, cmappd.client.control,"
        f" cmappd.client.control_arguments; print(*{unwanted} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", program]).strip() == b""
