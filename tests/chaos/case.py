"""One application in the chaos test: what was done to it, and what must come of that.

A fault leaves an ``Expectation`` with its case; until that is fulfilled, the next fault on this
application waits. So nothing ever happens without a known cause: an application that nothing was
done to keeps its run, its main process and its manager, whatever happens around it.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from tests.chaos.cast import START_TIMEOUT, Part
from tests.chaos.stage import Manager
from tests.chaos.world import (
    BESIDE,
    YOUNG,
    Process,
    World,
    identity,
    is_alive,
    is_confined,
    read_stat,
    standing,
)

PATIENCE = 40.0  # seconds, on a busy machine; not counted while the guest is disturbed
UNKNOWN = 210
NOT_STARTED = 207
NOT_READY = 208
UNHEALTHY = 209
HIDDEN = "child-h"


def number_of(run: str) -> int:
    """Its number, which is one more than that of the application's run before it."""
    return int(run.rpartition(".")[2])


class Violation(AssertionError):
    """A rule of the design is broken."""


@dataclass(frozen=True)
class Verdict:
    """How a run may end: the exit codes of its manager, and whether another run may follow."""

    codes: frozenset[int]
    renews: bool = False


@dataclass
class Expectation:
    """What must come.

    ``run`` is the one that was there before. With ``by_policy`` a new run is a restart that
    counts. ``in_the_dark`` is the verdict where cmappserver was dead between the fault and its
    effect: what ends then has a status that nobody knows, because it was nobody's child.
    """

    what: str
    run: str
    light: Verdict
    in_the_dark: Verdict
    since: float
    deadline: float
    by_policy: bool = False
    rests: bool = False  # that nothing is left is enough: there is no manager to tell
    same_run: bool = False  # a manager is to follow the run that is there
    resets: bool = False  # the restarts begin to count anew
    awaits: int = 0  # commands of the administrator that are not answered yet
    rival: Manager | None = None  # one of the two managers has to go
    adopted: bool = False  # its main process is no child of the cmappserver that runs
    leaves: bool = False  # the manager hands the application over, and ends
    known: float | None = None  # when cmappserver knew the result: from then on it may die


class Case:
    """An application, its manager, and what is expected."""

    def __init__(self, part: Part, world: World) -> None:
        self.part = part
        self.name = part.name
        self.keys = part.keys  # as they were last edited
        self.manager: Manager | None = None
        self.expects: Expectation | None = None
        self.up = False
        self.run = ""
        self.number = 0  # of the last run that it is known to have had
        self.main: tuple[int, int] | None = None
        self.used = 0  # restarts of the budget
        self.perhaps_used = 0  # and so many more
        # What the last manager exited with, if its word that it knew may have been lost: then the
        # result is delivered once more, to the next one.
        self.echo: frozenset[int] = frozenset()
        self.start_at: float | None = None  # when the cluster starts a manager
        self.busy_until = 0.0  # a condition of it lasts so long
        self.tree: list[Process] = []
        self.server: int | None = None  # the pid of cmappserver, when it was last seen
        self.lost: set[str] = set()  # runs during whose launch cmappserver was killed
        self._world = world

    @property
    def idle(self) -> bool:
        """Whether the next fault may come."""
        held = time.monotonic() < self.busy_until
        followed = self.manager is not None or not self.part.managed
        return self.expects is None and self.up and followed and not held

    @property
    def is_adopted(self) -> bool:
        """Whether its main process is no child of the cmappserver that runs."""
        stat = read_stat(self.main[0]) if self.main is not None else None
        return stat is not None and stat.ppid != self.server

    # What is expected --------------------------------------------------------------------

    def expect(self, what: str, light: Verdict, dark: Verdict | None = None, **more: bool) -> None:
        now = time.monotonic()
        assert self.expects is None, f"{self.name}: {what}, but {self.expects}"
        rests = not self.part.managed and bool(light.codes)
        self.expects = Expectation(
            what, self.run, light, dark or light, now, now + PATIENCE, rests=rests
        )
        self.expects.adopted = self.is_adopted
        for key, value in more.items():
            setattr(self.expects, key, value)

    def expect_end(self, what: str, code: int, *, success: bool = False) -> None:
        """It ends by itself: the restart policy, or its manager, is told."""
        light = self._verdict((code, success))
        # What ended while nobody looked is no success, and no failure with a code.
        dark = self._verdict((code, success), (UNKNOWN, False))
        self.expect(what, light, dark, by_policy=True)

    def expect_sickness(self, what: str) -> None:
        """Its health checks fail, and end it.

        Where a crash has come before the record that it is ready, it is one that never is.
        """
        self.expect_end(what, UNHEALTHY)
        assert self.expects is not None
        dark = self.expects.in_the_dark
        self.expects.in_the_dark = Verdict(dark.codes | {NOT_READY}, dark.renews)
        self.expects.deadline += START_TIMEOUT

    def expect_stop(self, what: str, code: int) -> None:
        """It is stopped as somebody asked: that is no failure, whoever dies meanwhile."""
        self.expect(what, Verdict(frozenset({code})))

    def expect_start(self, what: str) -> None:
        """It comes up in a new run."""
        # A cmappserver that dies between the record of a launch and the launch, or during
        # start.command, cannot know how far it came; so of commands that daemonise or are done.
        codes = {NOT_STARTED} if self.part.kind == "simple" else {NOT_STARTED, UNKNOWN}
        dark = Verdict(self.echo | codes, renews=True)
        self.expect(what, Verdict(self.echo, renews=True), dark, resets=True)

    def expect_failure(self, what: str) -> None:
        """It cannot start; or its manager is still told of the run before."""
        codes = self.echo | {NOT_STARTED}
        # A start.command whose end nobody saw is run once more, and then succeeds.
        self.expect(what, Verdict(codes), Verdict(codes, renews=True), resets=True)

    def expect_renewal(self, what: str) -> None:
        """It is ended and launched again, as somebody asked; its manager stays."""
        self.expect_start(what)

    def _verdict(self, *ends: tuple[int, bool]) -> Verdict:
        codes, renews = set(), False
        for code, success in ends:
            policy = self.part.policy
            again = policy == "always" or (policy == "on-failure" and not success)
            if again and self.used < self.part.limit:
                renews = True
            if not again or self.used + self.perhaps_used >= self.part.limit:
                codes.add(0 if success else code)
        return Verdict(frozenset(codes), renews)

    def count(self, *, dark: bool) -> None:
        """Note the restarts that have led to its latest run.

        A launch before which cmappserver has died is a failed one, and nobody has seen that run;
        but where somebody asked for a start, he may also have asked twice.
        """
        assert self.expects is not None
        unseen = number_of(self._world.latest[self.name].run) - self.number - 1 if dark else 0
        if self.expects.resets:
            self.used, self.perhaps_used = 0, unseen
        else:
            self.used += unseen + self.expects.by_policy

    def is_spent_by(self, run: str) -> bool:
        """Whether this run, before whose launch cmappserver died, was the last of its restarts."""
        assert self.expects is not None
        if not self.expects.by_policy or self.part.policy == "never":
            return False
        return self.used + self.perhaps_used + number_of(run) - self.number >= self.part.limit

    # What is ----------------------------------------------------------------------------

    @property
    def own(self) -> list[Process]:
        """Its tree, without what is beside it, and what nobody can know to be of it."""
        return [one for one in self.tree if one.role not in BESIDE and not self.is_lost(one)]

    def is_lost(self, one: Process) -> bool:
        """Whether it hides, and was not moved into the cgroup of its run.

        A cmappserver that is killed between the launch of a command and the move of all that it
        has forked leaves some outside. What then hides in every other way, nobody can find.
        """
        if one.role != HIDDEN or one.run not in self.lost:
            return False
        return not is_confined(one.pid, one.start, one.run)

    def is_up_in(self, but: str) -> bool:
        """Whether a run other than ``but`` is up, with a main process if it has one."""
        birth = self._world.latest.get(self.name)
        if birth is None or birth.run == but:
            return False
        if not self.part.has_main:
            end = self._world.ended(birth.key)
            return end is not None and not _alive(birth.key)
        return _alive(birth.key)

    def is_followed(self) -> bool:
        """Whether its manager has said that it runs, with the right run and process."""
        if not self.part.managed:
            return True
        birth = self._world.latest[self.name]
        said = self.manager.follows() if self.manager is not None else None
        pid = int(birth.key.partition(".")[0]) if self.part.has_main else None
        return said == (pid, birth.run)

    def lacks_manager(self, but: str) -> bool:
        """Whether it is up in a run other than ``but``, and no manager will come."""
        nobody = self.part.managed and self.manager is None and self.start_at is None
        return nobody and self.is_up_in(but)

    def settle(self) -> None:
        """It is up, in its latest run."""
        birth = self._world.latest[self.name]
        self.up, self.expects = True, None
        self.run, self.main = birth.run, identity(birth.key)
        self.number = number_of(birth.run)

    def check_steady(self) -> None:
        """Nothing was done to it: then nothing happens to it."""
        birth = self._world.latest.get(self.name)
        if not self.up:
            if self.own and any(one.role != YOUNG for one in self.own):
                raise Violation(f"{self.name} is stopped, and there is {told(self.own)}")
            return
        if birth is not None and birth.run != self.run:
            raise Violation(f"{self.name} has a new run {birth.run} after {self.run}: {birth}")
        if self.part.has_main and self.main is not None and not is_alive(*self.main):
            end = self._world.ended(f"{self.main[0]}.{self.main[1]}")
            raise Violation(f"{self.name} has ended, and nobody knows why: {self.main}, {end}")

    def survivors(self, run: str) -> list[Process]:
        """What lives of its tree, now that it is said to be stopped."""
        return [one for one in self.own if one.run in (run, "")]


def _alive(key: str) -> bool:
    return is_alive(*identity(key))


def told(processes: Iterable[Process]) -> str:
    return ", ".join(
        f"{one.role} {one.key} of {one.run or '?'} ({standing(one.pid)})" for one in processes
    )
