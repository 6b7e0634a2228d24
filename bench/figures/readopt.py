"""kill -9 of cmappserver with many applications -> the next one has taken all of them up."""

import os
import signal
import time

from bench.guest import Guest, many
from bench.options import Options
from bench.series import BenchError, Goal, Row, Unit, interleave
from bench.workspace import HERE, PYTHON, Workspace, run

REST = 0.5  # seconds for a cmappserver to come to rest


def measure(options: Options) -> list[Row]:
    """The start of the program is part of it."""
    with Workspace() as workspace:
        guest = Guest(workspace, many(workspace, options.apps))
        guest.start()
        guest.wait_until_running()
        script = str(HERE / "floors/take_stock.py")
        floor = [PYTHON, script, str(guest.stanzas), "CMAPPD_RUN="]
        took, found = interleave(
            options.times(5),
            lambda: _kill(workspace, guest),
            lambda: run(workspace, floor, "stock"),
        )
    figure = f"cmappserver killed -> {options.apps} taken up"
    return [Row(figure, Unit.SECONDS, took, found, goal=Goal(2.0))]


def _kill(workspace: Workspace, guest: Guest) -> float:
    time.sleep(REST)
    before, process = sorted(guest.pids()), guest.process
    assert process is not None
    began = time.perf_counter()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    guest.launch()
    took = time.perf_counter() - began
    taken_up = workspace.log("cmappserver").read_text().count("taken up again")
    if taken_up != len(guest.apps):
        raise BenchError(f"only {taken_up} of {len(guest.apps)} are taken up")
    if sorted(guest.pids()) != before:
        raise BenchError("not all processes are the same")
    return took
