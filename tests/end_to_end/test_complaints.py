"""What users of supervisord complain of, and must not find here.

Here: children that are left after a stop, and one bad stanza that stops everything. Elsewhere: a
stopped application that starts again with the server, and a restart that hangs the control socket
(tests/server/test_complaints.py); a rotated log that spins or loses
(tests/server/test_logs.py);
a changed clock that upsets restarts (tests/guest_vm/test_clock.py).
"""

from pathlib import Path

import pytest

from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import processes_in, wait_for

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
