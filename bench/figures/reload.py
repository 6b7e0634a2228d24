"""One stanza of many edited -> applied, with nothing else touched."""

import time
import tomllib
from collections.abc import Mapping, Sequence

from bench import processes
from bench.guest import Guest, many
from bench.options import Options
from bench.peers import CIRCUS, SUPERVISORD, Peer, sleepers, wait_until_running
from bench.series import BenchError, Goal, Measured, Row, Unit, interleave
from bench.workspace import Workspace, run

GOAL = Goal(0.150)
REST = 0.5  # seconds between two edits, so that they are two
SLOW = 20.0  # seconds in which a changed program must run


def measure(options: Options) -> list[Row]:
    """All stanzas in one file, and each in its own; then the peers, told to look."""
    names = tuple(f"app{number:04d}" for number in range(options.apps))
    peers = {
        peer.name: peer.measure(lambda each: _peer(each, options.apps))
        for peer in (SUPERVISORD, CIRCUS)
    }
    figure = f"one of {options.apps} edited -> applied"
    return [
        _row(f"{figure}, one file", {"all.toml": names}, options, peers),
        _row(f"{figure}, a file each", {f"{name}.toml": (name,) for name in names}, options, {}),
    ]


def _row(
    figure: str,
    files: Mapping[str, Sequence[str]],
    options: Options,
    peers: Mapping[str, Measured],
) -> Row:
    with Workspace() as workspace:
        guest = Guest(workspace, many(workspace, options.apps))
        for file, names in files.items():
            guest.write_apps(file, names)
        guest.launch()
        guest.wait_until_running()
        before = sorted(wait_until_running(workspace, options.apps))
        file, names = next(iter(files.items()))
        cmappd, floor = interleave(
            options.times(10),
            lambda: _edit(guest, file, names),
            lambda: _read(guest, files),
        )
        if sorted(guest.pids()) != before:
            cmappd = "failed: other applications were touched"
    return Row(figure, Unit.SECONDS, cmappd, floor, peers, GOAL)


def _edit(guest: Guest, file: str, names: Sequence[str]) -> float:
    time.sleep(REST)
    app = names[len(names) // 2]
    guest.apps[app] = {**guest.apps[app], "description": f"edited at {time.time()}"}
    began = guest.write_apps(file, names)
    line = guest.wait_for_line("configuration reloaded").string
    took = time.perf_counter() - began
    if f"changed: {app} (description)" not in line:
        raise BenchError(f"one description was edited, and the log says: {line}")
    return took


def _read(guest: Guest, files: Mapping[str, Sequence[str]]) -> float:
    """The floor: to read and parse the files."""
    began = time.perf_counter()
    for file in files:
        tomllib.loads((guest.stanzas / file).read_text())
    return time.perf_counter() - began


def _peer(peer: Peer, count: int) -> Measured:
    """One command changed, until the peer says it is done and the changed program runs."""
    with Workspace() as workspace:
        commands = sleepers(workspace, count)
        peer.start(workspace, commands)
        wait_until_running(workspace, count)
        changed = workspace.sleeper(1)
        peer.configure(workspace.folder, {**commands, "app0000": changed})
        return interleave(1, lambda: _update(peer, workspace, changed))[0]


def _update(peer: Peer, workspace: Workspace, changed: tuple[str, ...]) -> float:
    assert peer.reload is not None
    began = time.perf_counter()
    run(workspace, peer.reload(workspace.folder), f"{peer.name}-reload")
    newcomers = processes.running(changed)
    while not newcomers:
        if time.perf_counter() - began > SLOW:
            raise BenchError("the changed program does not run")
        time.sleep(0.05)
        newcomers = processes.running(changed)
    return time.perf_counter() - began
