"""A forest with all that goes with it, for the tests of process trees."""

import signal
from collections.abc import Callable, Iterator

import pytest

from cmappd.core.state import ExitStatus
from cmappd.system.proc import own_children, read_stat
from cmappd.system.process import Identity, Launch, launch, send
from cmappd.system.reaper import Reaper
from cmappd.system.tree import Forest

from .conftest import Scripts, until


class Wood:
    """A forest and the reaper that goes with it, as the server has them."""

    def __init__(self) -> None:
        self.orphans: list[int] = []
        self.ended: dict[int, ExitStatus] = {}
        self.reaper = Reaper(self.orphans.append)
        self.forest = Forest()

    def grow(self, run: str, spec: Launch) -> Identity:
        main = launch(spec)
        self.reaper.watch(main.pid, lambda status: self.ended.__setitem__(main.pid, status))
        self.forest.plant(run, main)
        return main

    def until(self, condition: Callable[[], object]) -> None:
        def reaped_and_true() -> object:
            self.reaper.reap()
            return condition()

        until(reaped_and_true)

    def until_ended(self, main: Identity) -> None:
        self.until(lambda: main.pid in self.ended)

    def kill(self, run: str) -> None:
        """To the end, as the server does it: again for as long as somebody is left."""

        def gone() -> bool:
            self.forest.signal(run, signal.SIGKILL, whole=True)
            return self.forest.empty(run)

        self.until(gone)

    def until_members(self, run: str, count: int) -> tuple[Identity, ...]:
        self.until(lambda: len(self.forest.alive(run)) == count)
        return self.forest.alive(run)


def strays(forest: Forest) -> tuple[Identity, ...]:
    """The living children of this process that belong to no run."""
    members = forest.alive(*forest._trees)
    stats = [read_stat(pid) for pid in own_children()]
    living = (stat.identity for stat in stats if stat is not None and stat.alive)
    return tuple(who for who in living if who not in members)


@pytest.fixture
def wood(scripts: Scripts) -> Iterator[Wood]:
    made = Wood()
    yield made
    for run in list(made.forest._trees):
        made.kill(run)
    for stray in strays(made.forest):
        send(stray, signal.SIGKILL)
    made.until(lambda: own_children() == [])
