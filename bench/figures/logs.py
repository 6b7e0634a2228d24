"""Much output of one application, captured into a file; and on its way to every other place."""

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.guest import Guest
from bench.options import Options
from bench.peers import CIRCUS, SUPERVISORD, Peer
from bench.series import BenchError, Goal, Row, Unit, interleave
from bench.workspace import HERE, PYTHON, TIMEOUT, Workspace
from bench.writer import LINE
from cmappd.system.log.journal import greeting
from cmappd.system.log.linefile import Form, as_json, stamped

LOOK = 0.01  # seconds between two looks for the end; the writer itself takes the time
APP = "writer"
NOW = "2026-01-01T00:00:00.000+00:00"
FORMS: dict[str, Form] = {"timestamps": stamped, "json": as_json(APP)}
# Daemons are stood in for by one that reads and throws away.
SINKS = {"journal": "stream", "syslog": "datagram"}
# Where a system call a line is needed, so much less is written; a speed is what is measured.
SHARES = {"syslog": 20}


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


def measure_destinations(options: Options) -> list[Row]:
    """Each in turn, beside files without cmappd and with another supervisor."""
    size = options.log_size
    names = (*FORMS, *SINKS, "none")
    file, supervisord, *found = interleave(
        options.times(1),
        lambda: _straight(size),
        lambda: _peer(SUPERVISORD, size),
        *(partial(_destination, name, size // SHARES.get(name, 1)) for name in names),
    )
    peers = {SUPERVISORD.name: SUPERVISORD.measure(lambda _: supervisord)}
    return [
        Row(f"log to {name}", Unit.SPEED, speed, file, peers)
        for name, speed in zip(names, found, strict=True)
    ]


def _destination(name: str, size: int) -> float:
    with Workspace() as workspace:
        log = {"format": name} if name in FORMS else {"destination": name}
        stanza = {"command": _writer(workspace, size), "autostart": True, "log": log}
        guest = Guest(workspace, {APP: stanza}, _sink(workspace, name))
        guest.start()
        return _speed(workspace, partial(_has_all, name, workspace, guest))


def _sink(workspace: Workspace, name: str) -> str:
    """Start what reads, if something has to; how cmappserver is told where that is."""
    if name not in SINKS:
        return ""
    socket, said = workspace.folder / "sink.sock", workspace.folder / "sink"
    script = str(HERE / "floors/sink.py")
    workspace.start([PYTHON, script, SINKS[name], str(socket), str(said)], "sink")
    deadline = time.monotonic() + TIMEOUT
    while not socket.exists() and time.monotonic() < deadline:
        time.sleep(LOOK)
    return f"import cmappd.system.log.{name} as it; it.SOCKET = '{socket}'; "


def _has_all(name: str, workspace: Workspace, guest: Guest, wrote: int) -> bool:
    """Whether all that was written has arrived."""
    lines = wrote // len(LINE)
    if name in FORMS:
        form = FORMS[name](LINE.rstrip(b"\n"), True, NOW)
        return (guest.logs / f"{APP}.log").stat().st_size == lines * len(form)
    if name not in SINKS:
        return True
    size, reads = map(int, (workspace.folder / "sink").read_text().split())
    return reads == lines if name == "syslog" else size == wrote + len(greeting(APP))


def _writer(workspace: Workspace, size: int) -> tuple[str, ...]:
    return (PYTHON, str(HERE / "writer.py"), str(size), str(workspace.folder / "took"))


def _cmappd(size: int) -> float:
    with Workspace() as workspace:
        guest = Guest(workspace, {APP: {"command": _writer(workspace, size), "autostart": True}})
        guest.start()
        return _speed(workspace, _is_as_long(guest.logs / f"{APP}.log"))


def _copy_loop(size: int) -> float:
    with Workspace() as workspace:
        log = workspace.folder / f"{APP}.log"
        script = str(HERE / "floors/copy_loop.py")
        workspace.start([PYTHON, script, str(log), *_writer(workspace, size)], "copy-loop")
        return _speed(workspace, _is_as_long(log))


def _straight(size: int) -> float:
    with Workspace() as workspace:
        workspace.start(_writer(workspace, size), APP)
        return _speed(workspace, _is_as_long(workspace.log(APP)))


def _peer(peer: Peer, size: int) -> float:
    with Workspace() as workspace:
        peer.start(workspace, {APP: _writer(workspace, size)})
        return _speed(workspace, _is_as_long(workspace.folder / f"{APP}.log"))


def _is_as_long(log: Path) -> Callable[[int], bool]:
    return lambda wrote: log.stat().st_size == wrote


def _speed(workspace: Workspace, has_all: Callable[[int], bool]) -> float:
    """Bytes a second, when all of them have arrived."""
    result = workspace.folder / "took"
    deadline = time.monotonic() + TIMEOUT
    while not result.exists():
        if time.monotonic() > deadline:
            raise BenchError(f"not captured within {TIMEOUT:g} s")
        time.sleep(LOOK)
    took, wrote = re.findall(r"took (\S+) wrote (\d+)", result.read_text())[0]
    while not has_all(int(wrote)):
        if time.monotonic() > deadline:
            raise BenchError(f"not all of {wrote} bytes have arrived")
        time.sleep(LOOK)
    return int(wrote) / float(took)
