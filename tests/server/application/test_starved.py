"""A server without free descriptors goes on with all of its work when it has some again."""

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmappd.core.messages import Done, Refused, Start, Stop
from cmappd.core.state import Phase
from cmappd.server.application import supervisor
from cmappd.server.application.runner import Runner
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.shared.items import Said
from cmappd.system.log import journal
from cmappd.system.proc import children
from tests.server.ground import Ground, Recorder, play, until
from tests.server.harness import alive, shell
from tests.system.daemons import Journald

TURNS = 50  # of the loop, in which nothing is to be said again and again


@contextlib.contextmanager
def descriptors(free: int) -> Iterator[None]:
    """There are none to be had but so many."""
    lowest = os.dup(0)
    os.close(lowest)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("free", [0, 1])  # with one, /proc can be looked at
def test_the_last_words_get_to_the_journal_and_to_the_manager(
    free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "stdout"))
    journald = Journald(tmp_path / "stdout")
    script = "trap 'echo last words; exit 3' TERM; echo first; while :; do sleep 0.02; done"
    apps = shell("db", script, log={"destination": "journal", "path": None})

    def entries() -> list[bytes]:
        journald.read()
        return journald.entries

    async def scene(ground: Ground, db: Supervisor) -> None:
        manager = Recorder("vmhost1")
        await manager.claim(db)
        await until(lambda: entries() == [b"first"])
        assert db.app.run is not None
        assert db.app.run.pid is not None
        pid, before = db.app.run.pid, len(ground.lines)
        with descriptors(free):
            os.kill(pid, 15)
            await until(lambda: entries() == [b"first", b"last words"])
            await until(lambda: db.app.run is None or db.app.run.status is not None)
            await turns()
        await until(lambda: db.app.phase is Phase.FAILED)
        ended = db.custody.undelivered
        assert ended is not None
        assert (ended.outcome.status.code, ended.log_tail) == (3, "first\nlast words\n")
        assert len(ground.lines) < before + 10

    play(tmp_path, apps, scene)
    journald.close()


def test_the_main_process_is_found_later(tmp_path: Path) -> None:
    script = f"sleep 600 & until [ -d {tmp_path}/go ]; do sleep 0.02; done"

    async def scene(_ground: Ground, db: Supervisor) -> None:
        admin = Recorder("uid 0", administrator=True)
        db.post(Said(admin, start := Start(admin.next(), "db")))
        await until(lambda: db.app.run is not None and db.app.run.launched)
        with descriptors(0):
            os.mkdir(tmp_path / "go")
            await until(lambda: db.app.run is not None and db.app.run.searching)
            await turns()
        assert isinstance(await until(lambda: admin.answer(start.seq)), Done)
        assert db.app.phase is Phase.RUNNING

    play(tmp_path, shell("db", script, type="forking"), scene)


def test_who_is_to_end_is_told_later(tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        admin = Recorder("uid 0", administrator=True)
        assert isinstance(await admin.ask(db, Start(admin.next(), "db")), Done)
        with descriptors(0):
            db.post(Said(admin, stop := Stop(admin.next(), "db")))
            await until(lambda: db.app.phase is Phase.STOPPING)
            await turns()
        assert isinstance(await until(lambda: admin.answer(stop.seq)), Done)
        assert db.app.last is not None
        assert db.app.last.status.signal == 15
        assert len([line for line in ground.lines if "cannot terminate yet" in line]) == 1

    play(tmp_path, shell("db", "exec sleep 600", stop={"timeout": "100s"}), scene)


def destroyed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs to which SIGKILL was to be sent, each time that it was tried."""
    runs: list[str] = []
    destroy = Runner.destroy

    def noted(runner: Runner, run: str) -> None:
        runs.append(run)
        destroy(runner, run)

    monkeypatch.setattr(Runner, "destroy", noted)
    return runs


def test_who_is_to_be_killed_is_tried_once_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the time for its end is over, and it must be told again."""
    tried = destroyed(monkeypatch)
    monkeypatch.setattr(supervisor, "ACT_AGAIN", 600.0)

    async def scene(ground: Ground, db: Supervisor) -> None:
        admin = Recorder("uid 0", administrator=True)
        assert isinstance(await admin.ask(db, Start(admin.next(), "db")), Done)
        with descriptors(0):
            db.post(Said(admin, Stop(admin.next(), "db", kill=True)))
            await until(lambda: db.app.run is not None and db.app.run.kills >= 3)
        assert len(tried) == 1
        assert len([line for line in ground.lines if "cannot destroy yet" in line]) == 1
        assert db.app.run is not None
        os.kill(db.app.run.pid or 0, signal.SIGKILL)
        await until(lambda: db.app.phase is Phase.STOPPED)

    play(tmp_path, shell("db", "exec sleep 600"), scene)


def test_what_is_done_late_is_not_done_to_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = destroyed(monkeypatch)
    monkeypatch.setattr(supervisor, "ACT_AGAIN", 2.0)

    async def scene(_ground: Ground, db: Supervisor) -> None:
        admin = Recorder("uid 0", administrator=True)
        loop = asyncio.get_running_loop()
        assert isinstance(await admin.ask(db, Start(admin.next(), "db")), Done)
        assert db.app.run is not None
        before, pid = db.app.run.id, db.app.run.pid
        with descriptors(0):
            db.post(Said(admin, Stop(admin.next(), "db", kill=True)))
            await until(lambda: tried == [before])
            again = loop.time() + supervisor.ACT_AGAIN
        os.kill(pid or 0, signal.SIGKILL)
        assert isinstance(await admin.ask(db, Start(admin.next(), "db")), Done)
        assert db.app.run.id != before
        assert loop.time() < again
        await until(lambda: loop.time() > again + 0.1)
        assert tried == [before]
        assert db.app.phase is Phase.RUNNING

    play(tmp_path, shell("db", "exec sleep 600"), scene)


@pytest.mark.parametrize("free", range(8))
def test_a_start_is_refused_or_watched(free: int, tmp_path: Path) -> None:
    """A process that nobody could watch is no more: as many as are begun, so many are known."""
    begun = tmp_path / "begun"

    async def scene(_ground: Ground, db: Supervisor) -> None:
        admin = Recorder("uid 0", administrator=True)
        with descriptors(free):
            db.post(Said(admin, start := Start(admin.next(), "db")))
            await until(lambda: db.app.serial and db.app.phase is not Phase.STARTING)
            await turns()
        answer = await until(lambda: admin.answer(start.seq))
        if isinstance(answer, Done):
            assert db.app.run is not None
            pid = db.app.run.pid or 0
            await until(lambda: begun.exists() and begun.read_text() == f"{pid}\n")
            assert [one for one in children(os.getpid()) if alive(one)] == [pid]
        else:
            assert isinstance(answer, Refused)
            assert db.app.phase is Phase.FAILED
            assert not [one for one in children(os.getpid()) if alive(one)]

    script = f"echo $$ >>{begun}; exec sleep 600"
    play(tmp_path, shell("db", script), scene)
