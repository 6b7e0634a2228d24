"""Hears what peers say about one application, and tells them what comes of it."""

import time
from typing import Protocol

from msgspec.structs import replace

from cmappd.core.events import Event, Kill, Restart, Start, Stop
from cmappd.core.lifecycle import App
from cmappd.core.messages import (
    Ack,
    Claim,
    Detach,
    Done,
    Maintain,
    Message,
    Refused,
    Release,
    State,
)
from cmappd.core.messages import Restart as AskRestart
from cmappd.core.messages import Start as AskStart
from cmappd.core.messages import Stop as AskStop
from cmappd.core.ownership import Owner
from cmappd.core.state import Cause, Goal
from cmappd.errors import CmappdError
from cmappd.server.application.custody import Custody
from cmappd.server.application.status import Notes
from cmappd.server.application.waiting import MAX_WAITING, Waiting, WaitingRoom
from cmappd.server.shared.items import Link, Said
from cmappd.server.shared.maintenance import Maintenances, announced


class Served(Protocol):
    """The application, as the desk sees it."""

    app: App
    custody: Custody
    notes: Notes

    def step(self, event: Event) -> None:
        """Give it an event."""

    def save(self) -> None:
        """Keep what must be known after a crash before anybody is told."""

    def state(self, seq: int) -> State:
        """Its status as a message."""

    def visible(self) -> tuple[object, ...]:
        """What its owner is told of when it changes."""

    def log(self, text: str) -> None:
        """Write a line about it to the server's log."""


class Desk:
    """The desk of one application. Only the application's task uses it."""

    __slots__ = ("_detaching", "_maintenances", "_newest", "_published", "_served", "_waiting")

    def __init__(self, served: Served, maintenances: Maintenances) -> None:
        self._served = served
        self._maintenances = maintenances
        self._waiting = WaitingRoom()
        # Who waits for which owner to hand over.
        self._detaching: list[tuple[Link, int, Owner]] = []
        self._published: tuple[object, ...] = ()
        # Of each manager: since when the newest link is open on which it claimed, or asked to stop.
        self._newest: dict[str, float] = {}

    def hear(self, link: Link, message: Message) -> None:
        """A peer has said this."""
        served, now = self._served, time.monotonic()
        match message:
            case Claim():
                self._claim(link, message, now)
            case Ack(seq, run):
                if served.custody.link is link:
                    served.custody.acknowledge(run)
                    served.save()
                link.send(Done(seq))
            case Release(seq, handover):
                if served.custody.link is link:
                    self._release(link, handover=handover)
                link.send(Done(seq))
            case Detach():
                self._detach(link, message)
            case Maintain():
                self._maintain(link, message)
            case AskStop():
                self._ask_stop(link, message, now)
            case AskStart(seq):
                self._ask(Waiting(link, seq, down=False), Start())
            case AskRestart(seq):
                live = served.app.run
                but = live.id if live is not None and live.launched else None
                self._ask(Waiting(link, seq, down=False, but=but), Restart(Cause.OPERATOR))

    def parted(self, link: Link) -> None:
        """The connection of a peer has ended."""
        self._served.custody.lost(link)
        self._waiting.leave(link)
        self._detaching = [one for one in self._detaching if one[0] is not link]

    def close(self, why: tuple[str, str]) -> None:
        """Nobody may wait in vain for an answer; ``why`` is a reason and a text."""
        self._waiting.dismiss(*why)
        for link, seq, _owner in self._detaching:
            link.send(Refused(seq, *why))

    def publish(self) -> None:
        """Answer who has waited long enough, and tell the owner of what it can see."""
        served = self._served
        self._waiting.answer(served.app)
        self._answer_detaching()
        if served.custody.link is None:
            return
        visible = served.visible()
        if visible != self._published:
            served.save()  # what was told must be known after a crash, too
            served.custody.link.send(served.state(0))
            self._published = visible

    def _claim(self, link: Link, claim: Claim, now: float) -> None:
        served = self._served
        lease = served.app.definition.manager.lease
        if self._is_overtaken(link):
            return
        if now - link.last_there >= lease:
            # Whoever said that may have given up since, and been followed by another elsewhere.
            served.log(f"a claim of {link.name} has come too late to be believed")
            link.hang_up()
            return
        answer = served.custody.claim(link, claim, served.app, lease, now)
        if answer is not None:
            link.send(replace(answer, seq=claim.seq))
            return
        served.log(f"owned by {link.name}")
        if claim.start and claim.run is None and served.app.maintenance is None:
            served.step(Start())
        served.save()
        link.send(served.state(claim.seq))
        self._published = served.visible()

    def _is_overtaken(self, link: Link) -> bool:
        """Whether its manager has come by a newer link, and so has given this one up, which is cut.

        What is still heard on it was held back, and is not what the manager wants now.
        """
        newest = self._newest.setdefault(link.name, link.opened)
        if link.opened < newest:
            self._served.log(
                f"{link.name} is not heard on a link that it has given up for a newer one"
            )
            link.hang_up()
            return True
        self._newest[link.name] = link.opened
        return False

    def _release(self, link: Link, *, handover: bool) -> None:
        served = self._served
        if handover:
            served.custody.hand_over()
            served.log(f"{link.name} has handed it over; it runs on for its next owner")
        else:
            served.custody.release()
            served.log(f"{link.name} has released it; it runs on")
        served.save()

    def _detach(self, link: Link, message: Detach) -> None:
        served, owner = self._served, self._served.custody.owner
        if len(self._detaching) >= MAX_WAITING:
            link.send(Refused(message.seq, "busy", f"too many requests wait for '{message.app}'"))
            return
        answer = served.custody.detach(link, message)
        if answer is None and owner is not None:
            self._detaching.append((link, message.seq, owner))
        if answer is None:
            return
        served.save()
        link.send(answer)

    def _answer_detaching(self) -> None:
        """Whoever asked the owner to hand over is answered when it has; or is gone, or another."""
        custody, detaching = self._served.custody, self._detaching
        self._detaching = []
        for one in detaching:
            link, seq, asked = one
            is_owner = asked.is_same(custody.owner)
            if is_owner and custody.link is not None:
                self._detaching.append(one)
                continue
            if is_owner:  # it went without a word
                custody.hand_over()
                self._served.save()
            text = f"the manager that owned '{self._served.app.name}' does not any more"
            link.send(Done(seq, text))

    def _maintain(self, link: Link, message: Maintain) -> None:
        served = self._served
        try:
            event, said = announced(self._maintenances, served.app, message, link.name)
        except CmappdError as error:
            link.send(Refused(message.seq, "usage", str(error)))
            return
        if event is not None:
            served.step(event)
        link.send(Done(message.seq, said))

    def _ask_stop(self, link: Link, message: AskStop, now: float) -> None:
        served = self._served
        if not link.administrator and self._is_overtaken(link):
            return
        refusal = served.custody.refuse_stop(link, message, served.app, now)
        if refusal is not None:
            link.send(refusal)
            return
        cause = Cause.OPERATOR if link.administrator else Cause.MANAGER
        event = Kill(cause) if message.kill else Stop(cause)
        self._ask(Waiting(link, message.seq, down=True), event)

    def _ask(self, waiting: Waiting, event: Event) -> None:
        if self._waiting.admit(waiting, self._served.app.name):
            if self._served.app.goal is Goal.UP or isinstance(event, Restart):
                self._served.notes.asker = waiting.link.name
            self._served.step(event)


def turn_away(said: Said, why: tuple[str, str]) -> None:
    """Answer what was said about an application that has left; ``why`` is a reason and a text."""
    seq = said.message.seq
    if isinstance(said.message, Ack | Release):
        said.link.send(Done(seq))
    else:
        said.link.send(Refused(seq, *why))
