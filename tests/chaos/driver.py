"""Drives the three programs through faults, and holds what comes of them against the rules."""

import collections
import math
import os
import random
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.chaos import cast, logs
from tests.chaos.actor import UNABLE
from tests.chaos.case import NOT_STARTED, UNKNOWN, Case, Verdict, Violation, number_of, told
from tests.chaos.cast import Part
from tests.chaos.stage import Control, Manager, Stage
from tests.chaos.world import BESIDE, Process, is_confined
from tests.server.harness import remove_cgroups

TICK = 0.02  # seconds between two looks
LOG_INTERVAL = 0.5
BUSY = 206
LOST = 202
CALM = 60.0  # seconds for everything to be up when the faults have ended
ZOMBIE_LIFE = 15.0
LATE = 8.0  # seconds after which an answer may not be out of date any more


@dataclass(frozen=True)
class Errand:
    """A cmappctl under way. ``then`` is done with its answer."""

    control: Control
    then: Callable[[str], None] | None


class Chaos:
    """The guest, its hosts, all cases, and the history of what was done."""

    def __init__(self, folder: Path, seed: str, say: Callable[[str], None]) -> None:
        self.seed = seed
        self.stage = Stage(folder)
        self.world = self.stage.world
        self.cases: dict[str, Case] = {}
        self.logs: dict[str, logs.AppLog] = {}
        self.history: list[str] = []
        self.step = 0
        self.down_since: float | None = None  # cmappserver is dead, or not ready yet
        self.dark: list[tuple[float, float]] = []  # when it was
        self.disturbed_until = 0.0  # a program or a link stands still
        self.links_disturbed = [0.0, 0.0]  # until when, by proxy; inf where that is not over
        self.frozen_until = 0.0  # cmappserver
        self.replaced = 0.0  # when it was, by an upgrade
        self.killed_again = 0.0  # until when it is to be killed once more
        self.main_is_broken = False
        self.broken_until = 0.0  # an application's file
        self.upgrade_began = 0.0
        self.upgrading: Control | None = None
        self.leaving: list[tuple[Manager, frozenset[int]]] = []
        self.errands: list[Errand] = []
        self.later: list[tuple[float, str, Callable[[], None]]] = []
        self.queues: dict[str, deque[Callable[[], None]]] = {}
        self.faults = 0
        self.ending = False
        self.stopping = False  # all are being stopped, in order
        self.hides = can_hide()
        self._say = say
        self._began = time.monotonic()
        self._logs_read = 0.0
        self._chance = random.Random(f"{seed}: the cluster")

    # The account -------------------------------------------------------------------------

    def tell(self, text: str) -> None:
        line = f"{time.monotonic() - self._began:8.3f}  #{self.step:<4d} {text}"
        self.history.append(line)
        self._say(line)

    def at(self, delay: float, what: str, do: Callable[[], None]) -> None:
        """Have something done later, whatever is done until then."""
        self.later.append((time.monotonic() + delay, what, do))

    # The begin ---------------------------------------------------------------------------

    def begin(self) -> None:
        for part in cast.parts(self.stage.cast, self.stage.disk, hide=self.hides):
            self.introduce(part)
        self.stage.write_main()
        self.down_since = time.monotonic()
        self.stage.start_server()
        for case in self.cases.values():
            case.expect_start("the begin")
            if case.part.managed:
                case.start_at = time.monotonic()
        self.calm("begin")

    def introduce(self, part: Part) -> Case:
        self.stage.add(part)
        case = self.cases[part.name] = Case(part, self.world)
        if "path" in part.keys["log"]:
            place = Path(part.keys["log"]["path"]), self.stage.cast / part.name
            log = self.logs[part.name] = logs.AppLog(part.name, *place, part.form)
            log.drops_allowed = part.full or part.disk is not None
        self.queues[part.name] = deque()
        return case

    # Time passes -------------------------------------------------------------------------

    def run_for(self, seconds: float) -> None:
        """Look, and look again, for so long; at least once."""
        end = time.monotonic() + seconds
        while True:
            self.tick()
            if time.monotonic() >= end:
                return
            time.sleep(TICK)

    def tick(self) -> None:
        now = time.monotonic()
        for one in [one for one in self.later if one[0] <= now]:
            self.later.remove(one)
            if one[1]:
                self.tell(one[1])
            one[2]()
        self._watch_server()
        exits = {name: case.manager.code if case.manager is not None else None
                 for name, case in self.cases.items()}  # fmt: skip
        self._look()
        self._answer_errands()
        self._see_upgrade()
        for name, case in self.cases.items():
            self._follow(case, exits[name])
        self._see_leaving()
        for name, queue in self.queues.items():
            while queue and self.cases[name].idle and not self.ending:
                queue.popleft()()
        if now >= self._logs_read + LOG_INTERVAL:
            self._read_logs()

    def _watch_server(self) -> None:
        if self.stage.server is None:
            return
        if self.down_since is not None:
            if self.stage.server_is_ready():
                self.dark.append((self.down_since, time.monotonic()))
                self.down_since = None
                self.tell("cmappserver is ready")
        elif not self.stage.server.running and not self.ending:
            raise Violation(f"cmappserver has ended with {self.stage.server.process.returncode}")

    def _look(self) -> None:
        server = self.stage.server
        pid = server.pid if server is not None and self.now_answers() else None
        found = self.world.look(pid)
        for name, case in self.cases.items():
            case.server = server.pid if server is not None else None
            case.tree = found.get(name, [])
            self._check_one_tree(case)
        for case in self.cases.values() if self.stopping else ():
            required = self.cases.get(case.part.requires)
            if required is not None and case.own and not required.own:
                raise Violation(f"{required.name} is stopped before {case.name}: {told(case.own)}")
        strangers = found.keys() - self.cases.keys()
        if strangers:
            raise Violation(f"there are processes of {strangers}")
        for note in self.world.notes:
            if note.event == "double":
                raise Violation(f"two trees of {note.app}: {note}")
        for who, since in self.world.zombies.items():
            if time.monotonic() > since + ZOMBIE_LIFE:
                raise Violation(f"cmappserver leaves a zombie {who}")
        if self.down_since is not None:
            self._forgive()

    def look_at(self, case: Case) -> None:
        """See its tree as it is now: what came up just now was not there at the last look."""
        case.tree = self.world.look().get(case.name, [])

    def now_answers(self) -> bool:
        """Whether cmappserver can act: it is alive, and not stopped."""
        return self.down_since is None and time.monotonic() > self.frozen_until + 1

    def _check_one_tree(self, case: Case) -> None:
        runs = {one.run for one in case.own if one.run}
        if len(runs) > 1:
            order = self.world.runs.get(case.name, [])
            newest = max(runs, key=lambda run: order.index(run) if run in order else -1)
            # A look takes time: the old ones may have ended before the new ones began.
            left = self.world.still(one for one in case.own if one.run not in ("", newest))
            if left:
                raise Violation(f"two trees of {case.name}: {told(left)}, and {newest}")

    def _forgive(self) -> None:
        """Where no process of an application holds its output while no cmappserver does.

        The kernel then forgets what was written and not read; nobody is left who could know.
        """
        for name, log in self.logs.items():
            if not self.cases[name].tree:
                log.forgive()

    def in_the_dark(self, since: float, known: float = math.inf) -> bool:
        """Whether cmappserver was dead at some time between."""
        down = self.down_since is not None and self.down_since < known
        return down or any(begin < known and end >= since for begin, end in self.dark)

    def was_away(self, since: float) -> bool:
        """Whether what was said to cmappserver may have been said to nobody."""
        return self.in_the_dark(since) or self.replaced >= since

    def disturb(self, seconds: float) -> None:
        self.disturbed_until = max(self.disturbed_until, time.monotonic() + seconds)

    def is_about_to_start(self) -> bool:
        """Whether cmappserver will read its configuration from the start, though it is ready."""
        return time.monotonic() < max(self.killed_again, self.replaced + LATE)

    @property
    def disturbed(self) -> bool:
        return self.down_since is not None or time.monotonic() < self.disturbed_until

    # One case ----------------------------------------------------------------------------

    def _follow(self, case: Case, code: int | None) -> None:
        if code is not None:
            self._manager_has_ended(case, code)
        elif case.expects is not None:
            self._look_for(case)
        else:
            case.check_steady()
        if case.start_at is not None and time.monotonic() >= case.start_at:
            case.start_at = None
            self.start_manager(case)

    def start_manager(self, case: Case) -> None:
        if not case.up and case.expects is None:
            if self.unable(case).exists():
                case.expect_failure("its manager is started, and it cannot start")
            else:
                case.expect_start("its manager is started")
        case.manager = self.stage.start_manager(case.name)

    def unable(self, case: Case) -> Path:
        """The file that lets its start.command fail, which removes it."""
        return self.stage.cast / case.name / UNABLE

    def _look_for(self, case: Case) -> None:
        """Whether what is expected has come."""
        expects, now = case.expects, time.monotonic()
        assert expects is not None
        if self.disturbed:
            expects.deadline = max(expects.deadline, now + 40)
        verdict = self._verdict(case)
        known = case.name in self.world.latest
        if known and not verdict.renews and self.world.latest[case.name].run != expects.run:
            latest = self.world.latest[case.name]
            raise Violation(f"{case.name} has a new run after: {expects.what}: {latest}")
        if expects.same_run:
            gone = expects.rival is None and not expects.leaves
            if gone and case.manager is not None and case.is_followed():
                case.settle()
        elif verdict.renews and known and case.is_up_in(expects.run) and case.is_followed():
            self._renewed(case)
        elif expects.rests and not case.own and not expects.awaits:
            self._at_rest(case)
        elif verdict.renews and known and not expects.awaits and case.lacks_manager(expects.run):
            case.start_at = now  # its last one has gone, and who was asked again has started it
        if expects.rival is not None and expects.rival.code is not None:
            self._rival_has_gone(case, expects.rival)
        if case.expects is not None and now > expects.deadline:
            raise Violation(
                f"{case.name}: waited in vain after: {expects.what}; {verdict}; "
                f"its tree: {told(case.tree)}; manager: {self._words_of(case)}"
            )

    def _rival_has_gone(self, case: Case, rival: Manager) -> None:
        assert case.expects is not None
        assert rival.code is not None
        self._check_report(rival, rival.code)
        if rival.code != BUSY:
            raise Violation(f"{case.name}: manager {rival.number} has ended with {rival.code}")
        self.tell(f"  manager {rival.number} of {case.name} has gone")
        case.expects.rival = None

    def _words_of(self, case: Case) -> str:
        return "none" if case.manager is None else f"{case.manager.number} {case.manager.follows()}"

    def _verdict(self, case: Case) -> Verdict:
        assert case.expects is not None
        return case.expects.in_the_dark if self._is_dark(case) else case.expects.light

    def _is_dark(self, case: Case) -> bool:
        """Whether cmappserver may not have seen the effect of the last fault."""
        expects = case.expects
        assert expects is not None
        # Whose child it is not, cmappserver watches by a descriptor, and not while it is replaced.
        unseen = expects.adopted and self.was_away(expects.since)
        known = math.inf if expects.known is None else expects.known
        return unseen or self.in_the_dark(expects.since, known)

    def _renewed(self, case: Case) -> None:
        assert case.expects is not None
        if case.expects.awaits:
            return
        case.count(dark=self._is_dark(case))
        case.settle()
        self.tell(f"  {case.name} is up: run {case.run}, {case.main}")
        if self.hides and case.main is not None:
            if self.in_the_dark(self.world.latest[case.name].at - 1):
                case.lost.add(case.run)
            elif not is_confined(*case.main, case.run):
                raise Violation(f"{case.name} is not in the cgroup of {case.run}")

    def _at_rest(self, case: Case) -> None:
        assert case.expects is not None
        self.tell(f"  {case.name} is at rest")
        adopted = case.expects.adopted
        case.expects, case.up = None, False
        if self.ending:
            return
        if not case.part.managed:
            # How an adopted process has ended, the kernel tells when init has waited for it. So
            # long, at most 2 s, cmappserver takes it for running, and a start for a success.
            delay = 3.0 if adopted else 0.0
            self.at(delay, f"  {case.name} is started", lambda: self._start_again(case))
        else:
            case.start_at = time.monotonic() + self._chance.uniform(0, 0.5)

    def _start_again(self, case: Case) -> None:
        case.expect_start("its administrator starts it")
        self.command(case, "start", case.name)

    def _manager_has_ended(self, case: Case, code: int) -> None:
        manager, expects = case.manager, case.expects
        assert manager is not None
        self._check_report(manager, code)
        why = f"{case.name}: manager {manager.number} has ended with {code}"
        case.manager = None
        if code == BUSY and expects is not None and expects.rival is not None:
            # Before the takeover was written down, cmappserver died: who came first is the owner.
            if not self.was_away(expects.since):
                raise Violation(f"{why}, and was to take over")
            self.tell(f"{why}: the one before it was quicker")
            case.manager, expects.rival = expects.rival, None
            return
        if code == 0 and expects is not None and expects.leaves:
            self.tell(f"{why}: it has handed over")
            expects.leaves, case.start_at = False, time.monotonic() + self._chance.uniform(0, 0.5)
            return
        if code == BUSY and self._may_be_busy(case):
            self.tell(f"{why}: the one before it is not known to be gone")
            case.start_at = time.monotonic() + 0.5
            return
        if code == -signal.SIGTERM and manager.terminated and manager.silent_when_terminated:
            self.tell(f"{why}: it had not begun")
        elif code == LOST and self._may_have_lapsed(case):
            self.tell(f"{why}: its lease was over before it could say a word")
        elif expects is None:
            raise Violation(f"{why}, and nothing was done to it")
        elif (
            code == NOT_STARTED
            and self._is_dark(case)
            and case.is_spent_by(manager.report()["run"])
        ):
            self.tell(f"{why}: cmappserver died before the last restart was launched")
        elif code not in self._verdict(case).codes:
            raise Violation(f"{why} after: {expects.what}; {self._verdict(case)}")
        if code == NOT_STARTED:
            case.number = max(case.number, number_of(manager.report()["run"]))
        if code in (NOT_STARTED, UNKNOWN) and case.is_up_in(manager.report()["run"]):
            # cmappserver died during that launch, and the administrator has asked once more since.
            self.tell(f"{why}: it was owed the result of the run before")
            case.start_at = time.monotonic() + 0.5
            return
        left = self._left_of(case)
        if left:
            raise Violation(f"{why}, and there is {told(left)}")
        self.tell(f"{why}")
        case.echo = frozenset({code}) if self._may_be_unheard(case) else frozenset()
        if expects is not None and expects.awaits:
            expects.rests = True
            return
        case.expects, case.up = None, False
        case.start_at = time.monotonic() + self._chance.uniform(0, 0.5)

    def _may_be_unheard(self, case: Case) -> bool:
        """Whether the link may have been lost while the manager said that it knows the result.

        It waits for the answer for a second.
        """
        now = time.monotonic()
        cut = now < self.links_disturbed[self.stage.host_of(case.name)] + 5
        return cut or self.was_away(now - 5) or now < self.frozen_until + 5

    def _may_have_lapsed(self, case: Case) -> bool:
        """Whether cmappserver was dead so long, again and again, that nobody heard its manager."""
        lease = case.part.lease
        return lease is not None and self.in_the_dark(time.monotonic() - lease)

    def _left_of(self, case: Case) -> list[Process]:
        left = [one for one in case.own if one.role != "young" or one.run]
        for _ in range(50):  # what was just executed says what it is in a moment
            if not [one for one in case.own if one not in left]:
                break
            time.sleep(0.02)
            self.look_at(case)
        return left or case.own

    def _may_be_busy(self, case: Case) -> bool:
        """A link that stands still does not tell that the manager at its end was killed."""
        return time.monotonic() < self.links_disturbed[self.stage.host_of(case.name)] + 10

    def _check_report(self, manager: Manager, code: int) -> None:
        if code >= 0 and manager.report().get("code") != code:
            raise Violation(f"manager {manager.number} has ended with {code}: {manager.report()}")
        if "Traceback" in manager.said():
            raise Violation(f"manager {manager.number}: {manager.said()}")

    def _see_leaving(self) -> None:
        for one in tuple(self.leaving):
            manager, codes = one
            if manager.code is not None:
                self._check_report(manager, manager.code)
                if manager.code not in codes:
                    raise Violation(f"manager {manager.number} has ended with {manager.code}")
                self.leaving.remove(one)

    # The administrator -------------------------------------------------------------------

    def control(self, *words: str, then: Callable[[str], None] | None = None) -> None:
        """Ask cmappserver, and again if it dies over it."""
        self.errands.append(Errand(self.stage.control(*words), then))

    def command(self, case: Case, *words: str) -> None:
        """As `control`; what is expected of the application waits for the answer."""
        expects = case.expects
        assert expects is not None
        expects.awaits += 1

        def answered(_answer: str) -> None:
            expects.awaits -= 1

        self.control(*words, then=answered)

    def upgrade(self) -> None:
        if self.upgrading is None:
            self.upgrading = self.stage.control("upgrade")
            self.upgrade_began = time.monotonic() - 1

    def _see_upgrade(self) -> None:
        """Whether it was replaced."""
        if self.upgrading is None or self.upgrading.code is None:
            return
        # While a file is no TOML it is refused; and one that dies over it need not be replaced.
        hindered = self.broken_until >= self.upgrade_began or self.main_is_broken
        code = self.upgrading.code
        if code != 0 and not hindered and not self.in_the_dark(self.upgrade_began):
            raise Violation(f"cmappctl upgrade has ended with {code}")
        self.tell(f"  cmappctl upgrade has ended with {code}")
        self.upgrading, self.replaced = None, time.monotonic()

    def _answer_errands(self) -> None:
        for errand in tuple(self.errands):
            code = errand.control.code
            if code is None:
                continue
            # It may have been done, or be forgotten: the link ended before the answer came.
            unheard = "cannot tell how" in errand.control.answer()
            if code == 0 and not unheard:
                self.errands.remove(errand)
                if errand.then is not None:
                    errand.then(errand.control.answer())
            elif self.was_away(time.monotonic() - 30):
                if self.down_since is None:
                    self.errands.remove(errand)
                    # What was asked may have been done, or have reached nobody.
                    again = self.stage.control(*errand.control.words)
                    self.errands.append(replace(errand, control=again))
            else:
                words = " ".join(errand.control.words)
                raise Violation(f"cmappctl {words}: {code}: {errand.control.answer()}")

    # The logs ----------------------------------------------------------------------------

    def _read_logs(self) -> None:
        self._logs_read = time.monotonic()
        for name, log in self.logs.items():
            if not log.settles:
                log.read()
            if log.wrong:
                raise Violation(f"the log of {name}: {'; '.join(log.wrong[:5])}")
        said = (self.stage.folder / "server.log").read_text()
        if "Traceback" in said:
            raise Violation("there is a traceback in server.log")
        untold = collections.Counter[str]()
        for name, lines in logs.UNTOLD.findall(said):
            untold[name] += int(lines)
        for name, log in self.logs.items():
            log.told_elsewhere = untold[name]

    def _await_logs(self) -> None:
        """Wait until each log has what was written up to now."""
        end = time.monotonic() + CALM
        written = {name: log.written() for name, log in self.logs.items()}
        while written:
            wrong = {name: self._wrong_with(name, counts) for name, counts in written.items()}
            written = {name: counts for name, counts in written.items() if wrong[name]}
            if written and time.monotonic() > end:
                text = "; ".join(f"{name}: {', '.join(wrong[name][:3])}" for name in written)
                raise Violation(f"logs are not whole: {text}")
            self.run_for(0.05)

    def _wrong_with(self, name: str, written: dict[str, tuple[int, int]]) -> list[str]:
        log = self.logs[name]
        log.read()
        return [*log.wrong, *log.behind(written), *log.invented()]

    # Quiet -------------------------------------------------------------------------------

    def calm(self, what: str) -> None:
        """No more faults: everything comes up, and everything that was written is in the logs."""
        self.tell(f"calm: {what}")
        end = time.monotonic() + CALM
        while True:
            self.tick()
            # What waits for its turn is still done, and a lease takes its time.
            if self.disturbed or self.later or any(self.queues.values()):
                end = max(end, time.monotonic() + CALM)
            waiting = [name for name, case in self.cases.items() if not case.idle]
            busy = self.later or self.disturbed or self.errands or self.upgrading is not None
            if not waiting and not busy:
                break
            if time.monotonic() > end:
                raise Violation(f"waited in vain for {waiting}")
            time.sleep(TICK)
        self._await_logs()
        self.ask()
        self.tell(f"calm: all is up after {what}")

    # What is said ------------------------------------------------------------------------

    def ask(self) -> None:
        """Whether what cmappctl says is what is."""
        end, tries = time.monotonic() + LATE, 0
        while self.now_answers():
            before = self.world.look()
            said = self.stage.status()
            after = self.world.look()
            doubts = [f"{name} is missing" for name in self.cases if name not in said]
            for name, one in said.items():
                was, is_ = before.get(name, []), after.get(name, [])
                self._refuse_death(name, one, was, is_)
                doubts += self._doubt_life(name, one, [*was, *is_])
            if not doubts:
                return
            tries += 1
            if tries > 3 and time.monotonic() > end:
                raise Violation(f"status lies: {doubts}")
            self.run_for(TICK)

    def _refuse_death(
        self, name: str, said: dict[str, object], before: list[Process], after: list[Process]
    ) -> None:
        """What lived before and after it was said to be gone was not gone."""
        lived = [one for one in before if one.role not in BESIDE and one.run and one in after]
        if said["phase"] in ("stopped", "failed", "backoff") and lived:
            raise Violation(f"status: {name} is {said['phase']}, and there is {told(lived)}")

    def _doubt_life(
        self, name: str, said: dict[str, object], around: list[Process]
    ) -> Iterator[str]:
        """What is said to run may have ended just now; but not again and again."""
        if said["phase"] != "running" or not self.cases[name].part.has_main:
            return
        if not any(one.pid == said["pid"] and one.role == "main" for one in around):
            yield f"{name} runs with pid {said['pid']}, and there is {told(around)}"

    def restart_guest(self) -> None:
        """cmappserver is told to end, in order, and is started again: all are stopped, and up."""
        server = self.stage.server
        assert server is not None
        self.tell("cmappserver is told to end")
        for case in self.cases.values():
            if case.part.managed:
                case.expect_stop("cmappserver is told to end", 212)
            else:
                case.expect_start("cmappserver is told to end, and starts it anew")
        self.down_since = time.monotonic()
        self.stage.server = None
        self.stopping = True
        server.signal(signal.SIGTERM)
        end = time.monotonic() + CALM
        while server.running:
            if time.monotonic() > end:
                raise Violation("cmappserver does not end")
            self.run_for(TICK)
        if server.process.returncode != 0:
            raise Violation(f"cmappserver has ended with {server.process.returncode}")
        self._look()
        if left := [one for case in self.cases.values() for one in case.own]:
            raise Violation(f"cmappserver has ended, and there is {told(left)}")
        self.stopping = False
        self.tell("cmappserver is started again")
        self.stage.start_server()
        self.calm("a restart of the guest's cmappserver")

    # The end -----------------------------------------------------------------------------

    def finish(self) -> None:
        """Half of the managers are stopped by their cluster, the rest with the guest."""
        self.calm("the faults have ended")
        self.ending = True
        for number, case in enumerate(self.cases.values()):
            if case.manager is not None and number % 2:
                case.expect_stop("its manager is told to stop it", 0)
                case.manager.terminate()
        self._await_rest("its manager was told to stop it", lambda case: case.expects is None)
        for case in self.cases.values():
            if case.up:
                case.expect_stop("cmappserver is told to end", 212)
        assert self.stage.server is not None
        self.tell("cmappserver is told to end")
        self.stopping = True
        self.stage.server.signal(signal.SIGTERM)
        self._await_rest("cmappserver was told to end", lambda case: case.expects is None)
        if (code := self.stage.server.wait(CALM)) != 0:
            raise Violation(f"cmappserver has ended with {code}")
        self._look()
        if left := [one for case in self.cases.values() for one in case.own]:
            raise Violation(f"cmappserver has ended, and there is {told(left)}")
        self._await_logs()

    def _await_rest(self, what: str, done: Callable[[Case], bool]) -> None:
        end = time.monotonic() + CALM
        while True:
            self.tick()
            for case in self.cases.values():
                case.start_at = None
            if all(map(done, self.cases.values())):
                return
            if time.monotonic() > end:
                left = [name for name, case in self.cases.items() if not done(case)]
                raise Violation(f"{what}: waited in vain for {left}")
            time.sleep(TICK)

    def close(self) -> None:
        """End whatever is left, in whatever state it is."""
        for case in self.cases.values():
            if case.manager is not None:
                case.manager.process.kill()
                case.manager.process.wait()
        rivals = [case.expects.rival for case in self.cases.values() if case.expects is not None]
        for manager in (*rivals, *(one for one, _ in self.leaving)):
            if manager is None:
                continue
            manager.process.kill()
            manager.process.wait()
        controls = [errand.control for errand in self.errands]
        for control in (*controls, *([self.upgrading] if self.upgrading is not None else [])):
            control.process.kill()
            control.process.wait()
        for server in self.stage.servers:
            if server.running:
                server.kill()
        while left := self.world.look():
            for one in (one for each in left.values() for one in each):
                self.stage.kill(one.pid, one.start, signal.SIGKILL)
        self.stage.close()
        remove_cgroups(self.stage.state)


def can_hide() -> bool:
    """Whether cmappserver can give each run a cgroup, by which all of its processes are known."""
    with open("/proc/self/mounts") as file:
        mounts = [line.split() for line in file]
    roots = [fields[1] for fields in mounts if fields[2] == "cgroup2"]
    return os.geteuid() == 0 and any(os.access(root, os.W_OK) for root in roots)
