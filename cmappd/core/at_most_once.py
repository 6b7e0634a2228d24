"""When an application may be started in another guest, because it runs no more in this one.

For on_lost = "stop": the guest counts from its side, the manager from its own, and no word between
them is needed. Reasons and limits are in docs/failover-between-guests.md. All times are seconds;
the clocks of host and guest may be fast or slow by RATE, and what they show is never compared.
"""

from math import ceil

RATE = 0.01  # by how much a clock may be fast or slow
SETTLE = 1.0  # for SIGKILL to take effect, and for what wakes up late
POLLS_A_LEASE = 4  # a lease must survive an answer that comes late, and a new link


def ends_within(lease: float, stop_timeout: float, *, has_after: bool) -> float:
    """How long an application may run after its manager was last there, by the guest's clock.

    The lease, then ``stop.timeout``, then SIGKILL; ``stop.after`` has as much time again.
    """
    return lease + stop_timeout * (2 if has_after else 1) + SETTLE


def least_lost_after(ends_within: float) -> float:
    """How long a manager must not give up after the last word it heard, by the host's clock."""
    return ends_within * (1 + RATE) / (1 - RATE)


def ends_alone_after(ends_within: float | None) -> int:
    """How long to wait, by the host's clock, for a guest that is cut off to end the application.

    ``ends_within`` is what the guest says; None, and 0 as the answer: it does not end it.
    """
    return 0 if ends_within is None else ceil(least_lost_after(ends_within))


def poll_interval(wanted: float, lost_after: float, lease: float | None) -> float:
    """How often a manager has to poll: a poll must have the time to be missed."""
    bounds = [wanted, lost_after / 4]
    return min(bounds if lease is None else [*bounds, lease / POLLS_A_LEASE])
