"""From one host to the next, as a live migration does it: the application notices nothing."""

import os
import signal

from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import Manager, wait_for


def begin(scene: Scene, config: str | None = None, **keys: object) -> tuple[Manager, int, str]:
    """A manager on the first host, and the process and run of its application."""
    scene.guest.define("db", "/bin/sleep", "600", **keys)
    scene.guest.start()
    first = scene.manager("db", config=config)
    first.wait_said("running")
    return first, scene.guest.pid_of("db"), scene.guest.status("db")["run"]


def host2(scene: Scene) -> str:
    return scene.host(scene.authority.manager("vmhost2"))


def test_a_signal_hands_it_over_to_another_host(scene: Scene) -> None:
    first, pid, run = begin(scene)
    first.signal(signal.SIGUSR1)
    assert first.wait() == 0
    report = first.report()
    assert (report["reason"], report["code"], report["run"]) == ("success", 0, run)
    assert report["text"] == "detached: the application runs on for its next owner"
    second = scene.manager("db", config=host2(scene))
    second.wait_said(f"running, pid {pid} (run {run})")
    assert scene.guest.status("db")["owner"] == "vmhost2"
    os.kill(pid, signal.SIGKILL)
    assert second.wait() == 137


def test_a_command_hands_it_over(scene: Scene) -> None:
    first, pid, run = begin(scene)
    command = scene.command("--app", "db", "--detach")
    assert command.wait() == 0
    assert first.wait() == 0
    assert "asked to detach" in first.said()
    second = scene.manager("db", config=host2(scene))
    second.wait_said(f"running, pid {pid} (run {run})")
    assert second.stop() == 0


def test_another_hosts_manager_is_not_detached(scene: Scene) -> None:
    first, _pid, _run = begin(scene)
    command = scene.command("--app", "db", "--detach", config=host2(scene))
    assert command.wait() == 206
    assert "owned by vmhost1" in command.said()
    assert first.running
    assert first.stop() == 0


def test_what_nobody_takes_over_ends_with_its_lease(scene: Scene) -> None:
    first, _pid, _run = begin(scene, manager={"on_lost": "stop", "lease": "5s"})
    first.signal(signal.SIGUSR1)
    assert first.wait() == 0
    assert scene.guest.pids("db")
    wait_for(lambda: not scene.guest.pids("db"), "the end of the lease")
    assert scene.guest.status("db")["phase"] == "stopped"


def test_without_a_guest_it_is_not_called_done(scene: Scene) -> None:
    first, _pid, _run = begin(scene, scene.host(lost_after="3s"))
    assert scene.guest.server is not None
    scene.guest.server.signal(signal.SIGSTOP)
    first.signal(signal.SIGUSR1)
    assert first.wait() == 202
    assert "asked to detach, and the guest may not know" in first.said()
    command = scene.command("--app", "db", "--detach", "--timeout", "1s")
    assert command.wait() == 201
