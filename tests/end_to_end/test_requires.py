"""Two applications of which one requires the other, each with a manager of its own."""

import os
import signal
from pathlib import Path

from tests.end_to_end.harness import Scene

SAYS_WHEN_IT_ENDS = "trap 'echo {name} >>ends; exit 0' TERM; while :; do sleep 0.05; done"


def define(scene: Scene, gate: Path) -> None:
    health = {"command": ["/usr/bin/test", "-e", str(gate)], "interval": "100ms"}
    scene.guest.shell(
        "db", SAYS_WHEN_IT_ENDS.format(name="db"), start={"ready": "health"}, health=health
    )
    scene.guest.shell("web", SAYS_WHEN_IT_ENDS.format(name="web"), requires=["db"])
    scene.guest.start()


def test_each_manager_is_told_what_becomes_of_its_own(scene: Scene) -> None:
    gate = scene.folder / "gate"
    define(scene, gate)
    web = scene.manager("web")
    web.wait_said("waiting: waits for db (starting)")
    started = scene.command("--app", "web", "--status")
    assert started.wait() == 2  # in between
    assert "waiting, waits for db (starting)" in started.said()
    db = scene.manager("db")
    gate.touch()
    web.wait_said("running, pid ")
    first, pid = scene.guest.pid_of("db"), scene.guest.pid_of("web")
    db.wait_said("health: healthy")

    os.kill(first, signal.SIGKILL)  # a failure is told to its own manager, and to no other
    assert db.wait() == 128 + signal.SIGKILL
    assert scene.guest.pid_of("web") == pid
    assert web.running

    again = scene.manager("db")
    again.wait_said("running, pid ")
    assert again.stop() == 0
    assert web.wait() == 212
    assert "'db' was stopped as its manager asked" in web.said()
    assert (scene.folder / "ends").read_text().split() == ["web", "db"]


def test_a_start_that_fails_for_what_is_required_is_not_started(scene: Scene) -> None:
    scene.guest.define("db", "/bin/false", start={"ready": "10s"})
    scene.guest.define("web", "/bin/sleep", "600", requires=["db"])
    scene.guest.start()
    starting = scene.command("--app", "web", "--start")
    assert starting.wait() == 207
    assert "'db', which it requires, ended by itself, exit code 1" in starting.said()


def test_status_shows_what_is_required_and_waited_for(scene: Scene) -> None:
    define(scene, scene.folder / "gate")
    assert scene.guest.ctl("status", "--verbose", "web").stdout.count("requires: db") == 1
    manager = scene.manager("web")
    manager.wait_said("waiting: waits for db (starting)")
    assert "waits for db (starting)" in scene.guest.ctl("status", "web").stdout
    assert manager.stop() == 0  # before anything was launched
    assert scene.guest.status("web")["phase"] == "stopped"
