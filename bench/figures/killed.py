"""Application killed by SIGKILL -> cmappmgr reaped by its parent."""

import os
import signal
import subprocess
import time

from bench.guest import MANAGER, NAME, Guest, many, sleeper
from bench.options import Options
from bench.series import BenchError, Goal, Row, Unit, interleave
from bench.workspace import HERE, PYTHON, Workspace, reap, wait_for_line

GOAL = Goal(1.5, of="floor")
REST = 0.1  # seconds for both ends to fall asleep before the kill


def measure(options: Options) -> list[Row]:
    """Alone, and beside many."""
    return [_beside(options, 0), _beside(options, options.apps)]


def _beside(options: Options, others: int) -> Row:
    with Workspace() as workspace:
        victim = sleeper(workspace, autostart=False, command=list(workspace.sleeper(1)))
        guest = Guest(workspace, {**many(workspace, others), "victim": victim})
        guest.start()
        guest.wait_until_running()
        cmappd, floor = interleave(
            options.times(20), lambda: _cmappd(workspace, guest), lambda: _floor(workspace, guest)
        )
    place = f"beside {others}" if others else "alone"
    return Row(f"killed -> manager reaped, {place}", Unit.SECONDS, cmappd, floor, goal=GOAL)


def _cmappd(workspace: Workspace, guest: Guest) -> float:
    manager = workspace.start(guest.manager("victim"), "manager")
    running = wait_for_line(workspace.log("manager"), r"running, pid (\d+)")
    return _kill(int(running[1]), manager)


def _floor(workspace: Workspace, guest: Guest) -> float:
    script, command = str(HERE / "floors/pair_server.py"), workspace.sleeper(2)
    server = workspace.start([PYTHON, script, *guest.certificate(NAME), *command], "pair-server")
    listens = wait_for_line(workspace.log("pair-server"), r"port (\d+) pid (\d+)")
    script = str(HERE / "floors/pair_client.py")
    arguments = [listens[1], *guest.certificate(MANAGER), NAME]
    client = workspace.start([PYTHON, script, *arguments], "pair-client")
    wait_for_line(workspace.log("pair-client"), "running")
    took = _kill(int(listens[2]), client)
    reap(server)
    return took


def _kill(pid: int, watcher: subprocess.Popen[bytes]) -> float:
    time.sleep(REST)
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    code = reap(watcher)
    took = time.perf_counter() - began
    if code != 128 + signal.SIGKILL:
        raise BenchError(f"the manager exits with {code}, not with 137")
    return took
