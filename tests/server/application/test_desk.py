"""What is said to one application, and when that is too old to count."""

import json
import time
from pathlib import Path

import pytest

from cmappd.core.messages import Claim, Message, State
from cmappd.core.state import Phase
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
