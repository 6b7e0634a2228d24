"""kill -9 of cmappserver with many applications -> the next one has taken all of them up."""

import os
import signal
import time

from bench.guest import Guest, many
from bench.options import Options
from bench.series import BenchError, Goal, Row, Unit, interleave
from bench.workspace import Workspace

REST = 0.5  # seconds for a cmappserver to come to rest


def measure(options: Options) -> list[Row]:
    """The start of the program is part of it."""
    with Workspace() as workspace:
        guest = Guest(workspace, many(workspace, options.apps))
        guest.start()
        guest.wait_until_running()
        (took,) = interleave(options.times(5), lambda: _kill(guest))
    figure = f"cmappserver killed -> {options.apps} taken up"
    return [Row(figure, Unit.SECONDS, took, goal=Goal(2.0))]


def _kill(guest: Guest) -> float:
    time.sleep(REST)
    before, process = sorted(guest.pids()), guest.process
    assert process is not None
    began = time.perf_counter()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    guest.launch()
    took = time.perf_counter() - began
    if sorted(guest.pids()) != before:
        raise BenchError("not all processes are the same")
    return took
