"""Health checks of many applications beside one another, and at the end of theirs."""

import asyncio
from pathlib import Path

import pytest

from cmappd.core.events import Exited
from cmappd.core.messages import Done, Stop
from cmappd.core.state import ExitStatus, Phase
from cmappd.server.application.checks import check
from cmappd.server.application.launches import Launches
from cmappd.server.application.sidetrees import SideTrees
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.shared.items import Said
from cmappd.system.process import Identity
from cmappd.system.tree import Forest
from tests.server.ground import Ground, Recorder, ground, play, until
from tests.server.harness import alive, shell

CHECKED = """
[apps.db]
command = ["/bin/sleep", "60"]
health = { command = ["/bin/true"] }
"""
MANY = 10


class Turns(Forest):
    """Counts the turns of the loop, and notes in which one each process was launched."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[int] = []
        self._turn = 0
        self._next()

    def _next(self) -> None:
        self._turn += 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()

    def plant(self, run: str, main: Identity) -> None:
        self.launches.append(self._turn)
        super().plant(run, main)


def test_checks_that_are_due_together_are_launched_one_a_turn(tmp_path: Path) -> None:
    """What else there is to do is done between them, and they do not stay together."""

    async def together() -> list[int]:
        async with ground(tmp_path, "") as made:
            made.world.forest = turns = Turns()
            definition = made.config(CHECKED).apps["db"]
            names = [f"app{number}" for number in range(MANY)]
            trees = SideTrees(made.world, "db")
            checks = (
                check(made.world, Launches(name), trees, f"{name}.0.1", definition)
                for name in names
            )
            results = await asyncio.gather(*checks)
            turns.stop()
            assert [result.detail for result in results] == ["passed"] * MANY
            return turns.launches

    launches = asyncio.run(together())
    assert len(launches) == len(set(launches)) == MANY


def test_it_is_not_stopped_while_its_check_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL takes its time, now and then."""
    script = f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 600"
    health = {"command": ["/bin/sh", "-c", script], "interval": "100ms", "timeout": "100s"}

    async def scene(_ground: Ground, db: Supervisor) -> None:
        admin = Recorder("uid 0", administrator=True)
        await until((tmp_path / "pid").exists)
        checking = int((tmp_path / "pid").read_text())
        monkeypatch.setattr(SideTrees, "kill", lambda *_: None)
        stop = Stop(admin.next(), "db")
        db.post(Said(admin, stop))
        await until(lambda: db.app.run is not None and db.app.run.status is not None)
        assert db.app.phase is Phase.STOPPING
        assert alive(checking)
        assert admin.answer(stop.seq) is None
        monkeypatch.undo()
        assert isinstance(await until(lambda: admin.answer(stop.seq)), Done)
        assert not alive(checking)

    play(tmp_path, shell("db", "exec sleep 600", autostart=True, health=health), scene)


def test_what_was_empty_and_is_not_any_more_is_not_believed(tmp_path: Path) -> None:
    """A check was launched between the end of the main process and when that was heard of."""
    script = f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 600"
    health = {"command": ["/bin/sh", "-c", script], "interval": "100ms", "timeout": "100s"}

    async def scene(_ground: Ground, db: Supervisor) -> None:
        await until((tmp_path / "pid").exists)
        checking = int((tmp_path / "pid").read_text())
        run = db.app.run
        assert run is not None
        assert run.pid is not None
        db.post(Exited(run.id, ExitStatus(code=3), empty=True))
        await until(lambda: db.app.phase is Phase.FAILED)
        assert not alive(checking)
        assert not alive(run.pid)

    play(tmp_path, shell("db", "exec sleep 600", autostart=True, health=health), scene)
