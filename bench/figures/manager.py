"""cmappmgr itself: its memory, and its way from a cold start to "running"."""

import shutil
import time
from collections.abc import Callable

from bench import processes
from bench.guest import NAME, Guest, many
from bench.options import Options
from bench.series import Goal, Measured, Row, Series, Unit, attempt, interleave
from bench.workspace import HERE, PYTHON, Workspace, reap, run, wait_for_line

ALIVE = 20
ALIVE_IN_JAVA = 5  # each takes half a second of a core to start
REST = 0.5  # seconds for a client to come to rest
RUNNING, ANSWERED = r"running, pid \d+", '"type":"done"'  # what clients print when they are there


def measure(options: Options) -> list[Row]:
    """Memory and start."""
    with Workspace() as workspace:
        guest = Guest(workspace, many(workspace, min(ALIVE, options.apps)))
        guest.start()
        guest.wait_until_running()
        if _has_java():
            source = str(HERE / "TinyClient.java")
            run(workspace, ["javac", "-d", str(workspace.folder / "java"), source], "javac")
        return [_memory(workspace, guest), _cold_start(workspace, guest, options)]


def _memory(workspace: Workspace, guest: Guest) -> Row:
    apps = tuple(guest.apps)
    few = apps[:ALIVE_IN_JAVA]
    managers = {app: guest.manager(app) for app in apps}
    floors = {app: _floor(guest, app) for app in apps}
    java = {app: _java(workspace, guest, app) for app in few}
    return Row(
        f"cmappmgr, PSS with {len(apps)} alive",
        Unit.BYTES,
        attempt(lambda: _pss(workspace, managers, RUNNING)),
        attempt(lambda: _pss(workspace, floors, ANSWERED)),
        {f"java ({len(few)} alive)": _with_java(lambda: _pss(workspace, java, ANSWERED))},
        Goal(10e6),
    )


def _pss(workspace: Workspace, commands: dict[str, tuple[str, ...]], ready: str) -> Series:
    clients = [workspace.start(command, f"client-{app}") for app, command in commands.items()]
    for app in commands:
        wait_for_line(workspace.log(f"client-{app}"), ready)
    time.sleep(REST)
    found = Series(tuple(processes.pss(client.pid) for client in clients))
    for client in clients:
        client.kill()
        reap(client)
    return found


def _cold_start(workspace: Workspace, guest: Guest, options: Options) -> Row:
    app = next(iter(guest.apps))
    times = options.times(15)
    cmappd, floor = interleave(
        times,
        lambda: _until(workspace, guest.manager(app), RUNNING),
        lambda: _until(workspace, _floor(guest, app), ANSWERED),
    )
    command = _java(workspace, guest, app)
    java = _with_java(lambda: interleave(times, lambda: _until(workspace, command, ANSWERED))[0])
    return Row(
        "cmappmgr, cold start -> running",
        Unit.SECONDS,
        cmappd,
        floor,
        {"java": java},
        Goal(2, of="floor"),
    )


def _until(workspace: Workspace, command: tuple[str, ...], ready: str) -> float:
    began = time.perf_counter()
    client = workspace.start(command, "client")
    wait_for_line(workspace.log("client"), ready)
    took = time.perf_counter() - began
    time.sleep(REST)
    client.kill()
    reap(client)
    return took


def _floor(guest: Guest, app: str) -> tuple[str, ...]:
    return (PYTHON, str(HERE / "floors/ask.py"), *guest.place, NAME, app)


# Java ----------------------------------------------------------------------------------


def _has_java() -> bool:
    return shutil.which("java") is not None and shutil.which("javac") is not None


def _with_java(measure: Callable[[], Measured]) -> Measured:
    return attempt(measure) if _has_java() else "not installed"


def _java(workspace: Workspace, guest: Guest, app: str) -> tuple[str, ...]:
    folder = workspace.folder / "java"
    return ("java", "-Xshare:auto", "-cp", str(folder), "TinyClient", *guest.place, NAME, app)
