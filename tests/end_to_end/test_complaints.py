"""What users of supervisord complain of, and must not find here.

Here: children that are left after a stop; a stopped application that starts again with the server;
one bad stanza that stops everything; a restart that hangs the control socket. Elsewhere: a rotated
log that spins or loses (tests/server/test_logs.py), and a changed clock that upsets restarts
(tests/guest_vm/test_clock.py).
"""

import subprocess
import time
from pathlib import Path

import pytest

from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import PROGRAMS, processes_in, wait_for

# Five processes, each of which parts with its parents in another way.
FAMILY = """
sleep 600 &
setsid sleep 600 &
(setsid sh -c 'sleep 600 & exit' &)
env -i sh -c 'sleep 600 & sleep 600' &
nohup sh -c 'trap "" TERM HUP; sleep 600 & wait' >/dev/null 2>&1 &
touch ready
wait
"""


@pytest.mark.parametrize("how", ["cmappctl stop", "SIGTERM to cmappmgr", "SIGTERM to cmappserver"])
def test_no_child_is_left_after_a_stop(scene: Scene, tmp_path: Path, how: str) -> None:
    place = tmp_path / "family"
    place.mkdir()
    scene.guest.shell("db", FAMILY, directory=str(place), stop={"timeout": "1s"})
    server = scene.guest.start()
    manager = scene.manager("db")
    wait_for((place / "ready").exists, "the family")
    wait_for(lambda: len(processes_in(place)) >= 7, "all of the family")
    if how == "cmappctl stop":
        assert scene.guest.ctl("stop", "db").returncode == 0
    elif how == "SIGTERM to cmappmgr":
        assert manager.stop() == 0
    else:
        assert server.stop() == 0
    assert processes_in(place) == []


def test_a_stopped_application_does_not_start_again_with_the_server(scene: Scene) -> None:
    """Although it has ``autostart``: after a crash, after an upgrade, and after an orderly end."""
    scene.guest.define("db", "/bin/sleep", "600", autostart=True)
    server = scene.guest.start()
    scene.guest.pid_of("db")
    assert scene.guest.ctl("stop", "db").returncode == 0
    server.kill()
    server = scene.guest.start()
    assert scene.guest.status("db")["phase"] == "stopped"
    assert scene.guest.ctl("upgrade").returncode == 0
    assert scene.guest.status("db")["phase"] == "stopped"
    assert server.stop() == 0
    scene.guest.start()
    assert scene.guest.status("db")["phase"] == "stopped"
    assert scene.guest.pids() == []


def test_a_restart_that_takes_its_time_does_not_hang_the_control_socket(scene: Scene) -> None:
    deaf = 'trap "" TERM; while :; do sleep 0.05; done'
    scene.guest.shell("db", deaf, autostart=True, stop={"timeout": "1h"})
    scene.guest.define("web", "/bin/sleep", "600", autostart=True)
    scene.guest.start()
    scene.guest.pid_of("db")
    socket = scene.guest.state / "control.sock"
    restart = subprocess.Popen([PROGRAMS / "cmappctl", "--socket", socket, "restart", "db"])
    try:
        scene.guest.wait_status("db", phase="stopping")
        began = time.monotonic()
        assert scene.guest.ctl("restart", "web").returncode == 0
        assert scene.guest.ctl("logs", "db").returncode == 0
        assert scene.guest.status("db")["phase"] == "stopping"
        assert time.monotonic() - began < 10.0
    finally:
        restart.kill()
        restart.wait()


def test_a_bad_stanza_stops_no_other_application(scene: Scene) -> None:
    """Not at the start of the server, and not in a reload."""
    for name in ("one", "two"):
        scene.guest.define(name, "/bin/sleep", "600", autostart=True)
    scene.guest.apps["bad"] = {"comand": ["/bin/true"]}
    scene.guest.start()
    pids = [scene.guest.pid_of(name) for name in ("one", "two")]
    said = scene.guest.ctl("status").stdout
    assert "apps.bad.comand: unknown key: did you mean 'command'?" in said
    assert scene.guest.ctl("start", "bad").returncode == 1

    scene.guest.apps["one"]["stop"] = {"timeout": "soon"}
    scene.guest.write()
    assert scene.guest.ctl("reload").returncode == 1
    assert [scene.guest.pid_of(name) for name in ("one", "two")] == pids
    assert "apps.one.stop.timeout: must be a duration" in scene.guest.ctl("status", "one").stdout
