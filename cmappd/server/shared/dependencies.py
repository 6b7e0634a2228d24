"""Who requires whom, among the applications of this guest, and what they tell each other for it.

The lifecycle of each says what it wants of the others: ``Require`` and ``StopDependants``. Here
that becomes words in their inboxes, and what they come to becomes an event for who asked. Each
word is answered in the task of the application that it is for, from what is the case then; nobody
changes another one, and what was overtaken means nothing.

An application is asked to start where somebody who waits needs it. What is being stopped is asked
when it is at rest, so that a stop comes to its end. Its coming to rest fails those who wait for
it only if it was asked before.
"""

from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Protocol

from cmappd.core.events import (
    Awaited,
    Event,
    NotProvided,
    Provided,
    Released,
    Start,
    Stop,
)
from cmappd.core.lifecycle import App
from cmappd.core.state import ALIVE, REQUESTED, REST, Cause, Goal, Phase
from cmappd.core.wording import cause_text, outcome_text
from cmappd.server.shared.items import Needed, Stirred

# Seconds for one application to end after its time limits, which are kept in tasks, are over.
MARGIN = 5.0
DETAIL_LENGTH = 1000
NAMED = 10  # applications in a text; it must find room in a message beside others


class Member(Protocol):
    """An application, with its inbox."""

    @property
    def app(self) -> App:
        """Its state now."""

    def post(self, item: Needed | Stirred | Stop) -> None:
        """Tell it something; it takes it in order."""


class Dependencies:
    """All applications of a registry, as they require each other."""

    __slots__ = ("_asked", "_dependants", "_members")

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        # By the name of who waits: which of those that it requires have been asked to start.
        self._asked: defaultdict[str, set[str]] = defaultdict(set)
        self._dependants: dict[str, list[str]] | None = None  # None: to be made anew

    # Who is there --------------------------------------------------------------------

    def join(self, member: Member) -> None:
        """An application is there, from now on or again."""
        name = member.app.name
        if name in self._members:
            self._dependants = None
        elif self._dependants is not None:  # made anew for each of a thousand, it would be dear
            self._note(member, self._dependants)
        self._members[name] = member
        self._asked.pop(name, None)
        for waiting in self._waiting_for(name):
            self._asked[waiting.app.name].discard(name)
            member.post(Needed(waiting.app.name))

    def leave(self, name: str) -> None:
        """An application is not there any more."""
        app = self._members.pop(name).app
        self._asked.pop(name, None)
        self.changed(app)
        self._dependants = None

    def redefined(self) -> None:
        """Some application requires others than it did."""
        self._dependants = None
        for member in self._members.values():
            if member.app.run is not None and member.app.run.yielding:
                member.post(Stirred())

    # Up ------------------------------------------------------------------------------

    def require(self, app: App) -> None:
        """Carry out ``Require``: have started what the waiting application requires."""
        self._asked[app.name] = set()
        for name in app.definition.requires:
            self._tell(name, Needed(app.name))
        if not self._members.keys() >= {*app.definition.requires} or not app.definition.requires:
            self._tell(app.name, Stirred())  # nobody else says how that stands

    def needed(self, app: App, by: str) -> Start | None:
        """What ``Needed`` means to an application now; nothing, if nobody waits any more."""
        waiting = self._members.get(by)
        if waiting is None or waiting not in self._waiting_for(app.name):
            return None
        waiting.post(Stirred())
        being_stopped = app.goal is Goal.DOWN and app.phase not in REST  # see ``changed``
        if being_stopped or app.name in self._asked[by]:
            return None
        self._asked[by].add(app.name)
        return None if app.maintenance is not None else Start()

    def changed(self, app: App) -> None:
        """The phase of an application has changed: tell those whom it may concern."""
        for waiting in self._waiting_for(app.name):
            if app.phase in REST and app.name not in self._asked[waiting.app.name]:
                self._tell(app.name, Needed(waiting.app.name))
            waiting.post(Stirred())
        for name in self._required(app):
            run = self._members[name].app.run if name in self._members else None
            if run is not None and run.yielding:
                self._members[name].post(Stirred())

    def news(self, app: App) -> Event | None:
        """What ``Stirred`` means to an application now."""
        if app.run is None:
            return None
        if app.phase is Phase.WAITING:
            return self._provision(app, app.run.id, app.run.detail)
        if app.run.yielding and not any(map(_lives, self._all_dependants(app.name))):
            return Released(app.run.id)
        return None

    def _provision(self, app: App, run: str, told: str) -> Event | None:
        lacking = []
        for name in app.definition.requires:
            if name not in self._members:
                return NotProvided(run, f"there is no application '{name}' in this guest")
            required = self._members[name].app
            asked = name in self._asked[app.name]
            if required.phase in REST and asked and not _was_stopped(required):
                return NotProvided(run, f"'{name}', which it requires, {_why(required)}")
            if required.phase is not Phase.RUNNING:
                lacking.append(f"{name} ({required.phase})")
        detail = _some_of(lacking)
        if not lacking:
            return Provided(run)
        return Awaited(run, detail) if detail != told else None

    # Down ----------------------------------------------------------------------------

    def patient(self, app: App, stop: Stop) -> Stop:
        """A stop, with the time that those who require it may need to end before it.

        After a lease nobody may wait: the application could run elsewhere then.
        """
        if stop.cause is Cause.LEASE:
            return stop
        return Stop(stop.cause, stop.detail, self._longest_stop(app.name))

    def stop_dependants(self, app: App, cause: Cause) -> None:
        """Carry out ``StopDependants``: stop all that requires the application."""
        detail = f"'{app.name}' was {cause_text(cause)}"
        for dependant in self._all_dependants(app.name):
            if dependant.app.phase not in REST:
                dependant.post(Stop(Cause.REQUIRED, detail))
        self._tell(app.name, Stirred())

    def holding_up(self, app: App) -> str:
        """Who has to end before a yielding application is asked to; for people."""
        return _some_of([m.app.name for m in self._all_dependants(app.name) if _lives(m)])

    def _longest_stop(self, name: str) -> float:
        """Seconds that the longest chain of dependants may take to end, one after the other."""
        times = {m.app.name: _stop_time(m.app) for m in self._all_dependants(name)}
        above = {one: [m.app.name for m in self._direct_dependants(one)] for one in times}
        longest: dict[str, float] = {}
        try:
            for one in TopologicalSorter(above).static_order():
                longest[one] = times[one] + max((longest[m] for m in above[one]), default=0.0)
        except CycleError:  # a definition of old, from a record, may close one
            return sum(times.values())
        return max(longest.values(), default=0.0)

    # The graph, as it is in force -------------------------------------------------------

    def _direct_dependants(self, name: str) -> list[Member]:
        if self._dependants is None:
            self._dependants = {}
            for member in self._members.values():
                self._note(member, self._dependants)
        names = self._dependants.get(name, [])
        return [self._members[one] for one in names if one in self._members]

    @staticmethod
    def _note(member: Member, dependants: dict[str, list[str]]) -> None:
        for required in member.app.definition.requires:
            dependants.setdefault(required, []).append(member.app.name)

    def _all_dependants(self, name: str) -> list[Member]:
        """Those that require it, be it through others; each once."""
        found: dict[str, Member] = {}
        names = [name]
        while names:
            for member in self._direct_dependants(names.pop()):
                if member.app.name not in found and member.app.name != name:
                    found[member.app.name] = member
                    names.append(member.app.name)
        return list(found.values())

    def _waiting_for(self, name: str) -> list[Member]:
        direct = self._direct_dependants(name)
        return [member for member in direct if member.app.phase is Phase.WAITING]

    def _required(self, app: App) -> Iterator[str]:
        """What it requires, be it through others; each once."""
        found = set()
        names = list(app.definition.requires)
        while names:
            name = names.pop()
            if name not in found:
                found.add(name)
                yield name
                if name in self._members:
                    names += self._members[name].app.definition.requires

    def _tell(self, name: str, item: Needed | Stirred) -> None:
        if name in self._members:
            self._members[name].post(item)


def _some_of(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _lives(member: Member) -> bool:
    return member.app.phase in ALIVE


def _stop_time(app: App) -> float:
    if app.phase not in ALIVE:
        return 0.0
    stop = app.definition.stop
    return stop.timeout * (2 if stop.after is not None else 1) + MARGIN


def _was_stopped(required: App) -> bool:
    """Whether a request ended it: then those that require it have been told to stop, too."""
    may_start = required.maintenance is None and not required.removed
    return may_start and required.last is not None and required.last.cause in REQUESTED


def _why(required: App) -> str:
    """Why an application that was asked to start is at rest."""
    if required.maintenance is not None:
        return "is under maintenance"
    if required.removed:
        return "is removed from the configuration"
    if required.last is None:
        return "was not started"
    return outcome_text(required.last)[:DETAIL_LENGTH]
