"""What can come into the inbox of an application, beside the events of its lifecycle."""

from dataclasses import dataclass

from cmappd.core.events import Event
from cmappd.core.messages import Message
from cmappd.server.custody import Link


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
class Mended:
    """What is wrong with the stanza in the files has changed; empty: nothing is."""

    problem: str


@dataclass(frozen=True, slots=True)
class Needed:
    """An application waits for this one to be ready."""

    by: str


@dataclass(frozen=True, slots=True)
class Stirred:
    """Of what this application waits for, or lets end first, something has changed."""


Item = Event | Said | Parted | Mended | Needed | Stirred
