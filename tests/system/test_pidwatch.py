"""Processes that are not our children, watched to their end."""

import asyncio
import contextlib
import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cmappd.core.state import ExitStatus
from cmappd.system.pidwatch import PidWatch
from cmappd.system.proc import Identity, read_stat

# A parent that launches what it is told to, waits for it as init does, and says its pid.
PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
child.wait()
print("waited", flush=True)
sys.stdin.read()
"""
KERNEL = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))
TELLS = KERNEL >= (6, 15)


@contextlib.contextmanager
def stranger(*command: str) -> Iterator[tuple[Identity, "subprocess.Popen[str]"]]:
    """A grandchild: a process whose end somebody else waits for."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        stat = read_stat(int(parent.stdout.readline()))
        assert stat is not None
        yield stat.identity, parent


def known(status: ExitStatus) -> ExitStatus:
    return status if TELLS else ExitStatus()


def test_the_end_by_a_signal_is_told_once() -> None:
    with stranger("/bin/sleep", "600") as (identity, _):
        told = watched(identity, lambda: os.kill(identity.pid, signal.SIGKILL))
    assert told == [known(ExitStatus(signal=9))]


def test_the_exit_code_is_told_once(tmp_path: Path) -> None:
    order = tmp_path / "order"
    os.mkfifo(order)
    with stranger("/bin/sh", "-c", f"read code < {order}; exit $code") as (identity, _):
        told = watched(identity, lambda: order.write_text("7\n"))
    assert told == [known(ExitStatus(code=7))]


def watched(identity: Identity, end: Callable[[], object]) -> list[ExitStatus]:
    """All that is told of a process that is brought to its end."""

    async def scene() -> list[ExitStatus]:
        told: list[ExitStatus] = []
        first = asyncio.Event()

        def note(status: ExitStatus) -> None:
            told.append(status)
            first.set()

        PidWatch(identity, note)
        end()
        await asyncio.wait_for(first.wait(), 20)
        await asyncio.sleep(0.05)  # a second word would come now
        return told

    return asyncio.run(scene())


def test_one_that_is_gone_already_is_refused() -> None:
    with stranger("/bin/sleep", "600") as (identity, parent):
        os.kill(identity.pid, signal.SIGKILL)
        assert parent.stdout is not None
        assert parent.stdout.readline() == "waited\n"

        async def scene() -> None:
            with pytest.raises(ProcessLookupError):
                PidWatch(identity, lambda _: None)

        asyncio.run(scene())


def test_a_pid_used_again_is_not_watched() -> None:
    """Simulated: our own pid with another start time."""

    async def scene() -> None:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ProcessLookupError):
            PidWatch(Identity(os.getpid(), 1), lambda _: None)
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(scene())


def test_a_closed_watch_tells_nothing() -> None:
    async def scene(identity: Identity) -> list[ExitStatus]:
        told: list[ExitStatus] = []
        watch = PidWatch(identity, told.append)
        watch.close()
        os.kill(identity.pid, signal.SIGKILL)
        await asyncio.sleep(0.1)
        return told

    with stranger("/bin/sleep", "600") as (identity, _):
        assert asyncio.run(scene(identity)) == []


def test_an_end_that_nobody_waits_for_is_told_as_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zombie keeps its status to itself; it is not waited for without end."""
    monkeypatch.setattr("cmappd.system.pidwatch._LONGEST_WAIT", 0.05)

    async def scene(child: "subprocess.Popen[bytes]") -> ExitStatus:
        stat = read_stat(child.pid)
        assert stat is not None
        told: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        PidWatch(stat.identity, told.set_result)
        child.kill()
        return await asyncio.wait_for(told, 20)

    with subprocess.Popen(["/bin/sleep", "600"]) as child:
        assert asyncio.run(scene(child)) == ExitStatus()


def test_where_there_is_one_descriptor_it_is_given_back() -> None:
    """It takes two: another one to look whose it is."""

    async def watch(identity: Identity) -> None:
        free = os.dup(0)
        os.close(free)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, before[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                PidWatch(identity, lambda _status: None)
            os.close(os.dup(0))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    with stranger("/bin/sleep", "0.2") as (identity, _parent):
        asyncio.run(watch(identity))
