"""Who owns an application, and until when: pure, with the time as an argument.

An owner is an instance of a manager: the name in its certificate and a number that is
random for each process, so that two processes with one certificate are told apart. It
owns until it releases, hands over, is taken over, or is not heard for the lease. All instants are
monotonic seconds.

What a lease is counted from, and what follows for two guests, is told in
docs/failover-between-guests.md.
"""

from typing import NamedTuple


class Owner(NamedTuple):
    """One owner. ``connected`` is whether its link is open, as far as anybody knows."""

    name: str
    instance: str
    heard: float
    connected: bool = True
    released: bool = False  # it has handed over: anybody may be next, and has its lease for that

    def is_same(self, other: "Owner | None") -> bool:
        """Whether that is the same instance of a manager, which may have been heard since."""
        return other is not None and (self.name, self.instance) == (other.name, other.instance)

    def refreshed(self, now: float) -> "Owner":
        """The owner after a word from it."""
        return self._replace(heard=now)

    def disconnected(self) -> "Owner":
        """The owner after its link has ended; its lease runs on from its last word."""
        return self._replace(connected=False)

    def handing_over(self) -> "Owner":
        """The owner that was, until there is a next one; its lease runs on from its last word."""
        return self._replace(connected=False, released=True)

    def expires(self, lease: float) -> float:
        """When its lease is over."""
        return self.heard + lease


class Presence:
    """When a manager was certainly there, as far as it has proved it.

    A word can be old when it is heard: it waited in a network that was cut, or here while this
    process stood still, and who said it may have given up since. But a manager asks only when it
    has the answer to what it asked before. So its word proves that it was there, and heard of us,
    when that answer was sent, or later. Counted from there, a lease may end too early, never too
    late.
    """

    __slots__ = ("_answered", "_awaits", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        self._answered = now  # when the last answer was sent
        self._awaits = 0  # the ``seq`` of what it has asked since

    def asked(self, seq: int) -> None:
        """It has said something that it says only when it has our last answer."""
        self.since = self._answered
        self._awaits = seq

    def answered(self, seq: int, now: float) -> None:
        """It is being sent something; that counts when it is the answer."""
        if seq == self._awaits and seq:
            self._answered, self._awaits = now, 0


def may_claim(
    owner: Owner | None, name: str, instance: str, now: float, lease: float, *, takeover: bool
) -> bool:
    """Whether a manager may become the owner now.

    The same instance comes back after a lost link (its own word, so that it counts only
    with the name in the certificate); another one of the same name may follow
    one whose link has ended, as a manager does that was killed and restarted. Everybody
    else waits for the lease, or takes over.
    """
    if owner is None or owner.released or takeover:
        return True
    if owner.name == name and (owner.instance == instance or not owner.connected):
        return True
    return now >= owner.expires(lease)
