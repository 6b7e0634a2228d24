"""The program: how it starts, what it refuses, how it ends."""

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmappd.core.messages import Ack, Done, Ended, Poll, Release, Reload, Start, State, Upgrade
from cmappd.core.state import Cause
from tests.server.harness import (
    PATIENCE,
    PROGRAM,
    Cut,
    Guest,
    alive,
    refusal,
    shell,
    stanza,
    survives,
    wait_for,
)

SLEEP = stanza("db", "/bin/sleep", "600", autostart=True)


def run_to_the_end(guest: Guest) -> tuple[int, str]:
    """The exit code and the standard error of a server that refuses to run."""
    code = guest.launch().wait(PATIENCE)
    return code, guest.log()


def only_app(guest: Guest) -> int:
    """The pid of the one application, once it runs."""
    return wait_for(lambda: guest.control().app("db").pid) or 0


# The end -----------------------------------------------------------------------------


def test_sigterm_stops_all_applications_and_ends_with_0(tmp_path: Path) -> None:
    trap = f"trap 'echo stopped > {tmp_path}/told; exit 0' TERM; while :; do sleep 0.05; done"
    with Guest(tmp_path, shell("db", trap, autostart=True)).started() as guest:
        pid = only_app(guest)
        wait_for(lambda: survives(signal.SIGTERM, pid))
        assert guest.stop() == 0
        assert not alive(pid)
        assert (tmp_path / "told").read_text() == "stopped\n"
        assert not guest.control_path.exists()
        assert not list(guest.state.glob("*.fifo"))
        assert "because cmappserver was told to end" in guest.log()


def test_a_connected_manager_gets_the_result_before_the_server_ends(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        manager = guest.manager()
        assert isinstance(manager.claim("db"), State)
        guest.signal(signal.SIGTERM)
        assert manager.hear(Ended).outcome.cause is Cause.SHUTDOWN
        manager.close()
        assert guest.wait() == 0


def test_the_acknowledgement_and_the_release_are_answered_while_it_ends(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        manager = guest.manager()
        manager.claim("db")
        guest.signal(signal.SIGTERM)
        ended = manager.hear(Ended)
        ack, release = manager.next(), manager.next()
        manager.send(Ack(ack, ended.outcome.run), Release(release))
        assert isinstance(manager.answer(ack), Done)
        assert isinstance(manager.answer(release), Done)
        began = time.monotonic()
        assert guest.wait() == 0
        assert time.monotonic() - began < 4  # nobody is waited for any more


def test_a_second_sigterm_kills(tmp_path: Path) -> None:
    trap = 'trap "" TERM; while :; do sleep 0.05; done'
    apps = shell("db", trap, autostart=True, stop={"timeout": "10m"})
    with Guest(tmp_path, apps).started() as guest:
        pid = only_app(guest)
        wait_for(lambda: survives(signal.SIGTERM, pid))
        guest.signal(signal.SIGTERM)
        guest.wait_log("db: stopping")
        assert alive(pid)
        guest.signal(signal.SIGTERM)
        assert guest.wait() == 0
        assert not alive(pid)


def test_a_sigterm_at_its_very_end_does_not_kill_it(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        guest.signal(signal.SIGTERM)
        guest.wait_log("cmappserver ends")
        assert guest.process is not None
        while guest.process.poll() is None:
            guest.signal(signal.SIGTERM)
            time.sleep(0.001)
        assert guest.wait() == 0


@pytest.mark.parametrize("word", [Reload, Upgrade])
def test_what_is_asked_at_its_very_end_is_refused_and_leaves_nothing_pending(
    word: type[Reload | Upgrade], tmp_path: Path
) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        admin = guest.control()
        guest.signal(signal.SIGTERM)
        guest.wait_log("ending: all applications are being stopped")
        assert refusal(admin.ask(word(admin.next()))) == "operator"
        with contextlib.suppress(ConnectionError):
            while True:
                admin.send(word(admin.next()))
        assert guest.wait() == 0
        assert "destroyed" not in guest.log()


def test_who_comes_back_while_it_ends_hears_of_the_end_when_it_has_come(tmp_path: Path) -> None:
    trap = 'trap "" TERM; while :; do sleep 0.05; done'
    with Guest(tmp_path, shell("db", trap, stop={"timeout": "2s"})).started() as guest:
        manager = guest.manager()
        manager.claim("db")
        status = manager.hear_state(lambda status: status.phase == "running").status
        pid = status.pid or 0
        wait_for(lambda: survives(signal.SIGTERM, pid))
        manager.close()
        guest.signal(signal.SIGTERM)
        guest.wait_log("db: stopping")
        with pytest.raises(Cut):  # who would have it started may ask the next cmappserver
            guest.manager().claim("db")
        back = guest.manager()
        assert isinstance(back.claim("db", run=status.run), State)
        assert alive(pid)
        outcome = back.hear(Ended).outcome
        assert not alive(pid)
        assert (outcome.run, outcome.cause) == (status.run, Cause.SHUTDOWN)
        assert isinstance(back.ask(Ack(back.next(), outcome.run)), Done)
        assert guest.wait() == 0


def test_nothing_is_started_while_it_ends_and_edits_are_harmless(tmp_path: Path) -> None:
    trap = 'trap "" TERM; while :; do sleep 0.05; done'
    apps = shell("db", trap, autostart=True, stop={"timeout": "2s"})
    web = stanza("web", "/bin/sleep", "600")
    with Guest(tmp_path, apps + web).started() as guest:
        pid = only_app(guest)
        wait_for(lambda: survives(signal.SIGTERM, pid))
        admin = guest.control()
        guest.signal(signal.SIGTERM)
        guest.wait_log("db: stopping")
        assert refusal(admin.ask(Start(admin.next(), "db"))) == "operator"
        assert refusal(guest.manager().claim("web")) == "operator"
        changed = stanza("web", "/bin/sleep", "601", autostart=True, reload="restart")
        guest.write(apps.replace("trap", "true; trap") + changed + stanza("new", "/bin/sleep", "9"))
        guest.signal(signal.SIGHUP)
        assert guest.wait() == 0
        assert not alive(pid)
        assert guest.app_pids() == []


# Service managers --------------------------------------------------------------------


def test_the_service_manager_is_told_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    guest = Guest(tmp_path, SLEEP)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(PATIENCE)
        guest.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        with guest.started():
            assert notify.recv(100) == b"READY=1"
            guest.control()
            guest.manager()
            guest.signal(signal.SIGTERM)
            assert notify.recv(100) == b"STOPPING=1"
            assert guest.wait() == 0


def test_the_watchdog_is_fed_while_the_loop_makes_progress(tmp_path: Path) -> None:
    guest = Guest(tmp_path, SLEEP)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(PATIENCE)
        guest.environment |= {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "100000",
        }
        with guest.started():
            assert notify.recv(100) == b"READY=1"
            for _ in range(3):
                assert notify.recv(100) == b"WATCHDOG=1"
            guest.signal(signal.SIGSTOP)
            with pytest.raises(TimeoutError):
                silence(notify, 1.0)
            guest.signal(signal.SIGCONT)
            assert notify.recv(100) == b"WATCHDOG=1"
            assert guest.stop() == 0


def silence(notify: socket.socket, seconds: float) -> None:
    """Raise TimeoutError once nothing has come for so long."""
    notify.settimeout(seconds)
    try:
        for _ in range(1000):
            notify.recv(100)
    finally:
        notify.settimeout(PATIENCE)


@pytest.mark.parametrize("meant", ["1", ""])
def test_a_watchdog_that_is_not_ours_is_not_fed(tmp_path: Path, meant: str) -> None:
    guest = Guest(tmp_path, SLEEP)
    interval = "100000" if meant else "0"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(PATIENCE)
        guest.environment |= {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": interval,
            "WATCHDOG_PID": meant,
        }
        with guest.started():
            assert notify.recv(100) == b"READY=1"
            assert guest.stop() == 0
            assert notify.recv(100) == b"STOPPING=1"


def test_json_log(tmp_path: Path) -> None:
    noisy = shell("db", "exec sleep 600", autostart=True, stop={"after": ["/bin/false"]})
    with Guest(tmp_path, noisy, server='log_format = "json"').started() as guest:
        only_app(guest)
        guest.wait_log('"app": "db"')
        assert guest.stop() == 0
    lines = [json.loads(line) for line in guest.log().splitlines()]
    assert {"time", "level", "message"} <= set.intersection(*(set(line) for line in lines))
    assert any(line.get("app") == "db" and "running" in line["message"] for line in lines)
    # Also of what is no change of phase: not one line about it is without its name.
    assert {line.get("app") for line in lines if line["message"].startswith("db: ")} == {"db"}


def test_version(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.startswith("cmappserver ")


# What it refuses ---------------------------------------------------------------------


def test_a_missing_configuration(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    guest.config.unlink()
    code, text = run_to_the_end(guest)
    assert code == 78
    assert text == f"cmappserver: cannot read {guest.config}: No such file or directory\n"


def test_a_configuration_that_cannot_be_read_now_may_be_read_later(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    guest.config.unlink()
    guest.config.symlink_to("/proc/self/mem")
    code, text = run_to_the_end(guest)
    assert code == 1
    assert text == f"cmappserver: cannot read {guest.config}: Input/output error\n"


@pytest.mark.root
def test_a_full_state_directory_is_no_fault_of_the_configuration(tmp_path: Path) -> None:
    """Below systemd it is started again, and again, until there is room."""
    guest = Guest(tmp_path, SLEEP)
    guest.state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "cmappd-test", str(guest.state)]
    subprocess.run(mount, check=True)
    try:
        with guest.started():
            pid = only_app(guest)
            guest.kill()
            filling = guest.state / "filling"
            with pytest.raises(OSError, match="No space"):
                filling.write_bytes(bytes(1 << 20))
            assert guest.launch().wait(PATIENCE) == 1
            assert re.search("cmappserver: cannot .*: No space left on device", guest.log())
            filling.unlink()
            guest.start()
            assert only_app(guest) == pid
    finally:
        subprocess.run(["umount", "--lazy", guest.state], check=True)


def test_a_bad_main_configuration_is_named_with_file_line_and_key(tmp_path: Path) -> None:
    guest = Guest(tmp_path, server='on_shutdwn = "stop"')
    line = guest.config.read_text().splitlines().index('on_shutdwn = "stop"') + 1
    code, text = run_to_the_end(guest)
    assert code == 78
    assert text.splitlines() == [
        f"cmappserver: {guest.config}:{line}: server.on_shutdwn: "
        "unknown key: did you mean 'on_shutdown'?"
    ]


def test_a_bad_application_does_not_keep_the_others_from_running(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP + "[apps.bad]\n").started() as guest:
        assert only_app(guest)
        assert "apps.bad.command: is required" in guest.control().app("bad").problem
        guest.wait_log(r"error configuration: .*apps\.bad\.command: is required")


@pytest.mark.root
def test_root_refuses_what_others_can_write(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    os.chown(guest.config, 0, 12345)
    guest.config.chmod(0o660)
    code, text = run_to_the_end(guest)
    assert code == 78
    assert f"{guest.config} has mode 0660" in text
    assert "Traceback" not in text


@pytest.mark.root
def test_root_refuses_a_directory_above_it_that_others_can_write(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    guest = Guest(folder)
    folder.chmod(0o777)
    code, text = run_to_the_end(guest)
    assert code == 78
    assert f"{folder} has mode 0777" in text


def test_a_second_server_of_one_state_directory(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        first, pid = guest.process, only_app(guest)
        code = guest.launch().wait(PATIENCE)
        assert code == 1  # the other one may end
        assert first is not None
        assert f"a cmappserver (pid {first.pid}) uses this state directory" in guest.log()
        guest.process = first
        assert guest.control().app("db").pid == pid


def test_a_second_server_where_the_files_of_the_first_were_tidied_away(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        first, pid = guest.process, only_app(guest)
        for path in guest.state.rglob("*"):
            if not path.is_dir():
                path.unlink()
        assert guest.launch().wait(PATIENCE) == 1
        assert f"another process holds a lock on {guest.state}, " in guest.log()
        guest.process = first
        assert guest.stop() == 0
        assert not alive(pid)


def test_a_control_socket_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    guest = Guest(tmp_path, SLEEP, server=f'control = "{tmp_path}/precious"')
    code, text = run_to_the_end(guest)
    assert code == 78
    assert "cannot listen on" in text
    assert "Traceback" not in text
    assert (tmp_path / "precious").read_text() == "precious"
    assert guest.app_pids() == []


def test_a_control_socket_in_the_way_of_a_directory(tmp_path: Path) -> None:
    guest = Guest(tmp_path, server=f'control = "{tmp_path}/apps.d"')
    code, text = run_to_the_end(guest)
    assert code == 78
    assert "Traceback" not in text


def test_a_stale_control_socket_is_replaced(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    guest.state.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(guest.control_path))
    with guest.started():
        assert guest.control().statuses() == {}
        assert guest.control_path.stat().st_mode & 0o777 == 0o600


# A pause -----------------------------------------------------------------------------


def test_what_a_manager_said_during_a_pause_of_the_server_counts(tmp_path: Path) -> None:
    apps = stanza("db", "/bin/sleep", "600", manager={"on_lost": "stop", "lease": "5s"})
    with Guest(tmp_path, apps).started() as guest:
        manager = guest.manager()
        manager.claim("db")
        pid = manager.hear_state(lambda status: status.phase == "running").status.pid
        guest.signal(signal.SIGSTOP)
        poll = Poll(manager.next())
        manager.send(poll)
        time.sleep(5.5)  # longer than the lease, which is what is tested
        guest.signal(signal.SIGCONT)
        state = manager.answer(poll.seq)
        assert isinstance(state, State)
        assert (state.status.pid, state.status.goal) == (pid, "up")
        # From then on it is silent, and that counts.
        guest.control().wait_app("db", lambda status: status.goal == "down")


def test_the_umask_of_the_control_socket_is_nobody_elses(tmp_path: Path) -> None:
    apps = "".join(shell(f"db{n}", "exec sleep 600", autostart=True) for n in range(5))
    own = re.findall(r"^Umask:\t(\d+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    with Guest(tmp_path, apps).started() as guest:
        assert stat.S_IMODE(guest.control_path.stat().st_mode) == 0o600
        for n in range(5):
            status = guest.control().wait_app(f"db{n}", lambda status: status.phase == "running")
            said = Path(f"/proc/{status.pid}/status").read_text()
            assert re.findall(r"^Umask:\t(\d+)$", said, re.MULTILINE) == own
