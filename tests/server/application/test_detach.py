"""An application that is handed over from one manager to the next."""

import os
import signal
from pathlib import Path

import pytest

from cmappd.core.messages import Detach, Done, Ended, Leave, Refused, Release, State
from cmappd.core.state import Cause, Phase
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.application.waiting import MAX_WAITING
from cmappd.server.shared.items import Parted, Said
from tests.server.application.test_supervisor import SLEEP, leased, owned, running
from tests.server.ground import Ground, Recorder, play, until


async def handed_over(db: Supervisor) -> Recorder:
    manager = await owned(db)
    answer = await manager.ask(db, Release(manager.next(), handover=True))
    assert isinstance(answer, Done)
    return manager


@pytest.mark.parametrize("name", ["vmhost1", "vmhost2"])
def test_the_next_owner_goes_on_with_the_same_run(tmp_path: Path, name: str) -> None:
    async def scene(made: Ground, db: Supervisor) -> None:
        await handed_over(db)
        pid = await running(db)
        assert (db.status().owner, db.status().pid) == (None, pid)
        assert db.status().owner_silent_for is not None
        second = Recorder(name)
        assert isinstance(await second.claim(db), State)
        assert (db.status().owner, db.status().pid) == (name, pid)

    play(tmp_path, SLEEP, scene)


def test_what_ends_between_them_is_told_to_the_next(tmp_path: Path) -> None:
    async def scene(made: Ground, db: Supervisor) -> None:
        await handed_over(db)
        os.kill(await running(db), signal.SIGKILL)
        await until(lambda: db.at_rest)
        answer = await Recorder("vmhost2").claim(db)
        assert isinstance(answer, Ended)
        assert answer.outcome.status.signal == signal.SIGKILL

    play(tmp_path, SLEEP, scene)


def test_the_lease_runs_on_until_there_is_a_next_owner(tmp_path: Path) -> None:
    async def scene(made: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        db.post(leased(db, "stop", 0.5))
        await manager.ask(db, Release(manager.next(), handover=True))
        await until(lambda: db.app.phase is Phase.STOPPED)
        assert db.app.last is not None
        assert db.app.last.cause is Cause.LEASE

    play(tmp_path, SLEEP, scene)


def test_a_release_of_which_nobody_is_awaited_has_no_lease(tmp_path: Path) -> None:
    async def scene(made: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        await manager.ask(db, Release(manager.next()))
        assert (db.custody.owner, db.status().owner_silent_for) == (None, None)

    play(tmp_path, SLEEP, scene)


def test_the_owner_is_asked_and_whoever_asked_is_answered_when_it_has_gone(tmp_path: Path) -> None:
    async def scene(made: Ground, db: Supervisor) -> None:
        manager, other = await owned(db), Recorder("vmhost1")
        ask = Detach(other.next(), "db")
        db.post(Said(other, ask))
        await until(lambda: manager.heard(Leave))
        assert other.told == []
        await manager.ask(db, Release(manager.next(), handover=True))
        assert isinstance(await until(lambda: other.answer(ask.seq)), Done)

    play(tmp_path, SLEEP, scene)


def test_an_owner_that_goes_without_a_word_has_handed_over(tmp_path: Path) -> None:
    async def scene(made: Ground, db: Supervisor) -> None:
        manager, other = await owned(db), Recorder("vmhost1")
        ask = Detach(other.next(), "db")
        db.post(Said(other, ask))
        await until(lambda: manager.heard(Leave))
        db.post(Parted(manager))
        assert isinstance(await until(lambda: other.answer(ask.seq)), Done)
        assert isinstance(await Recorder("vmhost2").claim(db), State)

    play(tmp_path, SLEEP, scene)


@pytest.mark.parametrize(("name", "kind"), [("vmhost1", Done), ("vmhost2", Refused)])
def test_of_an_owner_that_is_away_only_its_own_name_disposes(
    tmp_path: Path, name: str, kind: type[object]
) -> None:
    async def scene(made: Ground, db: Supervisor) -> None:
        manager, other = await owned(db), Recorder(name)
        db.post(Parted(manager))
        assert isinstance(await other.ask(db, Detach(other.next(), "db")), kind)
        assert (db.status().owner is None) is (kind is Done)

    play(tmp_path, SLEEP, scene)


def test_what_nobody_owns_need_not_be_handed_over(tmp_path: Path) -> None:
    async def scene(made: Ground, db: Supervisor) -> None:
        other = Recorder("vmhost1")
        assert isinstance(await other.ask(db, Detach(other.next(), "db")), Done)

    play(tmp_path, SLEEP, scene)


@pytest.mark.parametrize("name", ["vmhost1", "vmhost2"])
def test_who_takes_over_meanwhile_was_not_asked_and_keeps_it(tmp_path: Path, name: str) -> None:
    async def scene(made: Ground, db: Supervisor) -> None:
        manager, other, third = await owned(db), Recorder("vmhost1"), Recorder(name)
        ask = Detach(other.next(), "db")
        db.post(Said(other, ask))
        await until(lambda: manager.heard(Leave))
        assert isinstance(await third.claim(db, takeover=True), State)
        assert isinstance(await until(lambda: other.answer(ask.seq)), Done)
        db.post(Parted(third))
        await until(lambda: db.custody.link is None)
        assert db.status().owner == name

    play(tmp_path, SLEEP, scene)


def test_so_many_may_wait_and_no_more(tmp_path: Path) -> None:
    async def scene(made: Ground, db: Supervisor) -> None:
        manager, other = await owned(db), Recorder("vmhost1")
        for _ in range(MAX_WAITING):
            db.post(Said(other, Detach(other.next(), "db")))
        assert isinstance(await other.ask(db, Detach(other.next(), "db")), Refused)
        await manager.ask(db, Release(manager.next(), handover=True))
        await until(lambda: len(other.heard(Done)) == MAX_WAITING)

    play(tmp_path, SLEEP, scene)
