"""One health check by command: run it, time it, leave nothing of it behind."""

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from cmappd.core.state import ExitStatus
from cmappd.core.wording import status_text
from cmappd.errors import LaunchError
from cmappd.system.process import Identity, Launch, launch

OUTPUT_LIMIT = 4096  # bytes kept of what a check printed: the last ones
_CHUNK = 65536  # what a pipe holds, and what one turn of the loop may cost
_KILL_TIMEOUT = 5.0  # seconds; longer lives only what the kernel itself holds up
_KILL_INTERVAL = 0.01


class Reaper(Protocol):
    """Whoever waits for children."""

    def watch(self, pid: int, callback: Callable[[ExitStatus], None]) -> None: ...


class Forest(Protocol):
    """Whoever knows the process trees."""

    def plant(self, run: str, main: Identity) -> None: ...
    def fell(self, run: str) -> None: ...
    def empty(self, run: str) -> bool: ...
    def signal(self, run: str, signum: int, whole: bool) -> int: ...


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """``detail`` is the end of the sentence "the health check ..."."""

    passed: bool
    detail: str
    output: str


class _Tail:
    """The end of what comes out of a pipe; the rest is read and dropped, so nobody blocks."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._kept = b""
        self._loop = asyncio.get_running_loop()
        os.set_blocking(pipe, False)
        self._loop.add_reader(pipe, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._pipe, _CHUNK)
        except BlockingIOError:
            return
        if not data:  # the end, which select would announce for ever
            self._loop.remove_reader(self._pipe)
        self._kept = (self._kept + data)[-OUTPUT_LIMIT:]

    def close(self) -> str:
        """Take what is still in the pipe, which is at most what a pipe holds, and stop."""
        self._read()
        self._loop.remove_reader(self._pipe)
        os.close(self._pipe)
        return self._kept.decode(errors="replace")


async def probe(
    spec: Launch, run: str, limit: float, *, reaper: Reaper, forest: Forest
) -> ProbeResult:
    """Run a check to the end of its main process, for at most ``limit`` seconds.

    ``run`` names the check's own process tree, which is killed when the main process has
    ended, when the time is over, and when this task is cancelled. ``spec.environment``
    should carry it as the run mark, not the application's run, or a daemon of the check
    counts as the application's. ``spec.output`` is not used. Never raises for what the
    check does; a check that cannot be launched has failed.
    """
    if not await _clear(run, forest, limit=0):
        return ProbeResult(False, "could not start: the one before cannot be killed", "")
    try:
        main, tail = _start(spec)
    except (LaunchError, OSError) as error:
        return ProbeResult(False, f"could not start: {error}", "")
    ended: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
    reaper.watch(main.pid, ended.set_result)
    forest.plant(run, main)
    try:
        in_time, _ = await asyncio.wait({ended}, timeout=limit)
    finally:
        output = tail.close()
        gone = await _clear(run, forest, limit=_KILL_TIMEOUT)
    if not in_time:
        killed = "was killed" if gone else "cannot be killed"
        return ProbeResult(False, f"gave no answer within {limit:g}s and {killed}", output)
    status = ended.result()
    passed = status.code == 0
    return ProbeResult(passed, "passed" if passed else f"ended with {status_text(status)}", output)


def _start(spec: Launch) -> tuple[Identity, _Tail]:
    reading, writing = os.pipe()
    tail = _Tail(reading)
    try:
        return launch(replace(spec, output=writing)), tail
    except BaseException:
        tail.close()
        raise
    finally:
        os.close(writing)


async def _clear(run: str, forest: Forest, limit: float) -> bool:
    """Kill a tree until it is gone, and forget it; False if it would not go in time.

    The first SIGKILL is sent before anything is awaited, so that even a second cancellation
    leaves nobody behind. What cannot be killed stays known, and keeps its successor away.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    while not forest.empty(run):
        forest.signal(run, signal.SIGKILL, whole=True)
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(_KILL_INTERVAL)
    forest.fell(run)
    return True
