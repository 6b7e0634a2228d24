"""What is said to one application, and when that is too old to count."""

import errno
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cmappd.core.messages import Claim, Done, Message, Release, State, Stop
from cmappd.core.state import Goal, Phase
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.shared.items import Said
from tests.server.ground import Ground, Recorder, play, until
from tests.server.harness import stanza

LEASE = 60.0
SLEEP = stanza("db", "/bin/sleep", "600", manager={"lease": "60s"})


@pytest.mark.parametrize("takeover", [False, True])
def test_a_claim_that_is_older_than_the_lease_is_not_believed(
    tmp_path: Path, takeover: bool
) -> None:
    """It was held back somewhere; its sender may have given up, and been followed elsewhere."""

    async def scene(made: Ground, db: Supervisor) -> None:
        manager = Recorder("vmhost1")
        manager.last_there = time.monotonic() - LEASE
        db.post(Said(manager, Claim(manager.next(), "db", takeover=takeover)))
        await until(lambda: manager.hung_up)
        assert manager.told == []
        assert (db.app.phase, db.custody.owner, db.app.run) == (Phase.STOPPED, None, None)
        assert any("has come too late to be believed" in line for line in made.lines)

    play(tmp_path, SLEEP, scene)


def test_one_that_is_younger_is(tmp_path: Path) -> None:
    async def scene(_made: Ground, db: Supervisor) -> None:
        manager = Recorder("vmhost1")
        manager.last_there = time.monotonic() - LEASE / 2
        db.post(Said(manager, claim := Claim(manager.next(), "db")))
        assert isinstance(await until(lambda: manager.answer(claim.seq)), State)
        assert not manager.hung_up
        await until(lambda: db.app.phase is Phase.RUNNING)

    play(tmp_path, SLEEP, scene)


def test_an_administrator_is_heard_whoever_else_is_one(tmp_path: Path) -> None:
    async def scene(_made: Ground, db: Supervisor) -> None:
        older, newer = (Recorder("uid 0", administrator=True) for _ in range(2))
        for admin in (newer, older):
            assert isinstance(await admin.ask(db, Stop(admin.next(), "db")), Done)

    play(tmp_path, SLEEP, scene)


async def claims_again(newer: Recorder, db: Supervisor) -> None:
    """And is stopped."""
    await newer.claim(db)
    await newer.ask(db, Stop(newer.next(), "db"))
    await newer.ask(db, Release(newer.next()))


async def stops(newer: Recorder, db: Supervisor) -> None:
    """As an agent does, whose manager has died."""
    await newer.ask(db, Stop(newer.next(), "db"))


@pytest.mark.parametrize("meanwhile", [claims_again, stops])
def test_a_claim_on_a_link_that_its_manager_has_given_up_is_not_believed(
    tmp_path: Path, meanwhile: Callable[[Recorder, Supervisor], Awaitable[None]]
) -> None:
    """It was held back, and is young yet; but the manager knows that all is stopped."""

    async def scene(made: Ground, db: Supervisor) -> None:
        older, newer = Recorder("vmhost1", instance="i"), Recorder("vmhost1", instance="i")
        await meanwhile(newer, db)
        await until(lambda: db.app.phase is Phase.STOPPED)
        runs = db.app.last
        db.post(Said(older, Claim(older.next(), "db")))
        await until(lambda: older.hung_up)
        assert older.told == []
        assert (db.app.phase, db.custody.owner, db.app.last) == (Phase.STOPPED, None, runs)
        assert any("vmhost1 is not heard on a link" in line for line in made.lines)

    play(tmp_path, SLEEP, scene)


def test_nor_is_a_stop_heard_on_it(tmp_path: Path) -> None:
    """What runs by now was started since."""

    async def scene(_made: Ground, db: Supervisor) -> None:
        older, newer = Recorder("vmhost1"), Recorder("vmhost1")
        await newer.claim(db)
        await until(lambda: db.app.phase is Phase.RUNNING)
        db.post(Said(older, Stop(older.next(), "db")))
        await until(lambda: older.hung_up)
        assert older.told == []
        assert (db.app.phase, db.app.goal) == (Phase.RUNNING, Goal.UP)

    play(tmp_path, SLEEP, scene)


def test_a_claim_of_another_manager_is_overtaken_by_nobody(tmp_path: Path) -> None:
    async def scene(_made: Ground, db: Supervisor) -> None:
        first, second = Recorder("vmhost1"), Recorder("vmhost2")
        await second.claim(db)
        await second.ask(db, Release(second.next()))
        assert isinstance(await first.claim(db), State)

    play(tmp_path, SLEEP, scene)


def test_what_its_owner_is_told_is_in_the_record_by_then(tmp_path: Path) -> None:
    """Or a crash would take back that it is ready."""
    record = tmp_path / "state" / "apps" / "db.json"
    recorded: list[tuple[str, str]] = []

    class Witness(Recorder):
        def send(self, message: Message) -> None:
            super().send(message)
            if isinstance(message, State):
                recorded.append((message.status.phase, json.loads(record.read_text())["phase"]))

    async def scene(_made: Ground, db: Supervisor) -> None:
        await Witness("vmhost1").claim(db)
        await until(lambda: ("running", "running") in recorded)

    play(tmp_path, stanza("db", "/bin/sleep", "600", start={"ready": "200ms"}), scene)
    assert all(told == kept for told, kept in recorded)


def test_what_its_owner_could_not_be_told_it_is_told_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be no descriptor with which to find out."""
    state, failed = Supervisor.state, list[int]()

    def starved(db: Supervisor, seq: int) -> State:
        if not failed and db.app.phase is Phase.RUNNING:
            failed.append(seq)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return state(db, seq)

    async def scene(made: Ground, db: Supervisor) -> None:
        manager = Recorder("vmhost1")
        await manager.claim(db)
        monkeypatch.setattr(Supervisor, "state", starved)
        await until(lambda: failed == [0])
        other = Recorder("vmhost2")  # it owns nothing, and changes nothing
        assert isinstance(await other.ask(db, Release(other.next())), Done)
        await until(lambda: [one.status.phase for one in manager.heard(State)][-1:] == ["running"])
        made.lines.clear()  # of the traceback

    play(tmp_path, stanza("db", "/bin/sleep", "600", start={"ready": "200ms"}), scene)
