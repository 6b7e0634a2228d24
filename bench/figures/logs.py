"""Much output of one application, captured into a file."""

import re
import time
from pathlib import Path

from bench.guest import Guest
from bench.options import Options
from bench.peers import CIRCUS, SUPERVISORD, Peer
from bench.series import BenchError, Goal, Row, Unit, interleave
from bench.workspace import HERE, PYTHON, TIMEOUT, Workspace

LOOK = 0.01  # seconds between two looks for the end; the writer itself takes the time
APP = "writer"


def measure(options: Options) -> list[Row]:
    """All in turn. Speeds are the writer's, and count only when every byte is in the file."""
    size = options.log_size
    cmappd, floor, file, supervisord, circus = interleave(
        options.times(3),
        lambda: _cmappd(size),
        lambda: _copy_loop(size),
        lambda: _straight(size),
        lambda: _peer(SUPERVISORD, size),
        lambda: _peer(CIRCUS, size),
    )
    peers = {
        SUPERVISORD.name: SUPERVISORD.measure(lambda _: supervisord),
        CIRCUS.name: CIRCUS.measure(lambda _: circus),
        "> file": file,
    }
    figure = f"log capture, {size // 10**6} MB"
    return [Row(figure, Unit.SPEED, cmappd, floor, peers, Goal(0.9, "floor", at_least=True))]


def _writer(workspace: Workspace, size: int) -> tuple[str, ...]:
    return (PYTHON, str(HERE / "writer.py"), str(size), str(workspace.folder / "took"))


def _cmappd(size: int) -> float:
    with Workspace() as workspace:
        guest = Guest(workspace, {APP: {"command": _writer(workspace, size), "autostart": True}})
        guest.start()
        return _speed(workspace, guest.logs / f"{APP}.log")


def _copy_loop(size: int) -> float:
    with Workspace() as workspace:
        log = workspace.folder / f"{APP}.log"
        script = str(HERE / "floors/copy_loop.py")
        workspace.start([PYTHON, script, str(log), *_writer(workspace, size)], "copy-loop")
        return _speed(workspace, log)


def _straight(size: int) -> float:
    with Workspace() as workspace:
        workspace.start(_writer(workspace, size), APP)
        return _speed(workspace, workspace.log(APP))


def _peer(peer: Peer, size: int) -> float:
    with Workspace() as workspace:
        peer.start(workspace, {APP: _writer(workspace, size)})
        return _speed(workspace, workspace.folder / f"{APP}.log")


def _speed(workspace: Workspace, log: Path) -> float:
    """Bytes a second, when all of them are in the log."""
    result = workspace.folder / "took"
    deadline = time.monotonic() + TIMEOUT
    while not result.exists():
        if time.monotonic() > deadline:
            raise BenchError(f"not captured within {TIMEOUT:g} s")
        time.sleep(LOOK)
    took, wrote = re.findall(r"took (\S+) wrote (\d+)", result.read_text())[0]
    while log.stat().st_size != int(wrote):
        if time.monotonic() > deadline:
            raise BenchError(f"{log.stat().st_size} of {wrote} bytes are in the log")
        time.sleep(LOOK)
    return int(wrote) / float(took)
