"""What an exit means: success or not, whether to restart, when, and cmappmgr's exit code."""

from collections.abc import Collection

from cmappd import reasons
from cmappd.core.state import Cause, ExitStatus, Outcome
from cmappd.reasons import Reason

_REASONS = {
    Cause.MANAGER: reasons.STOPPED,
    Cause.OPERATOR: reasons.OPERATOR,
    Cause.SHUTDOWN: reasons.OPERATOR,
    Cause.REQUIRED: reasons.OPERATOR,
    Cause.RELOAD: reasons.OPERATOR,
    Cause.LEASE: reasons.LOST,
    Cause.NOT_STARTED: reasons.NOT_STARTED,
    Cause.NOT_READY: reasons.NOT_READY,
    Cause.UNHEALTHY: reasons.UNHEALTHY,
    Cause.OUT_OF_MEMORY: reasons.OUT_OF_MEMORY,
    Cause.UNKNOWN: reasons.UNKNOWN_STATUS,
}


def succeeded(cause: Cause, status: ExitStatus, success_codes: Collection[int]) -> bool:
    """Whether a run that ended so is a success: by itself, and with a success code."""
    return cause is Cause.EXIT and status.signal is None and status.code in success_codes


def verdict(outcome: Outcome) -> tuple[Reason, int]:
    """Why and with which code cmappmgr exits after this outcome of the last run."""
    if outcome.success:
        return reasons.SUCCESS, 0
    reason = _REASONS.get(outcome.cause, reasons.APP)
    if reason.code is not None:
        return reason, reason.code
    code = outcome.status.shell_code
    if code is None:
        return reasons.UNKNOWN_STATUS, 210
    # 0 is success to the cluster, and where it is not among the success codes it is none.
    return reason, code or 1


def recent(restarts: tuple[float, ...], now: float, window: float) -> tuple[float, ...]:
    """Those of the restarts, instants in seconds, that still count against the limit."""
    return tuple(instant for instant in restarts if now - instant < window)


def back_off(count: int, delay: float, max_delay: float, chance: float) -> float:
    """Seconds to wait before a restart when ``count`` came before it in the window.

    ``delay`` doubles each time up to ``max_delay``; ``chance``, from 0 to 1, takes off up to a
    quarter, so that what fell together does not rise together.
    """
    # The exponent is bounded because a float is not.
    full = min(delay * 2.0 ** min(count, 60), max_delay)
    return full * (1 - chance / 4)
