"""Signals to cmappmgr, and the surroundings that it may be started in."""

import os
import signal
from pathlib import Path

import pytest

from tests.end_to_end.causes.people import STUBBORN
from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import Manager, wait_for

TIDY = "trap 'echo tidied up; exit 0' TERM; echo up; while :; do sleep 0.05; done"


def followed(scene: Scene, script: str = TIDY, *words: str, **keys: object) -> Manager:
    """An application that runs, with its manager."""
    scene.guest.shell("db", script, **keys)
    scene.guest.start()
    manager = scene.manager("db", *words)
    manager.wait_said("running")
    wait_for(lambda: scene.guest.app_said("db"), "the application's first word")
    return manager


def assert_stopped_in_order(scene: Scene) -> None:
    assert scene.guest.app_said("db") == "up\ntidied up\n"
    status = scene.guest.status("db")
    assert (status["phase"], status["owner"]) == ("stopped", None)
    assert status["last"]["cause"] == "manager"
    assert not scene.guest.pids("db")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_sigint_stop_in_order_and_exit_0(scene: Scene, signum: signal.Signals) -> None:
    manager = followed(scene)
    manager.signal(signum)
    assert manager.wait() == 0
    assert_stopped_in_order(scene)
    assert (manager.report()["reason"], manager.report()["exit_code"]) == ("stopped", 0)


def test_a_second_sigterm_kills(scene: Scene) -> None:
    manager = followed(scene, STUBBORN, stop={"timeout": "10m"})
    manager.signal(signal.SIGTERM)
    manager.wait_said("stopping")
    assert manager.running

    def ended() -> bool:
        manager.signal(signal.SIGTERM)
        return not manager.running

    wait_for(ended, "a second one that is not taken for the first")
    assert manager.wait() == 0
    assert "asked to kill the application" in manager.said()
    assert manager.report()["signal"] == signal.SIGKILL
    assert not scene.guest.pids("db")


def test_sigterm_to_the_process_and_to_its_group_is_one(scene: Scene) -> None:
    """As Serviceguard halts a service: it is stopped in order, and not killed."""
    scene.guest.shell("db", TIDY.replace("echo tidied", "sleep 0.3; echo tidied"))
    scene.guest.start()
    manager = scene.manager("db", prefix=("setsid",))
    manager.wait_said("running")
    wait_for(lambda: scene.guest.app_said("db"), "the application's first word")
    os.kill(manager.pid, signal.SIGTERM)
    manager.wait_said("asked to stop")
    os.killpg(manager.pid, signal.SIGTERM)
    assert manager.wait() == 0
    assert_stopped_in_order(scene)


def test_sighup_ends_nothing_and_reopens_the_log_file(scene: Scene, tmp_path: Path) -> None:
    log, moved = tmp_path / "copy.log", tmp_path / "copy.log.1"
    manager = followed(scene, TIDY, "--log-file", str(log))
    log.rename(moved)
    before = moved.read_text()
    manager.signal(signal.SIGHUP)
    wait_for(log.exists, "the new log file")
    assert manager.stop() == 0
    assert moved.read_text() == before
    assert before + log.read_text() == manager.said()
    assert_stopped_in_order(scene)


SURROUNDINGS = {
    "an empty environment": ("env", "-i"),
    "closed descriptors": ("sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-'),
    "the root directory": ("sh", "-c", 'cd /; exec "$0" "$@"'),
    "a deleted directory": ("sh", "-c", 'mkdir d; cd d; rmdir ../d; exec "$0" "$@"'),
    "SIGTERM ignored": ("sh", "-c", 'trap "" TERM INT HUP; exec "$0" "$@"'),
    "few descriptors": ("sh", "-c", 'ulimit -n 16; exec "$0" "$@"'),
}


@pytest.mark.parametrize("prefix", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_the_surroundings_do_not_matter(
    scene: Scene, tmp_path: Path, prefix: tuple[str, ...]
) -> None:
    log = tmp_path / "copy.log"
    scene.guest.shell("db", TIDY)
    scene.guest.start()
    manager = scene.manager("db", "--log-file", str(log), prefix=prefix)
    wait_for(lambda: log.exists() and "running" in log.read_text())
    wait_for(lambda: scene.guest.app_said("db"))
    manager.signal(signal.SIGTERM)
    assert manager.wait() == 0
    assert "exit 0, stopped" in log.read_text()
    assert manager.report()["reason"] == "stopped"
    assert_stopped_in_order(scene)


def test_a_reader_of_standard_error_that_goes_away_ends_nothing(
    scene: Scene, tmp_path: Path
) -> None:
    """Each line after that is a SIGPIPE, or would be."""
    pipe, log = tmp_path / "pipe", tmp_path / "copy.log"
    os.mkfifo(pipe)
    scene.guest.shell("db", TIDY)
    scene.guest.start()
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        to_pipe = ("sh", "-c", f'exec "$0" "$@" 2>{pipe}')
        manager = scene.manager("db", "--log-file", str(log), prefix=to_pipe)
        wait_for(lambda: log.exists() and "running" in log.read_text())
        assert b"running" in os.read(reader, 65536)
    finally:
        os.close(reader)
    wait_for(lambda: scene.guest.app_said("db"))
    assert manager.stop() == 0
    assert "exit 0, stopped" in log.read_text()
    assert_stopped_in_order(scene)


def test_both_programs_hear_signals_that_were_blocked_when_they_were_started(scene: Scene) -> None:
    """A mask is inherited; who could not be told to end would fail the package's halt."""
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        manager = followed(scene)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert manager.stop() == 0
    assert_stopped_in_order(scene)
    assert scene.guest.server is not None
    assert scene.guest.server.stop() == 0
