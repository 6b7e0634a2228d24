"""The benchmark works in small, and leaves nothing behind. No speed is asserted."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import processes

ROOT = Path(__file__).parents[1]
SMALL = ("--apps", "5", "--runs", "1")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: those of sockets have 107 bytes at most (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="cmappd-") as name:
        yield Path(name)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *SMALL, *words],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_bench_measures_figures_and_cleans_up(folder: Path) -> None:
    results = folder / "results.json"
    words = ("--only", "killed", "--only", "reload", "--json", str(results))
    with start(folder, *words) as bench:
        table, said = bench.communicate(timeout=50)
    assert bench.returncode == 0, table + said
    assert table.startswith("figure")
    rows = json.loads(results.read_text())["rows"]
    assert [row["figure"] for row in rows] == [
        "killed -> manager reaped, alone",
        "killed -> manager reaped, beside 5",
        "one of 5 edited -> applied, one file",
        "one of 5 edited -> applied, a file each",
    ]
    for row in rows:
        assert [value > 0 for value in row["cmappd"] + row["floor"]] == [True, True]
    assert list(folder.iterdir()) == [results]


def test_bench_takes_logs_to_all_destinations(folder: Path) -> None:
    results = folder / "results.json"
    with start(
        folder, "--only", "destinations", "--log-size", "1", "--json", str(results)
    ) as bench:
        table, said = bench.communicate(timeout=55)
    assert bench.returncode == 0, table + said
    rows = {row["figure"]: row["cmappd"] for row in json.loads(results.read_text())["rows"]}
    names = ("timestamps", "json", "journal", "syslog", "none")
    assert list(rows) == [f"log to {name}" for name in names]
    assert all(speed > 0 for speeds in rows.values() for speed in speeds)
    assert list(folder.iterdir()) == [results]


def test_bench_finds_all_taken_up(folder: Path) -> None:
    results = folder / "results.json"
    with start(folder, "--only", "readopt", "--json", str(results)) as bench:
        table, said = bench.communicate(timeout=50)
    assert bench.returncode == 0, table + said
    (row,) = json.loads(results.read_text())["rows"]
    assert row["cmappd"][0] > 0
    assert row["floor"][0] > 0
    assert list(folder.iterdir()) == [results]


def test_an_interrupted_bench_cleans_up(folder: Path) -> None:
    with start(folder, "--only", "footprint") as bench:
        token = wait_for_applications(folder)
        bench.send_signal(signal.SIGINT)
        _, said = bench.communicate(timeout=30)
    assert bench.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert processes.marked(token) == []
    assert list(folder.iterdir()) == []


def wait_for_applications(base: Path) -> str:
    """What marks all that the bench has started, once applications are among that."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for folder in base.glob("cmappd-bench-*"):
            token = folder.name.rpartition("-")[2]
            if any(token in words for words in map(processes.arguments, processes.pids())):
                return token
        time.sleep(0.02)
    raise AssertionError("no application runs")
