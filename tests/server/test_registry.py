"""All applications together: what a new configuration does to each, and the end of all."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from cmappd.core import events
from cmappd.core.messages import Ack, Claim, Done, Ended, Refused, Release, State, Stop
from cmappd.core.state import Cause, Phase
from cmappd.server import registry as registry_module
from cmappd.server.shared.items import Said
from tests.server.ground import Ground, Recorder, ground, until
from tests.server.harness import alive, shell, stanza, survives

Scene = Callable[[Ground], Coroutine[Any, Any, None]]

DB = stanza("db", "/bin/sleep", "600", autostart=True)
WEB = stanza("web", "/bin/sleep", "600", autostart=True)


def play(folder: Path, apps: str, scene: Scene) -> list[str]:
    async def run() -> list[str]:
        async with ground(folder, apps) as made:
            await scene(made)
        return made.lines

    return asyncio.run(run())


async def running(made: Ground, name: str) -> int:
    await until(lambda: made.find(name).app.phase is Phase.RUNNING)
    run = made.find(name).app.run
    assert run is not None
    assert run.pid is not None
    return run.pid


def names(made: Ground) -> list[str]:
    return [one.app.name for one in made.registry.supervisors()]


def test_autostart_starts_and_the_others_wait(tmp_path: Path) -> None:
    async def scene(made: Ground) -> None:
        await running(made, "db")
        assert made.find("web").app.phase is Phase.STOPPED
        assert names(made) == ["db", "web"]

    play(tmp_path, DB + stanza("web", "/bin/sleep", "600"), scene)


def test_an_added_application_starts_if_it_shall_and_nothing_else_is_touched(
    tmp_path: Path,
) -> None:
    async def scene(made: Ground) -> None:
        pid = await running(made, "db")
        made.apply(DB + WEB)
        await running(made, "web")
        assert await running(made, "db") == pid

    play(tmp_path, DB, scene)


def test_a_removed_application_at_rest_leaves(tmp_path: Path) -> None:
    async def scene(made: Ground) -> None:
        made.apply(DB)
        await until(lambda: names(made) == ["db"])

    play(tmp_path, DB + stanza("web", "/bin/sleep", "600"), scene)


def test_a_removed_application_leaves_when_its_result_is_delivered(tmp_path: Path) -> None:
    async def scene(made: Ground) -> None:
        pid = await running(made, "db")
        db, manager = made.find("db"), Recorder("vmhost1")
        await manager.claim(db)
        made.apply("")
        await until(lambda: db.app.removed)
        os.kill(pid, signal.SIGKILL)
        (ended,) = await until(lambda: manager.heard(Ended))
        assert names(made) == ["db"]
        ack, release = Ack(manager.next(), ended.outcome.run), Release(manager.next())
        db.post(Said(manager, ack))
        db.post(Said(manager, release))
        await until(lambda: names(made) == [])
        assert isinstance(manager.answer(ack.seq), Done)
        assert isinstance(manager.answer(release.seq), Done)

    play(tmp_path, DB, scene)


def test_what_is_said_to_an_application_that_leaves_is_answered(tmp_path: Path) -> None:
    async def scene(made: Ground) -> None:
        db, manager = made.find("db"), Recorder("vmhost1")
        made.apply("")  # and before the application has heard of it
        db.post(Said(manager, Claim(manager.next(), "db")))
        await until(lambda: names(made) == [])
        db.post(Said(manager, Stop(manager.next(), "db")))
        db.post(Said(manager, Release(manager.next())))
        assert [type(one) for one in manager.told] == [Refused, Refused, Done]
        assert {one.reason for one in manager.heard(Refused)} == {"unknown-app"}

    play(tmp_path, stanza("db", "/bin/sleep", "600"), scene)


def test_an_application_that_is_removed_and_added_again_is_there(tmp_path: Path) -> None:
    async def scene(made: Ground) -> None:
        pid = await running(made, "db")
        for _ in range(3):
            made.apply("")
            made.apply(DB)
        await asyncio.sleep(0)
        await until(lambda: not made.find("db").app.removed)
        assert await running(made, "db") == pid

    play(tmp_path, DB, scene)


def test_a_run_id_is_not_used_again_by_what_is_added_again(tmp_path: Path) -> None:
    async def scene(made: Ground) -> None:
        await running(made, "db")
        first = made.find("db").status().run
        made.apply("")
        made.find("db").post(events.Stop(Cause.OPERATOR))
        await until(lambda: names(made) == [])
        made.apply(DB)
        await running(made, "db")
        assert made.find("db").status().run != first

    play(tmp_path, DB, scene)


def test_an_application_at_rest_that_is_removed_and_added_again_is_there(tmp_path: Path) -> None:
    async def scene(made: Ground) -> None:
        made.apply("")
        made.apply(stanza("db", "/bin/sleep", "600"))
        manager = Recorder("vmhost1")
        for _ in range(5):
            await asyncio.sleep(0)
        assert isinstance(await manager.claim(made.find("db")), State)

    play(tmp_path, stanza("db", "/bin/sleep", "600"), scene)


def test_the_problem_of_a_stanza_is_shown_and_withdrawn(tmp_path: Path) -> None:
    async def scene(made: Ground) -> None:
        pid, db = await running(made, "db"), made.find("db")
        made.apply(DB + 'oops = 1\n[apps.never]\nusr = "x"\n')
        await until(lambda: "oops" in db.status().problem)
        assert await running(made, "db") == pid
        (never,) = made.registry.refused()
        assert never.app == "never"
        assert "apps.never.usr" in never.problem
        made.apply(DB)
        await until(lambda: not db.status().problem)
        assert made.registry.refused() == []

    play(tmp_path, DB, scene)


def test_a_problem_of_any_length_fits_into_a_status(tmp_path: Path) -> None:
    async def scene(made: Ground) -> None:
        manager, db = Recorder("vmhost1"), made.find("db")
        await manager.claim(db)
        made.apply(DB + "".join(f"wrong{number} = 1\n" for number in range(3000)))
        await until(lambda: db.status().problem)
        assert len(db.status().problem) < 4000

    play(tmp_path, DB, scene)


def test_stop_ends_every_tree_and_then_returns(tmp_path: Path) -> None:
    async def scene(made: Ground) -> None:
        pids = [await running(made, name) for name in ("db", "web")]
        await asyncio.wait_for(made.registry.stop(), 10)
        assert not any(map(alive, pids))
        assert names(made) == []
        assert made.registry.find("db") is None

    play(tmp_path, DB + WEB, scene)


def test_stop_waits_for_connected_managers_but_not_for_ever(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(registry_module, "DELIVERY_TIMEOUT", 0.2)

    async def scene(made: Ground) -> None:
        await running(made, "db")
        manager = Recorder("vmhost1")
        await manager.claim(made.find("db"))
        await asyncio.wait_for(made.registry.stop(), 10)
        (ended,) = manager.heard(Ended)
        assert ended.outcome.cause is Cause.SHUTDOWN

    play(tmp_path, DB, scene)


def test_kill_ends_what_ignores_the_stop(tmp_path: Path) -> None:
    async def scene(made: Ground) -> None:
        pid = await running(made, "db")
        await until(lambda: survives(signal.SIGTERM, pid))
        stopping = asyncio.create_task(made.registry.stop())
        await until(lambda: made.find("db").app.phase is Phase.STOPPING)
        made.registry.kill()
        await asyncio.wait_for(stopping, 10)

    script = 'trap "" TERM; while :; do sleep 0.05; done'
    apps = shell("db", script, autostart=True, stop={"timeout": "10m"})
    play(tmp_path, apps, scene)


def test_a_failing_supervisor_leaves_the_others_alone(tmp_path: Path) -> None:
    """A peer whose connection fails in a way that nobody thought of; it is hung up on."""

    class Broken(Recorder):
        def send(self, message: object) -> None:
            raise RuntimeError("broken")

    async def scene(made: Ground) -> None:
        pid = await running(made, "db")
        broken = Broken("vmhost1")
        made.find("db").post(Said(broken, Claim(1, "db")))
        await until(lambda: any("cannot handle" in line for line in made.lines))
        assert broken.hung_up
        other = Recorder("vmhost2")
        assert isinstance(await other.claim(made.find("web")), State)
        # And its own application is supervised on.
        made.find("db").custody.release()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: made.find("db").app.phase is Phase.FAILED)
        assert any("RuntimeError" in line for line in made.lines)
        made.lines.clear()

    play(tmp_path, DB + WEB, scene)
