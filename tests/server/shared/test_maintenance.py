"""Maintenance in the guest: how it is kept, and what an application's manager is told."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from cmappd.core.messages import (
    MAX_MAINTENANCE,
    Claim,
    Done,
    Ended,
    Maintain,
    Refused,
    Start,
    State,
    Stop,
)
from cmappd.core.state import Cause, Maintenance, Phase
from cmappd.errors import CmappdError
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.shared.items import Parted
from cmappd.server.shared.maintenance import Maintenances
from tests.server.application.test_supervisor import SLEEP, owned, running
from tests.server.ground import Ground, Recorder, ground, play, until
from tests.server.harness import stanza

HOUR = 3600.0
AUTOSTART = stanza("db", "/bin/sleep", "600", autostart=True)


# What is kept -------------------------------------------------------------------------


class Clock:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def opened(folder: Path, boot: str = "b1", clock: Clock | None = None) -> Maintenances:
    complaints: list[str] = []
    made = Maintenances(str(folder), boot, complaints.append, clock or Clock())
    assert complaints == []
    return made


def begun(folder: Path, clock: Clock | None = None) -> Maintenance:
    now = time.monotonic()
    maintenance = Maintenance(now + HOUR, "uid 0", time.time(), "new disks")
    opened(folder, clock=clock).begin("db", maintenance)
    return maintenance


def left(maintenances: Maintenances) -> float:
    """Minutes that are left for db."""
    found = maintenances.find("db")
    return 0 if found is None else round((found.until - time.monotonic()) / 60)


def test_it_lasts_until_it_is_ended(tmp_path: Path) -> None:
    maintenance = begun(tmp_path)
    again = opened(tmp_path)
    assert again.find("db") == maintenance
    assert again.find("web") is None
    again.end("db")
    assert (again.find("db"), opened(tmp_path).find("db")) == (None, None)
    assert os.listdir(tmp_path / "maintenance") == []


@pytest.mark.parametrize(
    ("ahead", "minutes"),
    [(0.0, 60), (-1800.0, 60), (-1e9, 60), (1200.0, 40), (7200.0, 0), (1e9, 0)],
)
def test_a_reboot_counts_by_the_wall_clock_and_never_adds_time(
    tmp_path: Path, ahead: float, minutes: int
) -> None:
    clock = Clock()
    begun(tmp_path, clock)
    clock.ahead = ahead
    assert left(opened(tmp_path, "b2", clock)) == minutes
    assert left(opened(tmp_path, "b2", clock)) == minutes  # now by this boot's clock


@pytest.mark.parametrize("ahead", [-1e9, 1e9])
def test_a_clock_that_is_set_within_a_boot_changes_nothing(tmp_path: Path, ahead: float) -> None:
    clock = Clock()
    begun(tmp_path, clock)
    clock.ahead = ahead
    maintenances = opened(tmp_path, clock=clock)
    assert left(maintenances) == 60
    maintenances.tidy()
    assert left(opened(tmp_path, "b2", clock)) == 60


def test_one_that_is_over_leaves_nothing(tmp_path: Path) -> None:
    maintenances = opened(tmp_path)
    maintenances.begin("db", Maintenance(time.monotonic() - 1.0, "uid 0", time.time()))
    assert maintenances.find("db") is None
    maintenances.tidy()
    assert os.listdir(tmp_path / "maintenance") == []


@pytest.mark.parametrize("text", ["", "{", '{"name": "db"}', "\xff", '{"name": 1}'])
def test_a_damaged_file_is_put_aside_and_said(tmp_path: Path, text: str) -> None:
    begun(tmp_path)
    path = tmp_path / "maintenance" / "db.json"
    path.write_text(text, encoding="latin-1")
    complaints: list[str] = []
    maintenances = Maintenances(str(tmp_path), "b1", complaints.append)
    assert maintenances.find("db") is None
    (complaint,) = complaints
    assert "db.json.refused" in complaint
    assert os.listdir(path.parent) == ["db.json.refused"]


def test_what_a_later_version_adds_does_no_harm(tmp_path: Path) -> None:
    begun(tmp_path)
    path = tmp_path / "maintenance" / "db.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "ticket": "CHG-1"}))
    assert left(opened(tmp_path)) == 60


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    (tmp_path / "maintenance").write_text("in the way")
    maintenances = Maintenances(str(tmp_path), "b1", lambda _text: None)
    with pytest.raises(CmappdError, match="maintenance"):
        maintenances.begin("db", Maintenance(time.monotonic() + HOUR, "uid 0", time.time()))
    assert maintenances.find("db") is None


# An application -----------------------------------------------------------------------


async def ask(db: Supervisor, seconds: float = 0.0, reason: str = "") -> str:
    """Put it under maintenance, or end that."""
    admin = Recorder("uid 0", administrator=True)
    answer = await admin.ask(db, Maintain(admin.next(), "db", seconds, reason))
    assert isinstance(answer, Done), answer
    return answer.text


async def kill(db: Supervisor) -> None:
    os.kill(await running(db), signal.SIGKILL)
    await until(lambda: db.at_rest)


def maintained(manager: Recorder) -> list[bool]:
    """What each state said that the manager was told."""
    return [one.status.maintenance is not None for one in manager.heard(State)]


def run_of(db: Supervisor) -> str:
    assert db.app.run is not None
    return db.app.run.id


def test_a_result_is_held_back_until_it_is_over(tmp_path: Path) -> None:
    async def held(made: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        assert await ask(db, HOUR, "new disks") == "db is under maintenance for 1h"
        await until(lambda: maintained(manager)[-1])
        notice = manager.heard(State)[-1].status.maintenance
        assert notice is not None
        assert (notice.by, notice.reason, round(notice.over_in)) == ("uid 0", "new disks", 3600)
        await kill(db)
        await until(lambda: manager.heard(State)[-1].status.phase is Phase.FAILED)
        assert manager.heard(Ended) == []
        assert await ask(db) == "maintenance of db is over"
        (ended,) = await until(lambda: manager.heard(Ended))
        assert ended.outcome.status.signal == signal.SIGKILL

    lines = play(tmp_path, SLEEP, held)
    assert any("under maintenance for 1h, by uid 0: new disks" in line for line in lines)
    assert any("maintenance is over" in line for line in lines)


@pytest.mark.parametrize("returns", [False, True])
def test_what_was_started_again_meanwhile_is_all_that_counts(tmp_path: Path, returns: bool) -> None:
    async def started(made: Ground, db: Supervisor) -> None:
        manager, admin = await owned(db), Recorder("uid 0", administrator=True)
        first = run_of(db)
        await ask(db, HOUR)
        await kill(db)
        assert isinstance(await admin.ask(db, Start(admin.next(), "db")), Done)
        await ask(db)
        await until(lambda: not maintained(manager)[-1])
        assert manager.heard(Ended) == []
        db.post(Parted(manager))
        # What ended meanwhile is not told to one that comes back, either.
        back = Recorder("vmhost1")
        assert isinstance(await back.claim(db, first if returns else None), State)

    play(tmp_path, SLEEP, started)


@pytest.mark.parametrize("returns", [False, True])
def test_the_result_waits_for_a_manager_that_is_away(tmp_path: Path, returns: bool) -> None:
    async def away(made: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        run = run_of(db)
        await ask(db, HOUR)
        db.post(Parted(manager))
        await kill(db)
        back = Recorder("vmhost1")
        assert isinstance(await back.claim(db), State)
        db.post(Parted(back))
        await ask(db)
        late = Recorder("vmhost1")
        assert isinstance(await late.claim(db, run if returns else None), Ended)

    play(tmp_path, SLEEP, away)


def test_a_claim_starts_nothing_and_knows_every_run(tmp_path: Path) -> None:
    async def claimed(made: Ground, db: Supervisor) -> None:
        await ask(db, HOUR)
        manager = Recorder("vmhost1")
        assert isinstance(await manager.claim(db), State)
        db.post(Parted(manager))
        answer = await manager.ask(db, Claim(manager.next(), "db", "db.of-an-earlier-boot.7"))
        assert isinstance(answer, State)
        assert db.app.phase is Phase.STOPPED

    play(tmp_path, SLEEP, claimed)


def test_a_manager_may_stop_it_and_is_answered(tmp_path: Path) -> None:
    async def stopped(made: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        await ask(db, HOUR)
        assert isinstance(await manager.ask(db, Stop(manager.next(), "db")), Done)
        assert db.app.last is not None
        assert db.app.last.cause is Cause.MANAGER

    play(tmp_path, SLEEP, stopped)


def test_its_time_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    async def timed(made: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        await ask(db, 0.2)
        await kill(db)
        await until(lambda: manager.heard(Ended))
        made.world.maintenances.tidy()
        assert os.listdir(tmp_path / "maintenance") == []

    play(tmp_path, SLEEP, timed)


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [(-1.0, ""), (MAX_MAINTENANCE + 1, ""), (HOUR, "two\nlines"), (HOUR, "x" * 201)],
)
def test_nonsense_is_refused_and_changes_nothing(
    tmp_path: Path, seconds: float, reason: str
) -> None:
    async def refused(made: Ground, db: Supervisor) -> None:
        admin = Recorder("uid 0", administrator=True)
        answer = await admin.ask(db, Maintain(admin.next(), "db", seconds, reason))
        assert isinstance(answer, Refused)
        assert db.app.maintenance is None

    play(tmp_path, SLEEP, refused)


def test_what_is_ended_without_having_begun_is_no_error(tmp_path: Path) -> None:
    async def off(made: Ground, db: Supervisor) -> None:
        assert await ask(db) == "db is not under maintenance"

    play(tmp_path, SLEEP, off)


def test_what_runs_from_boot_on_waits_for_the_end_of_it(tmp_path: Path) -> None:
    begun(tmp_path)

    async def run() -> None:
        async with ground(tmp_path, AUTOSTART) as made:
            db = made.find("db")
            assert db.app.maintenance is not None
            await asyncio.sleep(0)
            assert db.app.phase is Phase.STOPPED
            await ask(db)
            await running(db)

    asyncio.run(run())
