"""What can come into the inbox of an application, beside the events of its lifecycle; from whom."""

from dataclasses import dataclass
from typing import Protocol

from cmappd.core.events import Event
from cmappd.core.messages import Message


class Link(Protocol):
    """A connected peer, as an application sees it."""

    @property
    def name(self) -> str:
        """Who it is, by its certificate or its uid."""

    @property
    def instance(self) -> str:
        """Which process it is: random, and its own."""

    @property
    def administrator(self) -> bool:
        """Whether it came by the control socket."""

    @property
    def opened(self) -> float:
        """Since when it is connected, in monotonic seconds; of two links the later is newer."""

    @property
    def last_there(self) -> float:
        """Until when it was certainly there, in monotonic seconds: see `Presence`."""

    def send(self, message: Message) -> None:
        """Send it a message; never blocks."""

    def hang_up(self) -> None:
        """End the connection when what was sent is on its way."""


@dataclass(frozen=True, slots=True)
class Said:
    """A peer said something about this application."""

    link: Link
    message: Message


@dataclass(frozen=True, slots=True)
class Parted:
    """A peer's connection has ended."""

    link: Link


@dataclass(frozen=True, slots=True)
class ProblemChanged:
    """What is wrong with the stanza in the files has changed; empty: nothing is."""

    problem: str


@dataclass(frozen=True, slots=True)
class Needed:
    """An application waits for this one to be ready."""

    by: str


@dataclass(frozen=True, slots=True)
class Stirred:
    """Of what this application waits for, or lets end first, something has changed."""


Item = Event | Said | Parted | ProblemChanged | Needed | Stirred
