"""What many applications cost the supervisor at rest: memory and processor time."""

import time

from bench import processes
from bench.guest import NAME, Guest, many
from bench.options import Options
from bench.peers import ALL, Peer, sleepers, wait_until_running
from bench.series import Goal, Measured, Row, Series, Unit
from bench.workspace import HERE, PYTHON, Workspace, wait_for_line

REST = 1.0  # seconds until a supervisor is at rest
WINDOW = 10.0  # seconds; two polls of each manager


def measure(options: Options) -> list[Row]:
    """cmappd without and with managers, then each peer once."""
    empty = _empty()
    ours = _cmappd(options.apps, empty)
    peers = {peer.name: _peer(peer, options.apps) for peer in ALL}
    memory = {name: pair[0] for name, pair in peers.items()}
    idle = {name: pair[1] for name, pair in peers.items()}
    count = options.apps
    return [
        Row(f"memory per application of {count}", Unit.BYTES, ours[0], None, memory, Goal(8e3)),
        Row("... with its connected manager", Unit.BYTES, ours[2], goal=Goal(60e3)),
        Row(f"idle with {count}, no managers", Unit.SHARE, ours[1], None, idle, Goal(0.001)),
        Row(f"idle with {count} polling managers", Unit.SHARE, ours[3], goal=Goal(0.03)),
    ]


def _empty() -> int:
    """The memory of a cmappserver without applications."""
    with Workspace() as workspace:
        guest = Guest(workspace, {})
        guest.start()
        time.sleep(REST)
        return processes.anonymous(guest.pid)


def _cmappd(count: int, empty: int) -> tuple[Series, Series, Series, Series]:
    """Memory and processor time without managers, and both with them."""
    with Workspace() as workspace:
        guest = Guest(workspace, many(workspace, count))
        guest.start()
        guest.wait_until_running()
        without = (_memory([guest.pid], count, empty), _load([guest.pid]))
        _connect_managers(workspace, guest)
        return *without, _memory([guest.pid], count, empty), _load([guest.pid])


def _connect_managers(workspace: Workspace, guest: Guest) -> None:
    command = [PYTHON, str(HERE / "load.py"), *guest.place, NAME, *guest.apps]
    workspace.start(command, "load")
    wait_for_line(workspace.log("load"), f"claimed {len(guest.apps)}")


def _memory(pids: list[int], count: int, empty: int) -> Series:
    """Bytes beyond ``empty`` for each of so many applications."""
    time.sleep(REST)
    return Series(((sum(map(processes.anonymous, pids)) - empty) / count,))


def _load(pids: list[int]) -> Series:
    """The share of a core in which these processes run."""
    began, before = time.perf_counter(), sum(map(processes.processor_time, pids))
    time.sleep(WINDOW)
    used = sum(map(processes.processor_time, pids)) - before
    return Series((used / (time.perf_counter() - began),))


def _peer(peer: Peer, count: int) -> tuple[Measured, Measured]:
    """Memory and processor time of a peer, in all of its processes."""
    used: list[Series] = []

    def measure(peer: Peer) -> Measured:
        # Not without any: runsvdir and s6-svscan differ most between none and one.
        with Workspace() as workspace:
            one = _memory(_start(peer, workspace, 1), 1, 0).median
        with Workspace() as workspace:
            pids = _start(peer, workspace, count)
            memory = _memory(pids, max(count - 1, 1), int(one))
            used.append(_load(pids))
        return memory

    memory = peer.measure(measure)
    return memory, used[0] if used else memory


def _start(peer: Peer, workspace: Workspace, count: int) -> list[int]:
    """Start a peer with applications; its processes, and not theirs."""
    peer.start(workspace, sleepers(workspace, count))
    apps = set(wait_until_running(workspace, count))
    return [pid for pid in processes.marked(workspace.token) if pid not in apps]
