"""Who owns an application, and until when: pure, with the time as an argument.

An owner is an instance of a manager: the name in its certificate and a number that is
random for each process, so that two processes with one certificate are told apart. It
owns until it releases, hands over, is taken over, or is not heard for the lease. All instants are
monotonic seconds.
"""

from typing import NamedTuple


class Owner(NamedTuple):
    """One owner. ``connected`` is whether its link is open, as far as anybody knows."""

    name: str
    instance: str
    heard: float
    connected: bool = True
    released: bool = False  # it has handed over: anybody may be next, and has its lease for that

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
