"""Somebody works on an application in the guest, and the cluster does not react."""

import json
import os
import shutil
import signal
import subprocess

import pytest

from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import Manager

LOST_AFTER = 1.0


def begin(scene: Scene, *words: str, **keys: object) -> Manager:
    """A manager of a running application that is under maintenance."""
    scene.guest.define("db", "/bin/sleep", "600", **keys)
    scene.guest.start()
    manager = scene.manager("db", config=scene.host(lost_after=f"{LOST_AFTER:.0f}s"))
    manager.wait_said("running")
    maintain(scene, "on", *words)
    manager.wait_said("under maintenance until ")
    return manager


def maintain(scene: Scene, *words: str) -> str:
    done = scene.guest.ctl("maintenance", "db", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill(scene: Scene) -> None:
    os.kill(scene.guest.pid_of("db"), signal.SIGKILL)


def test_it_ends_and_is_started_by_hand_and_the_manager_stays(scene: Scene) -> None:
    guest, manager = scene.guest, begin(scene, "--for", "2h", "--reason", "new disks")
    assert "for 2h, by uid 0: new disks" in manager.said().replace(f"uid {os.getuid()}", "uid 0")
    kill(scene)
    manager.wait_said("failed: ended by itself, SIGKILL (signal 9)")
    assert guest.ctl("start", "db").returncode == 0
    maintain(scene, "off")
    manager.wait_said("maintenance is over")
    pid = guest.pid_of("db")
    assert manager.running
    os.kill(pid, signal.SIGKILL)
    assert manager.wait() == 137
    assert not guest.pids("db")


def test_what_is_stopped_when_it_is_over_ends_the_manager(scene: Scene) -> None:
    manager = begin(scene)
    assert scene.guest.ctl("stop", "db").returncode == 0
    manager.wait_said("stopped: stopped in the guest by its administrator")
    maintain(scene, "off")
    assert manager.wait() == 212
    assert "maintenance is over" in manager.said()


def test_it_ends_by_itself(scene: Scene) -> None:
    manager = begin(scene, "--for", "3s")
    kill(scene)
    manager.wait_said("failed")
    assert manager.wait() == 137


def test_a_server_that_is_killed_keeps_it_and_the_manager_stays(scene: Scene) -> None:
    guest, manager = scene.guest, begin(scene)
    kill(scene)
    guest.wait_status("db", phase="failed")
    assert guest.server is not None
    guest.server.kill()
    manager.wait_said("the link was lost")
    with pytest.raises(subprocess.TimeoutExpired):
        manager.wait(2 * LOST_AFTER)
    guest.start()
    manager.wait_said("cmappserver has been restarted")
    status = guest.wait_status("db", owner="vmhost1")
    assert (status["phase"], status["maintenance"]["by"]) == ("failed", f"uid {os.getuid()}")
    maintain(scene, "off")
    assert manager.wait() == 137


def test_a_server_that_is_stopped_and_started_keeps_it_and_the_manager_stays(scene: Scene) -> None:
    guest, manager = scene.guest, begin(scene, autostart=True)
    assert guest.server is not None
    assert guest.server.stop() == 0
    manager.wait_said("the link was lost")
    guest.start()
    manager.wait_said("cmappserver has been restarted")
    assert guest.status("db")["phase"] == "stopped"
    maintain(scene, "off")  # it was stopped only because the server was
    pid = guest.pid_of("db")
    manager.wait_said(f"running, pid {pid}")
    os.kill(pid, signal.SIGKILL)
    assert manager.wait() == 137


def test_it_outlasts_all_that_a_reboot_takes_away(scene: Scene) -> None:
    guest, manager = scene.guest, begin(scene, autostart=True)
    assert guest.server is not None
    kill(scene)
    guest.wait_status("db", phase="failed")
    guest.server.kill()
    shutil.rmtree(guest.state / "apps")
    kept = guest.state / "maintenance" / "db.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "boot_id": "another"}))
    guest.start()
    manager.wait_said("cmappserver has been restarted")
    status = guest.wait_status("db", owner="vmhost1")
    assert (status["phase"], status["run"]) == ("stopped", None)
    maintain(scene, "off")
    manager.wait_said("running", times=2)
    assert manager.stop() == 0


def test_a_new_manager_starts_nothing_and_stays(scene: Scene) -> None:
    guest, first = scene.guest, begin(scene)
    assert first.stop() == 0
    manager = scene.manager("db")
    manager.wait_said("under maintenance")
    assert guest.status("db")["phase"] == "stopped"
    assert guest.ctl("start", "db").returncode == 0
    manager.wait_said("running, pid")
    maintain(scene, "off")
    manager.wait_said("maintenance is over")
    assert manager.stop() == 0


@pytest.mark.parametrize(
    ("verb", "words"), [("start", "not started"), ("status", "stopped, under")]
)
def test_the_verbs_of_a_cluster_see_nothing_to_react_to(
    scene: Scene, verb: str, words: str
) -> None:
    guest = scene.guest
    guest.define("db", "/bin/sleep", "600")
    guest.start()
    maintain(scene, "on", "--reason", "new disks")
    command = scene.command("--app", "db", f"--{verb}")
    assert command.wait() == 0
    assert words in command.said()
    assert "under maintenance" in command.said()
    assert not guest.pids("db")


def test_who_asks_in_the_guest_is_shown_it(scene: Scene) -> None:
    guest, _ = scene.guest, begin(scene, "--reason", "new disks")
    assert "new disks" in maintain(scene)
    assert "new disks" in guest.ctl("maintenance").stdout
    assert "new disks" in guest.ctl("status", "-v").stdout
    assert "maintenance for" in guest.ctl("status").stdout
    maintain(scene, "off")
    assert maintain(scene) == "db: not under maintenance\n"
    assert guest.ctl("maintenance").stdout == ""
