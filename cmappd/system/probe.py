"""One command that answers by how it ends, as a health check does: run it, time it, leave nothing
of it behind.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from cmappd.core.state import ExitStatus
from cmappd.core.wording import status_text
from cmappd.system.process import Identity, Launch

OUTPUT_LIMIT = 4096  # bytes kept of what a check printed: the last ones
_CHUNK = 65536  # what a pipe holds, and what one turn of the loop may cost
_KILL_TIMEOUT = 5.0  # seconds; longer lives only what the kernel itself holds up
_KILL_INTERVAL = 0.01


class Reaper(Protocol):
    """Whoever waits for children."""

    def watch(self, pid: int, callback: Callable[[ExitStatus], None]) -> None: ...


class Trees(Protocol):
    """Whoever knows the process trees of such commands."""

    def launch(self, tree: str, spec: Launch) -> Identity: ...
    def empty(self, tree: str) -> bool: ...
    def kill(self, tree: str) -> None: ...
    def fell(self, tree: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """``detail`` is the end of a sentence, as "the health check ..."."""

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
    spec: Launch, tree: str, limit: float, *, reaper: Reaper, trees: Trees
) -> ProbeResult:
    """Run a check to the end of its main process, for at most ``limit`` seconds.

    ``tree`` names the check's own process tree, which is killed when the main process has
    ended, when the time is over, and when this task is cancelled. ``spec.environment``
    should carry it as the run mark, not the application's run, or a daemon of the check
    counts as the application's. ``spec.output`` is not used. Never raises for what the
    check does; one that cannot be launched is none: LaunchError, or OSError.
    """
    if not await _clear(tree, trees, limit):  # of one that an earlier cmappserver has left
        return ProbeResult(False, "could not start: the one before cannot be killed", "")
    main, tail = _start(tree, spec, trees)
    ended: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
    reaper.watch(main.pid, ended.set_result)
    try:
        in_time, _ = await asyncio.wait({ended}, timeout=limit)
    finally:
        output = tail.close()
        gone = await _clear(tree, trees, limit=_KILL_TIMEOUT)
    if not in_time:
        killed = "was killed" if gone else "cannot be killed"
        return ProbeResult(False, f"gave no answer within {limit:g}s and {killed}", output)
    status = ended.result()
    passed = status.code == 0
    return ProbeResult(passed, "passed" if passed else f"ended with {status_text(status)}", output)


def _start(tree: str, spec: Launch, trees: Trees) -> tuple[Identity, _Tail]:
    reading, writing = os.pipe()
    tail = _Tail(reading)
    try:
        return trees.launch(tree, replace(spec, output=writing)), tail
    except BaseException:
        tail.close()
        raise
    finally:
        os.close(writing)


async def _clear(tree: str, trees: Trees, limit: float) -> bool:
    """Kill a tree until it is gone, and forget it; False if it would not go in time.

    The first SIGKILL is sent before anything is awaited, so that even a second cancellation
    leaves nobody behind. What cannot be killed stays known, and keeps its successor away.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    while not _killed(tree, trees):
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(_KILL_INTERVAL)
    trees.fell(tree)
    return True


def _killed(tree: str, trees: Trees) -> bool:
    """Whether nobody is left of a tree; who is, is sent SIGKILL."""
    with contextlib.suppress(OSError):  # no free descriptor to look with: once more, then
        if trees.empty(tree):
            return True
        trees.kill(tree)
    return False
