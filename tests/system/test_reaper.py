import asyncio
import logging
import os
import signal

import pytest

from cmappd.core.state import ExitStatus
from cmappd.system import reaper as module
from cmappd.system.process import launch, send
from cmappd.system.reaper import Reaper
from cmappd.system.signals import Signals

from .conftest import Scripts, until


class Ends:
    """Remembers every end it hears of."""

    def __init__(self) -> None:
        self.orphans: list[int] = []
        self.ended: dict[int, ExitStatus] = {}
        self.reaper = Reaper(self.orphans.append)

    def watch(self, pid: int) -> None:
        def heard(status: ExitStatus) -> None:
            assert pid not in self.ended
            self.ended[pid] = status

        self.reaper.watch(pid, heard)

    def reap_until_ended(self, count: int) -> None:
        def enough() -> bool:
            self.reaper.reap()
            return len(self.ended) >= count

        until(enough)


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_an_exit_code_is_handed_to_the_watcher(scripts: Scripts, ends: Ends, code: int) -> None:
    main = launch(scripts.sh(f"exit {code}"))
    ends.watch(main.pid)
    ends.reap_until_ended(1)
    assert ends.ended == {main.pid: ExitStatus(code=code)}
    assert ends.orphans == []


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, 40])
def test_a_signal_is_handed_to_the_watcher(scripts: Scripts, ends: Ends, signum: int) -> None:
    main = launch(scripts.sh(f"ulimit -c 0; kill -{int(signum)} $$; sleep 60"))
    ends.watch(main.pid)
    ends.reap_until_ended(1)
    assert ends.ended == {main.pid: ExitStatus(signal=signum)}


def test_a_daemonised_grandchild_is_an_orphan(scripts: Scripts, ends: Ends) -> None:
    pid_file = scripts.folder / "pid"
    main = launch(scripts.sh(f"setsid sleep 60 & echo $! > {pid_file}"))
    ends.watch(main.pid)
    ends.reap_until_ended(1)
    grandchild = int(pid_file.read_text())
    os.kill(grandchild, signal.SIGKILL)

    def orphan_was_heard_of() -> bool:
        ends.reaper.reap()
        return ends.orphans == [grandchild]

    until(orphan_was_heard_of)


def test_nothing_to_reap_is_no_error(family: None, ends: Ends) -> None:
    ends.reaper.reap()
    assert (ends.ended, ends.orphans) == ({}, [])


def test_a_failing_watcher_costs_nobody_else_the_status(
    scripts: Scripts, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(status: ExitStatus) -> None:
        raise RuntimeError("defect")

    ends.reaper.watch(launch(scripts.sh("exit 1")).pid, fail)
    for _ in range(5):
        ends.watch(launch(scripts.sh("exit 2")).pid)
    with caplog.at_level(logging.ERROR):

        def all_heard() -> bool:
            ends.reaper.reap()
            return len(ends.ended) == 5 and "defect" in caplog.text

        until(all_heard)
    assert set(ends.ended.values()) == {ExitStatus(code=2)}


async def _all_at_once(scripts: Scripts, ends: Ends, count: int) -> None:
    loop = asyncio.get_running_loop()
    signals = Signals(loop)
    signals.on(signal.SIGCHLD, ends.reaper.reap)
    try:
        mains = []
        for _ in range(count):
            main = launch(scripts.launch("/bin/sleep", "60"))
            ends.watch(main.pid)
            mains.append(main)
        for main in mains:
            assert send(main, signal.SIGKILL)
        deadline = loop.time() + 30
        while len(ends.ended) < count:
            assert loop.time() < deadline
            await asyncio.sleep(0.005)
    finally:
        signals.close()


@pytest.mark.parametrize("batch", [1024, 7])
def test_two_hundred_die_at_once(
    scripts: Scripts, ends: Ends, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(module, "_BATCH", batch)
    asyncio.run(_all_at_once(scripts, ends, 200))
    assert len(ends.ended) == 200
    assert set(ends.ended.values()) == {ExitStatus(signal=signal.SIGKILL)}
    assert ends.orphans == []
