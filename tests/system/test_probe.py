import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

import pytest

from cmappd.errors import LaunchError
from cmappd.system.marks import marked
from cmappd.system.probe import OUTPUT_LIMIT, ProbeResult, probe
from cmappd.system.proc import children
from cmappd.system.process import Identity, Launch, launch
from cmappd.system.reaper import Reaper
from cmappd.system.signals import Signals
from cmappd.system.tree import Forest

from .conftest import Scripts, until

RUN = "r/health"


class Trees:
    """Those of a forest, without cgroups."""

    def __init__(self, forest: Forest) -> None:
        self.empty, self.fell = forest.empty, forest.fell
        self._forest = forest

    def launch(self, tree: str, spec: Launch) -> Identity:
        main = launch(spec)
        self._forest.plant(tree, main)
        return main

    def kill(self, tree: str) -> None:
        self._forest.signal(tree, signal.SIGKILL, whole=True)


class Clinic:
    def __init__(self) -> None:
        self.orphans: list[int] = []
        self.reaper = Reaper(self.orphans.append)
        self.forest = Forest()
        self.trees = Trees(self.forest)

    def check(self, spec: Launch, limit: float = 20.0) -> Coroutine[Any, Any, ProbeResult]:
        return probe(spec, RUN, limit, reaper=self.reaper, trees=self.trees)

    async def attached(self, work: Coroutine[Any, Any, ProbeResult]) -> ProbeResult:
        loop = asyncio.get_running_loop()
        signals = Signals(loop)
        signals.on(signal.SIGCHLD, self.reaper.reap)
        try:
            return await work
        finally:
            signals.close()

    def run(self, spec: Launch, limit: float = 20.0) -> ProbeResult:
        result = asyncio.run(self.attached(self.check(spec, limit)))
        assert children(os.getpid()) == [], "nobody is left the moment the result is there"
        assert self.forest._trees == {}
        return result


@pytest.fixture
def clinic(scripts: Scripts) -> Clinic:
    return Clinic()


def test_passed(scripts: Scripts, clinic: Clinic) -> None:
    result = clinic.run(scripts.sh("echo fine; echo too >&2"))
    assert result == ProbeResult(True, "passed", "fine\ntoo\n")


def test_exit_code_and_signal(scripts: Scripts, clinic: Clinic) -> None:
    assert clinic.run(scripts.sh("echo bad; exit 1")) == ProbeResult(
        False, "ended with exit code 1", "bad\n"
    )
    assert clinic.run(scripts.sh("kill -9 $$")) == ProbeResult(
        False, "ended with SIGKILL (signal 9)", ""
    )


def test_no_answer_in_time(scripts: Scripts, clinic: Clinic) -> None:
    spec = scripts.sh("trap '' TERM; echo trying; sleep 60 & (setsid sleep 60 &) ; wait", run=RUN)
    result = clinic.run(spec, limit=0.3)
    assert result == ProbeResult(False, "gave no answer within 0.3s and was killed", "trying\n")


def test_a_stopped_check_is_killed(scripts: Scripts, clinic: Clinic) -> None:
    result = clinic.run(scripts.sh("kill -STOP $$"), limit=0.2)
    assert result.detail == "gave no answer within 0.2s and was killed"


def test_the_end_of_the_main_process_counts_not_the_end_of_output(
    scripts: Scripts, clinic: Clinic
) -> None:
    result = clinic.run(scripts.sh("echo up; sleep 60 & (setsid sleep 60 &) ; exit 0", run=RUN))
    assert result == ProbeResult(True, "passed", "up\n")


def test_closed_output_is_not_the_end(scripts: Scripts, clinic: Clinic) -> None:
    result = clinic.run(scripts.sh("echo bye; exec >&- 2>&-; sleep 0.1; exit 4"))
    assert result == ProbeResult(False, "ended with exit code 4", "bye\n")


def test_much_output_is_read_and_its_end_kept(scripts: Scripts, clinic: Clinic) -> None:
    result = clinic.run(scripts.sh("head -c 3000000 /dev/zero | tr '\\0' x; echo the end"))
    assert result.passed
    assert len(result.output) == OUTPUT_LIMIT
    assert result.output.endswith("xxx" + "the end\n")


def test_endless_output_is_bounded(scripts: Scripts, clinic: Clinic) -> None:
    result = clinic.run(scripts.launch("yes"), limit=0.2)
    assert not result.passed
    assert len(result.output) == OUTPUT_LIMIT


def test_undecodable_output(scripts: Scripts, clinic: Clinic) -> None:
    assert clinic.run(scripts.sh(r"printf 'a\377b'")).output == "a�b"


def test_what_cannot_be_launched_is_no_check(scripts: Scripts, clinic: Clinic) -> None:
    with pytest.raises(LaunchError, match="'/no/such/check': there is no such file"):
        clinic.run(scripts.launch("/no/such/check"))
    assert children(os.getpid()) == []


def test_cancelling_kills_the_tree(scripts: Scripts, clinic: Clinic) -> None:
    ready = scripts.folder / "ready"
    run = f"cancelled-{os.getpid()}"
    spec = scripts.sh(f"trap '' TERM; (setsid sleep 60 &) ; echo > {ready}; sleep 60; :", run=run)

    async def cancel() -> None:
        task = asyncio.create_task(
            clinic.attached(probe(spec, run, 20, reaper=clinic.reaper, trees=clinic.trees))
        )
        while not ready.exists():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert run not in marked()
    assert children(os.getpid()) == []


def test_cancelling_twice_kills_the_tree_too(scripts: Scripts, clinic: Clinic) -> None:
    ready = scripts.folder / "ready"
    spec = scripts.sh(f"echo > {ready}; sleep 60 & sleep 60; :", run=RUN)

    async def cancel() -> None:
        task = asyncio.create_task(clinic.check(spec))
        while not ready.exists():
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())

    def gone() -> bool:
        clinic.reaper.reap()
        return clinic.forest.empty(RUN)

    until(gone)
    assert children(os.getpid()) == []


def test_no_check_beside_one_that_cannot_be_killed(scripts: Scripts, clinic: Clinic) -> None:
    """Unreaped it cannot go, which is how it looks when the kernel holds up a process."""

    async def beside() -> ProbeResult:
        first = asyncio.create_task(clinic.check(scripts.launch("/bin/sleep", "60")))
        while clinic.forest.empty(RUN):
            await asyncio.sleep(0)
        second = await clinic.check(scripts.sh("exit 0"), limit=0.1)
        first.cancel()
        while not first.done():
            clinic.reaper.reap()
            await asyncio.sleep(0.005)
        return second

    result = asyncio.run(beside())
    assert result == ProbeResult(False, "could not start: the one before cannot be killed", "")
    assert children(os.getpid()) == []


def test_many_at_once_do_not_wait_for_each_other(scripts: Scripts, clinic: Clinic) -> None:
    """Thirty checks that all wait for the last of them: none passes if they run in turn."""
    gate = scripts.folder / "gate"
    waiting = scripts.sh(f"until [ -e {gate} ]; do sleep 0.05; done")

    async def all_of_them() -> list[ProbeResult]:
        loop = asyncio.get_running_loop()
        signals = Signals(loop)
        signals.on(signal.SIGCHLD, clinic.reaper.reap)
        runs = [
            probe(
                scripts.sh(f"echo > {gate}") if number == 29 else waiting,
                f"r{number}/health",
                30,
                reaper=clinic.reaper,
                trees=clinic.trees,
            )
            for number in range(30)
        ]
        results = await asyncio.gather(*runs)
        signals.close()
        return results

    assert all(result.passed for result in asyncio.run(all_of_them()))
    assert children(os.getpid()) == []


def test_sigchld_of_others_is_no_answer(scripts: Scripts, clinic: Clinic) -> None:
    result = clinic.run(scripts.sh("(exit 0 &) ; (sleep 0.05 &) ; sleep 0.2; kill -TERM $$"))
    assert result.detail == "ended with SIGTERM (signal 15)"
