"""Two, three and four applications that require each other, in every order of events.

Each is its real lifecycle with an inbox, between them are the real ``Dependencies``; a world of
processes does what it is told, and ends when it likes. From nothing running all requests, failures
and deliveries are tried in every state, until nothing new is found; that words are in flight is
part of the state, and how many requests and failures come in between is bounded.

What must hold:

launch      an application is launched only when all that it requires are RUNNING
order       in a stop that was wished no signal is sent to an application while anything lives
            of those that require it, be it through others; but for a kill, and for a run that
            was ending already, because of a restart
rest        when all words are delivered, and all processes have done as they were told, every
            application is STOPPED, FAILED or RUNNING: nobody waits for a deadline
stop        from every state a stop of all ends in all STOPPED
start       from every state a start of the top ends in all RUNNING
causes      nobody is stopped but by a request, or because one that it requires was; nobody
            fails to start but for one that has ended by itself, or could not be started
"""

from collections import deque
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from cmappd.core import lifecycle
from cmappd.core.events import (
    Action,
    Destroy,
    Event,
    Exited,
    Kill,
    Launched,
    NotProvided,
    Require,
    Restart,
    Spawn,
    Start,
    Stop,
    StopDependants,
    Terminate,
    TimedOut,
)
from cmappd.core.lifecycle import App
from cmappd.core.state import ALIVE, Cause, ExitStatus, Goal, Maintenance, Phase
from cmappd.server.shared.dependencies import Dependencies
from cmappd.server.shared.items import Needed, Stirred
from tests.core.definitions import definition

Item = Event | Needed | Stirred

SHAPES: dict[str, dict[str, tuple[str, ...]]] = {
    "pair": {"db": (), "web": ("db",)},
    "chain": {"db": (), "mid": ("db",), "web": ("mid",)},
    "fork": {"db": (), "disk": (), "web": ("db", "disk")},
    "diamond": {"db": (), "left": ("db",), "right": ("db",), "web": ("left", "right")},
}
# Requests and failures that may come while words are in flight.
IN_FLIGHT = {"pair": 2, "chain": 1, "fork": 1, "diamond": 1}
REST = {Phase.STOPPED, Phase.FAILED}
NOW = 1000.0


class Node:
    """One application, its inbox, and its process."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.inbox: list[Item] = []
        self.process: str | None = None  # the run whose process lives
        self.told = False  # to end
        self.hasty = False  # the live run was killed, or is ended by a restart

    def post(self, item: Item) -> None:
        # What is asked twice in one breath is answered as if it were once.
        if not (isinstance(item, Needed | Stirred) and item in self.inbox[-1:]):
            self.inbox.append(item)

    def fork(self) -> "Node":
        node = Node(self.app)
        node.inbox, node.process = list(self.inbox), self.process
        node.told, node.hasty = self.told, self.hasty
        return node


class System:
    """All of them."""

    def __init__(self, nodes: list[Node], dependencies: Dependencies) -> None:
        # Of four, what is asked for is kept simple.
        self.requests = REQUESTS if len(nodes) < 4 else REQUESTS[:2]
        self.nodes = {node.app.name: node for node in nodes}
        self.dependencies = dependencies

    def fork(self) -> "System":
        nodes = [node.fork() for node in self.nodes.values()]
        dependencies = Dependencies()
        for node in nodes:
            dependencies._members[node.app.name] = node
        for name, asked in self.dependencies._asked.items():
            dependencies._asked[name] = set(asked)
        return System(nodes, dependencies)

    # What may happen -----------------------------------------------------------------

    def deliver(self, name: str) -> None:
        node = self.nodes[name]
        item = node.inbox.pop(0)
        event: Event | None
        match item:
            case Needed(by):
                event = self.dependencies.needed(node.app, by)
            case Stirred():
                event = self.dependencies.news(node.app)
            case _:
                event = item
        if event is not None:
            self.step(node, event)

    def step(self, node: Node, event: Event) -> None:
        before = node.app
        if isinstance(event, Kill | Restart) and before.phase in ALIVE:
            node.hasty = True
        if isinstance(event, Stop):
            event = self.dependencies.patient(before, event)
        node.app, actions = lifecycle.step(before, event, NOW)
        for action in actions:
            self.obey(node, event, action)
        if node.app.phase is not before.phase:
            self.dependencies.changed(node.app)
        last = node.app.last
        if last is not None and last is not before.last and last.cause is Cause.REQUIRED:
            assert "was stopped" in last.detail, "causes"
        if last is not None and last is not before.last and last.cause is Cause.NOT_STARTED:
            ends = [self.nodes[name].app.last for name in node.app.definition.requires]
            assert {end.cause for end in ends if end} & {Cause.EXIT, Cause.NOT_STARTED}, "causes"

    def obey(self, node: Node, event: Event, action: Action) -> None:
        match action:
            case Require():
                self.dependencies.require(node.app)
            case StopDependants(cause):
                self.dependencies.stop_dependants(node.app, cause)
            case Spawn(run):
                assert node.process is None
                needs = node.app.definition.requires
                assert all(self.nodes[n].app.phase is Phase.RUNNING for n in needs), "launch"
                node.process, node.told, node.hasty = run, False, False
                node.post(Launched(run, 1))
            case Terminate():
                node.told = node.process is not None
                if node.app.goal is Goal.DOWN and not node.hasty:
                    alive = [one for one in self.above(node) if self.nodes[one].process]
                    assert not alive, f"order: {node.app.name} before {alive}"
            case Destroy():
                assert isinstance(event, Kill | Launched), "order"
                node.told = node.process is not None

    def above(self, node: Node) -> set[str]:
        found: set[str] = set()
        while True:
            wanted = found | {node.app.name}
            more = {n for n, o in self.nodes.items() if wanted & {*o.app.definition.requires}}
            if more <= found:
                return found
            found |= more

    def end(self, node: Node, code: int) -> None:
        assert node.process is not None
        node.post(Exited(node.process, ExitStatus(code=code), empty=True))
        node.process, node.told = None, False

    # Where it comes to by itself ---------------------------------------------------------

    def moves(self) -> Iterator["Move"]:
        """What happens sooner or later."""
        for name, node in self.nodes.items():
            if node.inbox:
                yield Move("deliver", name)
            if node.told and node.process is not None:
                yield Move("end", name)
            ready = node.app.phase is Phase.STARTING and node.app.run and node.app.run.pid
            if (ready or node.app.phase is Phase.BACKOFF) and not node.inbox:
                yield Move("time", name)

    def troubles(self) -> Iterator["Move"]:
        """What may happen, or be asked for."""
        for name, node in self.nodes.items():
            for request in self.requests:
                yield Move("ask", name, request)
            if node.process is not None and not node.told:
                yield Move("end", name)

    def make(self, move: "Move") -> "System":
        after = self.fork()
        node = after.nodes[move.name]
        match move.kind:
            case "deliver":
                after.deliver(move.name)
            case "end":
                after.end(node, 0 if node.told else 1)
            case "time":
                after.step(node, TimedOut())
            case "ask":
                assert move.request is not None
                after.step(node, move.request)
        for one in after.nodes.values():
            assert (one.process is None) or one.app.phase in ALIVE, "rest"
        return after

    @property
    def is_calm(self) -> bool:
        return not any(True for _ in self.moves())

    def calmed(self) -> "System":
        """The state that it comes to by itself."""
        way, system = {self.key(): self}, self
        while (move := next(system.moves(), None)) is not None:
            known = CALM.get(system.key())
            system = known or system.make(move)
            assert known or system.key() not in way, "turns in a circle"
            way[system.key()] = system
        CALM.update(dict.fromkeys(way, system))
        return system

    @property
    def phases(self) -> dict[str, Phase]:
        return {name: node.app.phase for name, node in self.nodes.items()}

    def key(self) -> object:
        asked = {n: frozenset(a) for n, a in self.dependencies._asked.items() if a}
        return tuple((name, _key(n), asked.get(name)) for name, n in self.nodes.items())


CALM: dict[object, System] = {}  # what the states that were met have come to


class Move(NamedTuple):
    kind: str
    name: str
    request: Event | None = None


REQUESTS = (Start(), Stop(Cause.OPERATOR), Kill(Cause.OPERATOR), Restart(Cause.OPERATOR))


def _key(node: Node) -> object:
    app, run = node.app, node.app.run
    live = run and (run.launched, run.pid, run.ending, run.yielding, run.status)
    awaited = run.detail if run and app.phase is Phase.WAITING else ""
    inbox = tuple(_item_key(item, app) for item in node.inbox)
    process = node.process is not None and (run is not None and node.process == run.id)
    return (
        *(
            app.removed,
            app.maintenance,
            app.phase,
            app.goal,
            live,
            awaited,
            len(app.restarts),
            inbox,
        ),
        *(node.process is None, process, node.told, node.hasty),
    )


def _item_key(item: Item, app: App) -> object:
    run = getattr(item, "run", None)
    if run is None:
        return type(item), item if isinstance(item, Needed) else None
    return type(item), app.run is not None and app.run.id == run


def fresh(shape: str) -> System:
    """Nothing runs, and nobody has asked for anything."""
    dependencies = Dependencies()
    nodes = []
    for name, requires in SHAPES[shape].items():
        limit = 1 if name == "db" else 0
        nodes.append(Node(App(name, "e", definition("on-failure", limit=limit, requires=requires))))
        dependencies.join(nodes[-1])
    return System(nodes, dependencies)


@cache
def walk(shape: str) -> list[System]:
    """Every state, breadth first; after so many requests and failures it must calm down."""
    first = fresh(shape)
    states = {first.key(): first}
    seen = {(first.key(), IN_FLIGHT[shape])}
    waiting = deque([(first, IN_FLIGHT[shape])])
    while waiting:
        system, left = waiting.popleft()
        left = IN_FLIGHT[shape] if system.is_calm else left
        moves = [(move, left) for move in system.moves()]
        moves += [(move, left - 1) for move in system.troubles() if left]
        for move, still_left in moves:
            after = system.make(move)
            if (after.key(), still_left) not in seen:
                seen.add((after.key(), still_left))
                states.setdefault(after.key(), after)
                waiting.append((after, still_left))
    return list(states.values())


each = pytest.mark.parametrize("shape", SHAPES)


@each
def test_order_holds_in_every_state(shape: str) -> None:
    assert len(walk(shape)) > 100


@each
def test_nobody_waits_for_a_deadline(shape: str) -> None:
    for system in walk(shape):
        assert set(system.calmed().phases.values()) <= REST | {Phase.RUNNING}, system.phases


@each
def test_a_stop_of_all_stops_all(shape: str) -> None:
    for system in walk(shape):
        for name in SHAPES[shape]:
            system = system.make(Move("ask", name, Stop(Cause.SHUTDOWN)))
        assert set(system.calmed().phases.values()) == {Phase.STOPPED}


@each
def test_a_start_of_the_top_starts_all(shape: str) -> None:
    for system in walk(shape):
        started = system.calmed().make(Move("ask", "web", Start())).calmed()
        assert started.phases["web"] is Phase.RUNNING


# What is told, and when ------------------------------------------------------------------


def test_what_is_being_stopped_is_started_when_it_has_stopped() -> None:
    """Whoever asked for the stop gets it, though somebody needs the application again."""
    system = fresh("pair").make(Move("ask", "web", Start())).calmed()
    system = system.make(Move("ask", "db", Stop(Cause.MANAGER)))
    while not system.nodes["db"].told:
        system = system.make(next(system.moves()))
    system = system.make(Move("ask", "web", Start()))
    phases = []
    while (move := next(system.moves(), None)) is not None:
        system = system.make(move)
        phases.append(system.phases["db"])
    assert Phase.STOPPED in phases
    assert set(system.phases.values()) == {Phase.RUNNING}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"removed": True}, "'db', which it requires, is removed from the configuration"),
        (
            {"maintenance": Maintenance(2000.0, "uid 0", 0.0)},
            "'db', which it requires, is under maintenance",
        ),
        ({"name": "data"}, "there is no application 'db' in this guest"),
    ],
)
def test_what_may_not_be_started_fails_who_requires_it(
    changes: dict[str, object], why: str
) -> None:
    first = fresh("pair")
    nodes = [Node(replace(first.nodes["db"].app, **changes)), first.nodes["web"]]
    dependencies = Dependencies()
    for node in nodes:
        dependencies.join(node)
    web = nodes[1]
    web.app, _ = lifecycle.step(web.app, Start(), NOW)
    dependencies.require(web.app)
    for item in nodes[0].inbox:
        assert isinstance(item, Needed)
        assert dependencies.needed(nodes[0].app, item.by) in (None, Start())
    assert web.app.run is not None
    assert dependencies.news(web.app) == NotProvided(web.app.run.id, why)


def test_a_stop_waits_as_long_as_the_longest_chain_may_take() -> None:
    """Each has 30 s and the margin: two above db, one of which is not up."""
    system = fresh("diamond").make(Move("ask", "web", Start())).calmed()
    system = system.make(Move("ask", "right", Stop(Cause.OPERATOR)))
    while (move := next((m for m in system.moves() if m.name != "web"), None)) is not None:
        system = system.make(move)
    patience = {
        name: system.dependencies.patient(system.nodes[name].app, Stop(Cause.OPERATOR)).patience
        for name in SHAPES["diamond"]
    }
    assert patience == {"db": 70.0, "left": 35.0, "right": 35.0, "web": 0.0}
    lease = system.dependencies.patient(system.nodes["db"].app, Stop(Cause.LEASE))
    assert lease.patience == 0.0


def test_of_very_many_some_are_named() -> None:
    dependencies = Dependencies()
    db = Node(App("db", "e", definition()))
    webs = [
        Node(App(f"web{n:03}", "e", definition(requires=("db",)), phase=Phase.RUNNING))
        for n in range(1000)
    ]
    for node in (db, *webs):
        dependencies.join(node)
    named = [f"web{n:03}" for n in range(10)]
    assert dependencies.holding_up(db.app) == f"{', '.join(named)} and 990 more"
