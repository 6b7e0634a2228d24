"""One application: a task with an inbox, which alone changes it.

The lifecycle decides, the runner acts, the custody says whose it is. Whatever happens, a
word from a peer, the end of a process, a new definition, is an item in the inbox; while
there is none, the task sleeps until the time itself brings an event.
"""

import asyncio
import time
from functools import partial

from msgspec.structs import replace

from cmappd.core import lifecycle
from cmappd.core.events import (
    Action,
    Check,
    Conclude,
    Define,
    Destroy,
    Event,
    Exited,
    FindMain,
    Gone,
    Released,
    Require,
    Spawn,
    Stop,
    StopDependants,
    Terminate,
)
from cmappd.core.lifecycle import App
from cmappd.core.messages import AppStatus, Ended, State
from cmappd.core.state import REST, Cause, Goal, Part, Phase
from cmappd.core.wording import INFO, WARNING
from cmappd.server.application import adoption
from cmappd.server.application.custody import Custody
from cmappd.server.application.desk import Desk, turn_away
from cmappd.server.application.inbox import Inbox
from cmappd.server.application.keeper import Keeper, owner_in
from cmappd.server.application.narration import named, narrate
from cmappd.server.application.runner import Runner
from cmappd.server.application.status import Notes, describe
from cmappd.server.shared.items import Item, Needed, Parted, ProblemChanged, Said, Stirred
from cmappd.server.shared.log import LEVELS
from cmappd.server.shared.store import Record
from cmappd.server.shared.world import World
from cmappd.system.proc import Identity

SAVE_AGAIN = 5.0  # seconds after a record could not be written
ACT_AGAIN = 0.1  # seconds after there was no free descriptor to act with


class Supervisor:
    """Supervises one application from its first definition until it has left."""

    __slots__ = (
        "_desk",
        "_inbox",
        "_keeper",
        "_left",
        "_put_off",
        "_world",
        "app",
        "custody",
        "notes",
        "runner",
    )

    def __init__(self, world: World, app: App) -> None:
        self._world = world
        self._inbox: Inbox[Item] = Inbox()
        self._left = False  # the task has ended; nothing is taken from the inbox any more
        self._put_off: list[Action] = []  # what is to be tried again
        self.app = replace(app, maintenance=world.maintenances.find(app.name))
        self._keeper = Keeper(world)
        self.custody = Custody()
        self.custody.heed(self.app)
        self._desk = Desk(self, world.maintenances)
        self.runner = Runner(world, app.name, self._inbox.post)
        self.notes = Notes(app.definition)

    def post(self, item: Item) -> None:
        """Tell the application something; the task takes it in order."""
        if not self._left:
            self._inbox.post(item)
        elif isinstance(item, Said):
            turn_away(item, self._why_not())

    @property
    def at_rest(self) -> bool:
        """Whether nothing runs, and nothing will by itself."""
        return self.app.phase in REST

    # The task ------------------------------------------------------------------------

    async def live(self) -> None:
        """Supervise until the application may leave, and it and its result have gone."""
        for action in lifecycle.pending(self.app):
            self._carry_out(action)
        try:
            while not self._has_left():
                if self._inbox.empty:
                    self.save()
                item = await self._inbox.take(self._wake())
                if item is None:
                    # After a pause of this process the time is over and words wait to be read,
                    # both at once: one turn of the loop, and the words are heard first.
                    await asyncio.sleep(0)
                self._handle(item)
        finally:
            self._leave()
            self.save(always=True)
            self.runner.close(remove=self.at_rest)

    def _leave(self) -> None:
        """What has happened is to be in the record; and nobody may wait in vain for an answer."""
        self._left = True
        while not self._inbox.empty:
            for item in self._inbox.drain():
                if isinstance(item, Said):
                    turn_away(item, self._why_not())
                else:
                    self._handle(item)
        self._desk.close(self._why_not())

    def _why_not(self) -> tuple[str, str]:
        """Why nothing can be asked of it any more: the reason, and a sentence."""
        if self._world.ending:
            return "operator", self._world.ending
        return "unknown-app", f"there is no application '{self.app.name}' in this guest any more"

    def _has_left(self) -> bool:
        if not self.at_rest:
            return False
        if self._world.ending and (self.custody.link is None or self.app.maintenance is not None):
            return True  # nobody is there, or may be told
        leaving = self.app.removed or bool(self._world.ending)
        return leaving and self.custody.undelivered is None

    def _handle(self, item: Item | None) -> None:
        try:
            self._take(item)
            self._let_time_pass()
            self._desk.publish()
        except Exception:  # one application's trouble stays its own
            log = self._world.log_of(self.app.name)
            log.exception("cannot handle %r", item)
            if isinstance(item, Said):
                item.link.hang_up()  # or it would wait for its answer for ever

    def _take(self, item: Item | None) -> None:
        match item:
            case None:
                return
            case Said(link, message):
                self._desk.hear(link, message)
            case Gone(run, part) if not self.runner.deaths.is_gone(run, part):
                return
            case Exited():
                self.step(self.runner.deaths.confirmed(item))
            case Parted(link):
                self._desk.parted(link)
            case ProblemChanged(problem):
                self.notes.problem = problem
            case Needed() | Stirred():
                self._hear_of_others(item)
            case Define(definition):
                before = self.app.definition
                self.step(item)
                if definition.requires != before.requires:
                    self._world.dependencies.redefined()
                self.notes.define(definition)
                self.runner.output.redefine(definition)
                if self.app.run is not None:
                    self.runner.confinement.redefine(definition)
            case _:
                self.step(item)

    def look(self) -> None:
        """Look at what nothing tells of: call it every few seconds."""
        killed = self.runner.confinement.lost(self.app, time.monotonic())
        if killed is not None:
            self.post(killed)
        self.runner.output.look()

    def _wake(self) -> float | None:
        again = time.monotonic() + SAVE_AGAIN if self.notes.unsaved else None
        instants = lifecycle.wake(self.app), self._lease_end(), again
        return min((one for one in instants if one is not None), default=None)

    def _lease_end(self) -> float | None:
        owner, rule = self.custody.owner, self.app.definition.manager
        yielding = self.app.run is not None and self.app.run.yielding
        ending = self.app.goal is Goal.DOWN and not yielding
        if owner is None or rule.on_lost != "stop" or ending:
            return None
        return owner.expires(rule.lease)

    def _let_time_pass(self) -> None:
        now = time.monotonic()
        # What was said in time, and waits to be heard, is not late.
        while self._inbox.empty and (event := lifecycle.due(self.app, now)) is not None:
            self.step(event)
        if (end := self._lease_end()) is not None and now >= end:
            self.custody.expire()
            self.step(Stop(Cause.LEASE))

    # Steps and actions ---------------------------------------------------------------

    def step(self, event: Event) -> None:
        """Give the lifecycle an event, and carry out what it asks for."""
        before, now = self.app, time.monotonic()
        if isinstance(event, Stop):
            event = self._world.dependencies.patient(before, event)
        self.app, actions = lifecycle.step(self.app, event, now)
        if self.app.last is not None and self.app.last is not before.last:
            self.notes.remember(self.app.last, launched=before.phase is not Phase.WAITING)
        if self.app.phase is not before.phase:
            self.notes.since = time.time()
        if self.custody.heed(self.app):
            self._deliver()
        self.runner.heed(before, self.app)
        for action in actions:
            self._carry_out(action)
        if self.app.phase is not before.phase:
            self._world.dependencies.changed(self.app)
        # The cluster does not wait for our log.
        for line in narrate(before, self.app, now, self.runner.checks.failure):
            self.log(*line)

    def _carry_out(self, action: Action, *, again: bool = False) -> None:
        """Act; what takes a descriptor, and there is none, is done when there is one again."""
        if again:
            self._put_off.remove(action)
            if self._left or not lifecycle.concerns(self.app, action):
                return
        elif action in self._put_off:
            return
        try:
            self._act(action)
        except OSError as error:
            if not again:
                name = type(action).__name__.lower()
                self.log(f"cannot {name} yet, trying again: {error.strerror}", WARNING)
            self._put_off.append(action)
            loop = asyncio.get_running_loop()
            loop.call_later(ACT_AGAIN, partial(self._carry_out, action, again=True))

    def _act(self, action: Action) -> None:
        definition = self.app.definition
        match action:
            case Require():
                self._world.dependencies.require(self.app)
            case StopDependants(cause):
                self._world.dependencies.stop_dependants(self.app, cause)
            case Spawn(run, part):
                if part in (Part.START, Part.MAIN):
                    self.notes.launch()
                    self.runner.main = None
                self.save()  # before a process can have this run
                self.runner.spawn(run, part, definition)
            case FindMain(run):
                self.runner.find_main(run, definition)
            case Terminate(run, whole):
                self.save()  # before it can end: that it was told to is the cause
                self.runner.terminate(run, definition, whole=whole)
            case Destroy(run):
                self.save()  # the same
                self.runner.destroy(run)
            case Check(run):
                self.runner.checks.start(run, definition)
            case Conclude(outcome, launched):
                tail = self.runner.output.tail() if launched else ""
                texts = self.runner.checks.output, tail
                self.custody.conclude(Ended(0, self.app.name, outcome, *texts))
                self._deliver()

    def _deliver(self) -> None:
        self.save()  # what was told must be known after a crash, too
        self.custody.deliver()

    def _hear_of_others(self, item: Needed | Stirred) -> None:
        if isinstance(item, Needed):
            event: Event | None = self._world.dependencies.needed(self.app, item.by)
        else:
            event = self._world.dependencies.news(self.app)
        if event is None or (self._world.ending and not isinstance(event, Released)):
            return
        if isinstance(item, Needed) and self.at_rest:
            self.log(f"started, because {item.by} requires it")
        self.step(event)

    # What survives us ----------------------------------------------------------------

    def resume(self, record: Record) -> None:
        """Go on where an earlier cmappserver stopped, before the task begins."""
        now = time.monotonic()
        owner = owner_in(record, self.app.definition, now)
        self.custody.resume(owner, record.undelivered, record.concluded)
        self.notes.resume(record)
        self._keeper.resume(self.app, self.custody, self.notes)
        self.app = lifecycle.resume(self.app, now, heard=self.runner.notices.was_passed_on)
        if self.app.run is not None:
            self.log(f"taken up again ({named(self.app.run)})")
            adoption.resume(self.runner, self.app, *record.processes)

    def take_up(self, main: Identity, *, owner_known: bool) -> None:
        """Supervise a run that was found, and of which there is no record.

        Where its owner is not known, and may be gone, its lease begins now.
        """
        self.log(f"found and taken up, pid {main.pid}")
        definition = self.app.definition
        if not owner_known and definition.manager.on_lost == "stop" and not definition.autostart:
            self.custody.await_owner(time.monotonic())
        adoption.take_up(self.runner, self.app, main)

    def heard(self) -> None:
        """The owner has polled: note it where its silence would end the application."""
        if self.app.definition.manager.on_lost == "stop":
            self.save()

    def save(self, *, always: bool = False) -> None:
        """Keep what is to survive us, if it has changed; or ``always``, with all that is known."""
        self._keeper.save(self.app, self.custody, self.runner, self.notes, always=always)

    def log(self, text: str, severity: int = INFO) -> None:
        """Write a line about it to the server's log."""
        self._world.log_of(self.app.name).log(LEVELS[severity], "%s", text)

    # What others see -----------------------------------------------------------------

    def status(self) -> AppStatus:
        """Everything that can be said of the application now."""
        return describe(self.app, self.custody, self.runner, self.notes, time.monotonic())

    def state(self, seq: int) -> State:
        """The status as a message."""
        return State(seq, self.status(), self._world.boot_id, self._world.epoch)

    def visible(self) -> tuple[object, ...]:
        """What its owner is told of when it changes."""
        app, run = self.app, self.app.run
        described: tuple[object, ...] = ()
        if run is not None:
            awaited = run.detail if app.phase is Phase.WAITING else ""
            described = run.id, run.pid, run.condition, run.oom_kills, run.yielding, awaited
        facts = app.goal, app.phase, described, app.removed, app.maintenance, app.definition
        return *facts, self.notes.problem, self.runner.checks.problem
