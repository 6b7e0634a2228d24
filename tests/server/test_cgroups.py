"""Applications in cgroups of their own, where root can make them."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from cmappd.core.messages import Done, Restart, Start, Stop
from cmappd.core.state import Phase
from cmappd.errors import ConfigError
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.shared.items import Said
from cmappd.system.cgroup import Cgroup
from cmappd.system.hierarchy import open_hierarchy
from cmappd.system.marks import cgroup_of
from tests.server.application.test_supervisor import running
from tests.server.ground import Ground, Recorder, play, until
from tests.server.harness import Guest, alive, shell, stanza, wait_for

pytestmark = pytest.mark.root

# It leaves its session, its environment, its parent and its output behind, all at once.
HIDDEN = """
import os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
null = os.open("/dev/null", os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(null, fd)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
os.execve("/bin/sleep", ["sleep", "600"], {})
"""


@pytest.fixture(autouse=True)
def _cgroups() -> None:
    try:
        open_hierarchy(f"test{os.getpid()}").remove()
    except ConfigError as error:
        pytest.skip(str(error))


def hides(folder: Path) -> str:
    """The command of a shell that launches the hidden one; its pid is in a file."""
    (folder / "hidden.py").write_text(HIDDEN)
    return f"{sys.executable} -IS {folder}/hidden.py {folder}/pid"


def hidden(folder: Path) -> int:
    return int(wait_for(lambda: (folder / "pid").exists() and (folder / "pid").read_text()))


def test_one_that_hides_is_stopped_with_the_rest(tmp_path: Path) -> None:
    apps = shell("db", f"sleep 0.2; {hides(tmp_path)}; exec sleep 600", autostart=True)
    with Guest(tmp_path, apps).started() as guest:
        pid = hidden(tmp_path)
        status = guest.control().app("db")
        assert status.confined
        assert cgroup_of(pid) == status.run
        admin = guest.control()
        assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
        assert not alive(pid)


def test_one_that_hides_before_it_could_be_moved_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes its time, now and then, and meanwhile the application runs already.

    What another one waits for, a daemon that executes the same, is in a cgroup already.
    """
    apps = shell("db", f"{hides(tmp_path)}; exec sleep 600")
    apps += stanza("other", "/bin/sleep", "600", type="forking")

    async def scene(ground: Ground, db: Supervisor) -> None:
        ground.world.hierarchy = hierarchy
        other = ground.find("other")
        other.post(Said(Recorder("uid 0", administrator=True), Start(1, "other")))
        await until(lambda: other.app.phase is Phase.STARTING)
        monkeypatch.setattr(Cgroup, "add", slowly)
        await Recorder("vmhost1").claim(db)
        pid = hidden(tmp_path)
        monkeypatch.undo()
        await running(db)
        assert db.app.run is not None
        assert cgroup_of(pid) == db.app.run.id
        admin = Recorder("uid 0", administrator=True)
        assert isinstance(await admin.ask(db, Stop(admin.next(), "db")), Done)
        assert not alive(pid)

    hierarchy, add = open_hierarchy(f"test{os.getpid()}"), Cgroup.add

    def slowly(cgroup: Cgroup, pid: int) -> bool:
        wait_for(lambda: (tmp_path / "pid").exists())
        return add(cgroup, pid)

    try:
        play(tmp_path, apps, scene)
    finally:
        hierarchy.remove()


def test_one_that_hides_is_the_daemon(tmp_path: Path) -> None:
    apps = shell("db", hides(tmp_path), type="forking", autostart=True)
    with Guest(tmp_path, apps).started() as guest:
        pid = hidden(tmp_path)
        guest.control().wait_app("db", lambda status: status.pid == pid)


def test_one_that_hides_is_found_after_a_crash(tmp_path: Path) -> None:
    apps = shell("db", f"sleep 0.2; {hides(tmp_path)}; exec sleep 600", autostart=True)
    with Guest(tmp_path, apps).started() as guest:
        pid = hidden(tmp_path)
        before = guest.control().wait_app("db", lambda status: status.phase == "running")
        guest.kill()
        guest.start()
        after = guest.control().wait_app("db", lambda status: status.phase == "running")
        assert (after.run, after.pid, after.confined) == (before.run, before.pid, True)
        admin = guest.control()
        assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
        assert not alive(pid)


def test_who_destroys_a_run_that_is_over_spares_the_next_one(tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        ground.world.hierarchy = hierarchy
        admin = Recorder("uid 0", administrator=True)
        assert isinstance(await admin.ask(db, Start(admin.next(), "db")), Done)
        assert db.app.run is not None
        before = db.app.run.id
        assert isinstance(await admin.ask(db, Restart(admin.next(), "db")), Done)
        pid = await running(db)
        assert cgroup_of(pid) == db.app.run.id != before
        db.runner.destroy(before)
        assert before not in ground.world.lingering, "it is looked for as long as another one lives"
        db.runner.terminate(before, db.app.definition, whole=True)
        assert before not in ground.world.lingering
        assert isinstance(await admin.ask(db, Stop(admin.next(), "db")), Done)
        assert db.app.last is not None
        assert db.app.last.status.signal == signal.SIGTERM

    hierarchy = open_hierarchy(f"test{os.getpid()}")
    play(tmp_path, shell("db", "exec sleep 600"), scene)
    hierarchy.remove()


def test_the_cgroup_goes_with_the_run(tmp_path: Path) -> None:
    with Guest(tmp_path, shell("db", "exec sleep 600", autostart=True)).started() as guest:
        status = guest.control().wait_app("db", lambda status: status.phase == "running")
        assert status.pid is not None
        assert cgroup_of(status.pid) == status.run
        (folder,) = folders(f"app-{status.run}")
        os.kill(status.pid, signal.SIGKILL)
        guest.control().wait_app("db", lambda status: status.phase == "failed")
        assert not folder.exists()
        guest.stop()
        assert not folder.parent.exists()


# What this leaves behind has nothing by which it is known, by when its pid is in a file.
LEAVES = "touch {0}/left; before=$(wc -l <{0}/left); "
LEAVES += "env -i setsid /bin/sh -c 'echo $$ >>{0}/left; exec sleep 600' >/dev/null 2>&1 & "
LEAVES += "until [ $(wc -l <{0}/left) -gt $before ]; do sleep 0.01; done"


def left(folder: Path, count: int = 1) -> list[int]:
    """The pids of what was left behind, once there are so many."""
    path = folder / "left"

    def pids() -> list[int]:
        found = path.read_text().split("\n")[:-1] if path.exists() else []
        return list(map(int, found)) if len(found) >= count else []

    return wait_for(pids)


def test_what_a_check_leaves_ends_with_the_check(tmp_path: Path) -> None:
    health = {"command": ["/bin/sh", "-c", LEAVES.format(tmp_path)], "interval": "100ms"}
    with Guest(
        tmp_path, shell("db", "exec sleep 600", autostart=True, health=health)
    ).started() as guest:
        first, second, *_ = left(tmp_path, 3)
        assert not alive(first)
        assert not alive(second)
        admin = guest.control()
        run = admin.app("db").run
        assert folders(f"app-{run}:health")
        assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
        assert not [pid for pid in left(tmp_path) if alive(pid)]
        assert not folders(f"app-{run}*")


def test_what_stop_after_leaves_is_somebody(tmp_path: Path) -> None:
    stop = {"after": ["/bin/sh", "-c", LEAVES.format(tmp_path)], "timeout": "1s"}
    with Guest(
        tmp_path, shell("db", "exec sleep 600", autostart=True, stop=stop)
    ).started() as guest:
        guest.control().wait_app("db", lambda status: status.phase == "running")
        admin = guest.control()
        run = admin.app("db").run
        admin.send(Stop(seq := admin.next(), "db"))
        (pid,) = left(tmp_path)
        assert cgroup_of(pid) == f"{run}/after"
        assert isinstance(admin.answer(seq), Done)
        assert not alive(pid)
        assert not folders(f"app-{run}*")


def test_what_a_check_has_left_ends_after_a_crash(tmp_path: Path) -> None:
    script = f"[ -e {tmp_path}/left ] || {{ {LEAVES.format(tmp_path)}; sleep 600; }}"
    health: dict[str, Any] = {"command": ["/bin/sh", "-c", script], "interval": "100ms"}
    health["timeout"] = "100s"
    with Guest(
        tmp_path, shell("db", "exec sleep 600", autostart=True, health=health)
    ).started() as guest:
        (pid,) = left(tmp_path)
        wait_for(lambda: cgroup_of(pid))
        guest.kill()
        assert alive(pid)
        guest.start()
        status = guest.control().wait_app("db", lambda status: status.health == "healthy")
        assert not alive(pid)
        assert status.phase == "running"
        admin = guest.control()
        assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
        assert not folders(f"app-{status.run}*")


def folders(name: str) -> list[Path]:
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    points = {Path(fields[4]) for fields in mounts if "cgroup2" in fields}
    return [found for point in points for found in point.rglob(f"cmappd-*/{name}")]
