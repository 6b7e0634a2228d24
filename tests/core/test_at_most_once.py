"""An application that may run in two guests never runs in both: a model, walked exhaustively.

There is a manager (the real follower), a guest (the real rules of ownership, and an application
that takes all the time it has to end), and a network. In every second the network carries what
waits in either direction, or does not, or also all that is answered to it, as it likes; what is
left of a closed link may come then, or later still. When the manager has given up, the cluster
starts the application in another guest at once. The guest's clock is as much too slow, and the
host's as much too fast, as is allowed for.
In further walks the cluster sends SIGTERM in any one second, with less time for the stop than it
takes; or somebody answers who speaks no TLS; or the manager's right is taken away in the guest.

Every course of events is walked, until nothing new can happen. What must hold:

at_most_once   from the moment on at which the manager has ended because the application was
               stopped, or without knowing what becomes of it, it does not run in the guest, and
               is not started there any more. That it would not stop a manager knows that has heard
               so within a poll interval
it_gives_up    where the network carries nothing any more, the manager ends

And because a check that finds nothing proves nothing: with a shorter lost_after, with a guest that
takes old words for new ones, or believes the claim of a link that was given up for another, and
with a manager that ends because its time is over or because it is refused, the walk finds the
second copy.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from cmappd import reasons
from cmappd.core.at_most_once import RATE, ends_within, least_lost_after, poll_interval
from cmappd.core.follow import claim as follow_claim
from cmappd.core.follow import link as follow_link
from cmappd.core.follow.actions import Close, Connect, Exit, Failure, Send, Terms, Wish
from cmappd.core.follow.follower import Follower
from cmappd.core.follow.following import Following, Stage
from cmappd.core.messages import (
    AppStatus,
    Claim,
    Done,
    Hello,
    Message,
    Poll,
    Refused,
    Reply,
    State,
    Stop,
    Welcome,
)
from cmappd.core.ownership import Presence
from cmappd.core.state import Goal, Phase

LEASE, STOP = 4.0, 1.0  # so that a poll is due each second
# Seconds after the last word of its manager in which the application may run, whatever the guest
# says: the lease, stop.timeout, and one for SIGKILL to take effect; stop.after has as long again.
LATEST, LATEST_AFTER = 6.0, 7.0
STEP = 1.0  # seconds of the host's clock in which the network does not change its mind
LONG_AGO = 20.0  # seconds; what is older makes no difference any more
# With these the cluster may start it elsewhere.
LET_GO = (
    *(reasons.LOST, reasons.UNREACHABLE, reasons.PROTOCOL, reasons.DENIED),
    reasons.STOPPED,
)
STRANGER = Failure(reasons.PROTOCOL, "the peer does not speak TLS")


class Credulous(Presence):
    """Takes a word for new when it is heard."""

    now = 0.0

    def asked(self, seq: int) -> None:
        super().asked(seq)
        self.since = self.now


@dataclass(frozen=True)
class Link:
    """One connection: what waits to be carried, and what the guest knows of the other end."""

    presence: Presence
    to_guest: tuple[Message, ...] = ()
    to_host: tuple[Reply, ...] = ()


@dataclass(frozen=True)
class World:
    """All there is. Instants of the guest are by its own clock."""

    follower: Follower
    time: float = 0.0  # by the host's clock
    dialling: bool = False
    link: Link | None = None
    stale: tuple[Link, ...] = ()  # closed by the manager; the guest may hear of them yet
    ended: Exit | None = None
    let_go: bool = False  # it ended so that the cluster may start the application elsewhere
    second: bool = False  # when it let go, the application ran
    # The guest.
    owner_there: float | None = None  # when the owner was last there, as far as is proved
    runs: bool = False
    started: bool = False
    ends: float | None = None  # by when it will have ended, once it was told to
    barred: bool = False  # the manager may not drive it any more
    happened: bool = False  # the one thing that happens besides
    history: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Rules:
    """What is the case in one walk."""

    lost_after: float
    credulous: bool = False
    forgetful: bool = False  # the guest does not know of newer links when it hears a claim
    has_after: bool = False  # there is a stop.after
    event: str = ""  # what happens besides, once and at any time, or not at all
    rate: float = (1 - RATE) / (1 + RATE)  # of the guest's clock, seen from the host's

    @property
    def latest(self) -> float:
        """When it has ended, after the last word of its manager."""
        return LATEST_AFTER if self.has_after else LATEST

    @property
    def within(self) -> float:
        """What the guest says of that."""
        return ends_within(LEASE, STOP, has_after=self.has_after)

    def first(self) -> World:
        lost_after, terms = self.lost_after, Terms("db", "test", "i")
        terms = terms._replace(connect_timeout=4.0, lost_after=lost_after, stop_timeout=STOP)
        return World(Follower(terms, 0.0))


# The guest -----------------------------------------------------------------------------


def guest_hears(world: World, link: Link, message: Message, rules: Rules) -> tuple[World, Link]:
    """What the guest does with one message, and its answer on that link."""
    now = world.time * rules.rate
    presence = copy.copy(link.presence)
    if isinstance(presence, Credulous):
        presence.now = now
    if isinstance(message, Hello | Claim | Poll):
        presence.asked(message.seq)
    reply: Reply = Done(message.seq)  # to what is said when all is known
    if isinstance(message, Hello):
        reply = Welcome(message.seq, "test", "guest", "b", "e")
    elif world.barred:
        reply = Refused(message.seq if isinstance(message, Claim) else 0, "denied", "")
    elif isinstance(message, Claim):
        if not rules.forgetful:
            world = replace(world, stale=())  # this link has overtaken them
        if now - presence.since >= LEASE:
            return world, replace(link, presence=presence)  # and the link is cut
        world = replace(world, owner_there=presence.since)
        if message.start and not world.started:
            world = replace(world, runs=True, started=True)
        reply = State(message.seq, status(world, rules), "b", "e")
    elif isinstance(message, Poll):
        if world.owner_there is not None:
            world = replace(world, owner_there=max(world.owner_there, presence.since))
        reply = State(message.seq, status(world, rules), "b", "e")
    elif isinstance(message, Stop) and world.runs:
        if world.ends is None:
            world = replace(world, ends=now + rules.latest - LEASE)
        reply = State(0, status(world, rules), "b", "e")
    presence.answered(reply.seq, now)
    return world, replace(link, presence=presence, to_host=(*link.to_host, reply))


def status(world: World, rules: Rules) -> AppStatus:
    phase = Phase.STOPPING if world.ends is not None else Phase.RUNNING
    phase = phase if world.runs else Phase.STOPPED
    goal = Goal.UP if phase is Phase.RUNNING else Goal.DOWN
    return AppStatus("db", goal, phase, run="r", lease=LEASE, ends_within=rules.within)


def guest_ages(world: World, rules: Rules) -> World:
    """The lease ends, and then the application, as late as it may."""
    now = world.time * rules.rate
    if world.runs and world.ends is None:
        assert world.owner_there is not None
        if now >= world.owner_there + LEASE:
            world = replace(world, ends=world.owner_there + rules.latest)
    if world.runs and world.ends is not None and now >= world.ends:
        world = replace(world, runs=False)
    return world


# The host ------------------------------------------------------------------------------


def obey(world: World, actions: list[object], rules: Rules) -> World:
    """Do what the follower asks for."""
    for action in actions:
        match action:
            case Connect():
                world = replace(world, dialling=True)
            case Send(message):
                assert world.link is not None
                link = replace(world.link, to_guest=(*world.link.to_guest, message))
                world = replace(world, link=link)
            case Close() | Exit() if world.link is not None:
                stale = worst_words((*world.stale, replace(world.link, to_host=())))
                world = replace(world, link=None, stale=stale)
        if isinstance(action, Close):
            world = replace(world, dialling=False)
        if isinstance(action, Exit):
            let_go = lets_go(action, world)
            second = let_go and world.runs
            world = replace(world, ended=action, dialling=False, let_go=let_go, second=second)
    return world


def lets_go(end: Exit, world: World) -> bool:
    """Whether the cluster may start it elsewhere when the manager ends so."""
    f = world.follower._f
    if end.reason is reasons.NOT_STOPPED:
        return world.time - f.heard > f.interval
    return end.reason in LET_GO


def worst_words(links: tuple[Link, ...]) -> tuple[Link, ...]:
    """Of closed links, those whose words can do the most: the newest claim and the newest poll."""
    found = {}
    for link in sorted(links, key=lambda one: one.presence._answered):
        for message in link.to_guest:
            if isinstance(message, Claim | Poll):
                found[type(message)] = replace(link, to_guest=(message,))
    return tuple(found.values())


def host_ticks(world: World, until: float, rules: Rules) -> World:
    """Let the manager's own time pass."""
    for _ in range(20):
        due = world.follower.deadline
        if world.ended is not None or due is None or due > until:
            return replace(world, time=until)
        at = max(due, world.time)
        world = guest_ages(replace(world, time=at), rules)
        world = obey(world, list(world.follower.tick(at)), rules)
    raise AssertionError("it spins")


# The network ---------------------------------------------------------------------------


def carry_stale(world: World, rules: Rules) -> World:
    """Carry what is left of closed links."""
    for link in world.stale:
        for message in link.to_guest:
            world, link = guest_hears(world, link, message, rules)
    return replace(world, stale=())


def carry(world: World, there: bool, back: bool, rules: Rules) -> World:
    """Carry what waits to the guest, and back."""
    if there and back and world.dialling:
        presence = (Credulous if rules.credulous else Presence)(world.time * rules.rate)
        world = replace(world, dialling=False, link=Link(presence))
        world = obey(world, list(world.follower.connected(world.time)), rules)
    if there and world.link is not None:
        link, waiting = replace(world.link, to_guest=()), world.link.to_guest
        for message in waiting:
            world, link = guest_hears(world, link, message, rules)
        world = replace(world, link=link)
    if back and world.link is not None:
        waiting_here = world.link.to_host
        world = replace(world, link=replace(world.link, to_host=()))
        for reply in waiting_here:
            if world.link is None:  # it was closed, and nothing more is read from it
                break
            world = obey(world, list(world.follower.message(reply, world.time)), rules)
    return world


def successors(world: World, rules: Rules) -> Iterator[World]:
    """What the next second can bring."""
    for event in events(world, rules):
        for word in ("><", "><" * 4, ">-", "-<", "--"):
            for stale in {False, bool(world.stale)}:
                after = replace(world, follower=clone(world.follower))
                said = event or word + ("s" if stale else "")
                after = replace(after, history=(*world.history, said))
                after = happen(after, event, rules)
                if stale:
                    after = carry_stale(after, rules)
                for there, back in zip(word[::2], word[1::2], strict=True):
                    after = carry(after, there == ">", back == "<", rules)
                after = guest_ages(after, rules)
                yield guest_ages(host_ticks(after, world.time + STEP, rules), rules)


def events(world: World, rules: Rules) -> Iterator[str]:
    """What can happen besides."""
    yield ""
    possible = {
        "SIGTERM": world.follower.wish is Wish.FOLLOW,
        "stranger": world.dialling or world.link is not None,
        "barred": not world.barred,
    }
    if world.ended is None and not world.happened and possible.get(rules.event):
        yield rules.event


def happen(world: World, event: str, rules: Rules) -> World:
    """Let it happen."""
    if event:
        world = replace(world, happened=True)
    if event == "SIGTERM":
        world = obey(world, list(world.follower.stop(world.time)), rules)
    elif event == "stranger":
        if world.link is not None:
            world = obey(world, [Close()], rules)
        world = replace(world, dialling=False)
        world = obey(world, list(world.follower.link_lost(STRANGER, world.time)), rules)
    elif event == "barred":
        world = replace(world, barred=True)
        if world.link is not None and world.owner_there is not None:
            refused = (*world.link.to_host, Refused(0, "denied", ""))
            world = replace(world, link=replace(world.link, to_host=refused))
    return world


def clone(follower: Follower) -> Follower:
    twin = copy.copy(follower)
    twin._f = copy.copy(follower._f)
    twin._f.settling = set(follower._f.settling)
    twin._f._actions = []
    return twin


# The walk ------------------------------------------------------------------------------


def ago(instant: float | None, base: float, longest: float = LONG_AGO) -> float | None:
    """An instant as a key needs it."""
    return None if instant is None else max(round(instant - base, 6), -longest)


def manager_key(world: World) -> object:
    """All of the manager that anything depends on."""
    f, now = world.follower._f, world.time
    if world.ended is not None:
        return world.let_go
    return (
        *(f.stage, ago(f.step_until, now), ago(f.heard, now)),
        None if f.stage is Stage.FOLLOWING else ago(f.until, now),
        *(f.status is None, min(f.claims, 2), f.poll is None, f.silences),
        *(f.wish, ago(f.limit, now, 0.0), f.exit is None, len(f.settling)),
    )


def key(world: World, rules: Rules) -> object:
    """The world without absolute times, and without what nothing depends on."""
    guest = world.time * rules.rate

    def link_key(link: Link) -> object:
        said = tuple(type(message).__name__ for message in link.to_guest)
        heard = tuple(type(message).__name__ for message in link.to_host)
        return ago(link.presence.since, guest), ago(link.presence._answered, guest), said, heard

    return (
        *(manager_key(world), world.dialling, world.ended is None, world.happened),
        *(world.runs, world.started, world.barred),
        *(ago(world.owner_there, guest), ago(world.ends, guest)),
        *(world.link and link_key(world.link), tuple(map(link_key, world.stale))),
    )


def second_copies(rules: Rules) -> Iterator[World]:
    """Every kind of world in which the application runs after it was let go."""
    waiting, known = deque([rules.first()]), set[object]()
    while waiting:
        for after in successors(waiting.popleft(), rules):
            if (name := key(after, rules)) in known:
                continue
            known.add(name)
            if after.second or (after.let_go and after.runs):
                yield after
            elif not is_over(after):
                waiting.append(after)
    assert len(known) > 1000, "this was no walk"


def is_over(world: World) -> bool:
    """Whether nothing more can happen."""
    return world.ended is not None and not world.runs and not world.stale


def carried(world: World, rules: Rules, word: str) -> World:
    """The world after a second in which the network does this, and nothing else happens."""
    return next(one for one in successors(world, rules) if one.history[-1] == word)


def safe(*, has_after: bool) -> float:
    """What a manager takes for enough; and so much that nothing depends on a float's rounding."""
    return least_lost_after(ends_within(LEASE, STOP, has_after=has_after)) + 1e-6


SAFE = safe(has_after=False)


@pytest.fixture(autouse=True)
def whole_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try for a lost link each second, so that fewer instants differ.

    And give one up early, as in a long lease: what was said on it may be heard, and is young then.
    """
    for module in (follow_link, follow_claim):
        monkeypatch.setattr(module, "ATTEMPT", 2 * STEP)
    monkeypatch.setattr(follow_link, "FIRST_RETRY", STEP)
    monkeypatch.setattr(follow_link, "LAST_RETRY", STEP)


@pytest.mark.parametrize("rate", [(1 - RATE) / (1 + RATE), 1.0, (1 + RATE) / (1 - RATE)])
def test_there_never_is_a_second_copy(rate: float) -> None:
    assert list(second_copies(Rules(SAFE, rate=rate))) == []


def test_there_is_none_while_stop_after_runs() -> None:
    assert list(second_copies(Rules(safe(has_after=True), has_after=True))) == []
    assert next(second_copies(Rules(SAFE, has_after=True)), None)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("event", ["SIGTERM", "stranger", "barred"])
def test_there_is_none_whatever_else_happens(event: str) -> None:
    assert list(second_copies(Rules(SAFE, event=event))) == []


def test_it_gives_up() -> None:
    rules = Rules(SAFE)
    world = rules.first()
    for _ in range(3):
        world = carried(world, rules, "><" * 4)
    assert world.follower.stage is Stage.FOLLOWING
    cut_at = world.time
    while world.ended is None:
        assert world.time < cut_at + SAFE + 2 * STEP
        world = carried(world, rules, "--")
    assert world.let_go
    assert not world.runs


def test_a_manager_that_gives_up_too_early_is_found_out() -> None:
    assert next(second_copies(Rules(SAFE - 0.1)), None)


@pytest.mark.parametrize(
    ("event", "reason", "rule", "broken"),
    [
        ("SIGTERM", reasons.NOT_STOPPED, "known", lambda f: f.status),
        ("stranger", reasons.PROTOCOL, "may_run", lambda _: False),
        ("barred", reasons.DENIED, "may_run", lambda _: False),
    ],
)
def test_a_manager_that_does_not_wait_then_is_found_out(
    event: str,
    reason: reasons.Reason,
    rule: str,
    broken: Callable[[Following], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Following, rule, property(broken))
    found = second_copies(Rules(SAFE, event=event))
    assert any(world.ended is not None and world.ended.reason is reason for world in found)


def test_a_guest_that_takes_old_words_for_new_ones_is_found_out() -> None:
    assert next(second_copies(Rules(SAFE, credulous=True)), None)


def test_a_guest_that_believes_the_claim_of_a_link_that_was_given_up_is_found_out() -> None:
    found = second_copies(Rules(SAFE, event="SIGTERM", forgetful=True))
    assert any(world.ended is not None and world.ended.reason is reasons.STOPPED for world in found)


def test_polls_are_frequent_enough_to_keep_a_lease() -> None:
    assert poll_interval(5.0, 30.0, None) == 5.0
    assert poll_interval(5.0, 12.0, None) == 3.0
    assert poll_interval(5.0, 30.0, 10.0) == 2.5
