"""Killed, with a restart at once configured -> the new process is there."""

import os
import random
import signal
import time

from bench import processes
from bench.guest import Guest, many
from bench.options import Options
from bench.peers import ALL, Peer, sleepers, wait_until_running
from bench.processes import Newcomers
from bench.series import BenchError, Goal, Measured, Row, Unit, interleave
from bench.workspace import HERE, PYTHON, Workspace

POLICY = {"policy": "always", "delay": "0s", "limit": 1_000_000}
REST = 0.1  # seconds for a supervisor to come to rest between two kills
SLOW = 15.0  # seconds in which a supervisor must have restarted what was killed
TIMES_OF_PEERS = 5


def measure(options: Options) -> list[Row]:
    """cmappd and the loop in turn, then each peer."""
    with Workspace() as workspace:
        guest = Guest(workspace, many(workspace, options.apps, restart=POLICY))
        guest.start()
        guest.wait_until_running()
        script, floor = str(HERE / "floors/restart_loop.py"), workspace.sleeper(1)
        workspace.start([PYTHON, script, *floor], "restart-loop")
        cmappd, loop = interleave(
            options.times(30),
            lambda: _kill_one(guest.pids(), workspace.sleeper()),
            lambda: _kill_one(_wait_for_one(floor), floor),
        )
    times = min(TIMES_OF_PEERS, options.times(TIMES_OF_PEERS))
    peers = {peer.name: peer.measure(lambda each: _peer(each, options, times)) for peer in ALL}
    figure = f"killed -> new process, {options.apps} running"
    return [Row(figure, Unit.SECONDS, cmappd, loop, peers, Goal(5e-3))]


def _peer(peer: Peer, options: Options, times: int) -> Measured:
    with Workspace() as workspace:
        peer.start(workspace, sleepers(workspace, options.apps))
        wait_until_running(workspace, options.apps)
        time.sleep(1.1)  # runit and s6 hold back what ran for less than a second
        command = workspace.sleeper()
        return interleave(times, lambda: _kill_one(processes.running(command), command))[0]


def _kill_one(pids: list[int], command: tuple[str, ...]) -> float:
    time.sleep(REST)
    newcomers = Newcomers(command)
    began = time.perf_counter()
    os.kill(random.choice(pids), signal.SIGKILL)
    if newcomers.wait(SLOW) is None:
        raise BenchError(f"nothing was restarted within {SLOW:g} s")
    return time.perf_counter() - began


def _wait_for_one(command: tuple[str, ...]) -> list[int]:
    deadline = time.monotonic() + SLOW
    while not (found := processes.running(command)):
        if time.monotonic() > deadline:
            raise BenchError("the loop does not run its command")
        time.sleep(REST)
    return found
