"""Many applications: from the first launch, and from the start of the program, to all running."""

import time

from bench import processes
from bench.guest import Guest, many
from bench.options import Options
from bench.peers import ALL, Peer, sleepers, wait_until_running
from bench.series import Goal, Measured, Row, Series, Unit
from bench.workspace import HERE, PYTHON, Workspace, wait_for_line


def measure(options: Options) -> list[Row]:
    """cmappd and the loop in turn, then each peer once."""
    times = range(options.times(3))
    pairs = [(_cmappd(options.apps), _floor(options.apps)) for _ in times]
    ours, floors = zip(*pairs, strict=True)
    peers = {peer.name: peer.measure(lambda each: _peer(each, options.apps)) for peer in ALL}
    launching, whole = (Series(part) for part in zip(*ours, strict=True))
    loop, program = (Series(part) for part in zip(*floors, strict=True))
    what = f"{options.apps} applications running"
    return [
        Row(
            f"{what}, from the first launch", Unit.SECONDS, launching, loop, goal=Goal(1.5, "floor")
        ),
        Row(f"{what}, from program start", Unit.SECONDS, whole, program, peers),
    ]


def _cmappd(count: int) -> tuple[float, float]:
    with Workspace() as workspace:
        guest = Guest(workspace, many(workspace, count))
        began = processes.since_boot()
        guest.start()
        ended = guest.wait_until_running() - time.time() + processes.since_boot()
        first = min(map(processes.started, guest.pids()))
    return ended - first, ended - began


def _floor(count: int) -> tuple[float, float]:
    with Workspace() as workspace:
        script = str(HERE / "floors/popen_loop.py")
        began = time.perf_counter()
        workspace.start([PYTHON, script, str(count), *workspace.sleeper()], "popen-loop")
        took = wait_for_line(workspace.log("popen-loop"), r"took (\S+)")
        return float(took[1]), time.perf_counter() - began


def _peer(peer: Peer, count: int) -> Measured:
    with Workspace() as workspace:
        began = processes.since_boot()
        peer.start(workspace, sleepers(workspace, count))
        last = max(map(processes.started, wait_until_running(workspace, count)))
        return Series((last - began,))
