"""The report of cmappmgr."""

import json
import os
from pathlib import Path

import pytest

from cmappd import reasons
from cmappd.client import report
from cmappd.core.follow.actions import Exit
from cmappd.core.state import Cause, ExitStatus, Outcome


def test_it_says_all_that_is_known(tmp_path: Path) -> None:
    outcome = Outcome("r1", Cause.UNHEALTHY, ExitStatus(signal=15), success=False, detail="3 times")
    end = Exit(reasons.UNHEALTHY, 209, "ended", "r1", outcome, claimed=True, ends_alone_after=42)
    path = tmp_path / "report.json"
    path.write_text("old")
    report.write(str(path), report.make(end, "oracle", "guest1", 0.0, 61.0))
    assert json.loads(path.read_text()) == {
        "reason": "unhealthy",
        "code": 209,
        "text": "ended",
        "app": "oracle",
        "guest": "guest1",
        "run": "r1",
        "cause": "unhealthy",
        "exit_code": None,
        "signal": 15,
        "detail": "3 times",
        "earlier": False,
        "claimed": True,
        "ends_alone_after": 42,
        "started": "1970-01-01T00:00:00Z",
        "ended": "1970-01-01T00:01:01Z",
    }
    assert list(tmp_path.iterdir()) == [path]


def test_the_last_word_on_how_the_guest_ends_it_alone_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "alone"
    kept = report.EndsAlone(str(path))
    for seconds in (34, 0):
        kept.keep(seconds)
        assert path.read_text() == f"{seconds}\n"
    path.unlink()
    kept.keep(0)
    assert not path.exists()  # nothing is written that is no news


def test_where_the_last_word_cannot_be_kept_no_older_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "alone"
    kept = report.EndsAlone(str(path))
    kept.keep(34)
    (tmp_path / f"alone.{os.getpid()}.new").mkdir()  # in the way of what is written
    with pytest.raises(OSError, match="directory"):
        kept.keep(60)
    assert not path.exists()


def test_without_an_outcome(tmp_path: Path) -> None:
    made = report.make(Exit(reasons.USAGE, 200, "why"), "oracle", None, 0.0, 1.0)
    assert (made.guest, made.run, made.cause, made.exit_code) == (None, None, None, None)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    made = report.make(Exit(reasons.USAGE, 200, "why"), "oracle", None, 0.0, 1.0)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        report.write(str(tmp_path / "taken"), made)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
