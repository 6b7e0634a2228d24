"""The table of cmappctl status."""

import pytest

from cmappd.client.table import since, table
from cmappd.core.messages import AppStatus
from cmappd.core.state import Announced, Cause, ExitStatus, Goal, Health, Outcome, Phase


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (59, "59s"), (60, "1m0s"), (3725, "1h2m"), (90000, "1d1h"), (864000, "10d0h")],
)  # fmt: skip
def test_since(seconds: int, text: str) -> None:
    assert since(1000.0, 1000.0 + seconds) == text


def test_notes_say_what_is_out_of_the_ordinary() -> None:
    status = AppStatus(
        "a",
        Goal.UP,
        Phase.BACKOFF,
        next_in=8.2,
        restart_pending=True,
        removed=True,
        oom_kills=2,
        survivors=(3, 4),
        problem="a.toml:1: bad \x1b key\na.toml:2: unknown",
        log_dropped=1,
        owner="vmhost1",
        owner_silent_for=12.3,
        restarts=1,
        restart_limit=3,
        last=Outcome("r", Cause.EXIT, ExitStatus(code=2), success=False),
    )
    line = table([status], 0.0, verbose=False)[1]
    assert line.endswith(
        "vmhost1 (silent 12s)  1/3       next in 8s; restart pending; removed;"
        " the kernel has killed 2 of its processes for memory; it runs on; left: pid 3, 4;"
        " 1 line of its log could not be written;"
        " problem: a.toml:1: bad \\x1b key; a.toml:2: unknown;"
        " ended by itself, exit code 2"
    )


def test_verbose_says_the_rest() -> None:
    status = AppStatus(
        "a", Goal.UP, Phase.RUNNING, description="The\x1b app", run="r1",
        health=Health.HEALTHY, health_output="pong\n", definition="abc",
        announced=Announced.RELOADING, status_text="half\tway",
    )  # fmt: skip
    assert table([status], 0.0, verbose=True)[2:] == [
        "    description: The\\x1b app",
        "    goal: up",
        "    run: r1",
        "    definition: abc",
        "    it says: reloading: half\\tway",
        "    health output: pong",
    ]


def test_verbose_says_what_is_left_of_the_budget() -> None:
    status = AppStatus(
        "a", Goal.UP, Phase.BACKOFF,
        restarts=2, restart_limit=3, restart_window=600.0, next_in=8.4,
    )  # fmt: skip
    assert "    restarts: 2 of 3 in 10m, next in 8s" in table([status], 0.0, verbose=True)


def test_columns_are_as_wide_as_their_widest() -> None:
    names = ["a", "long-name"]
    lines = table([AppStatus(n, Goal.DOWN, Phase.STOPPED) for n in names], 0.0, verbose=False)
    assert len({line.index("STATE" if "STATE" in line else "stopped") for line in lines}) == 1
