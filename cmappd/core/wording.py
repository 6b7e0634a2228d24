"""What is worth telling of an application, in words: one line for each thing that changed.

The run belongs to every line, so a line is a ``text`` and the facts that go with it; the
follower adds the run. Nothing here is cleaned of control characters: the log does that to
all it writes.
"""

from datetime import UTC, datetime
from math import ceil
from typing import NamedTuple

from cmappd.core import at_most_once, signals, units
from cmappd.core.budget import LINES
from cmappd.core.certificate import SOON, date
from cmappd.core.messages import AppStatus, Ended, MaintenanceNotice
from cmappd.core.state import Cause, ExitStatus, Health, Outcome, Phase
from cmappd.core.units import format_duration


class Line(NamedTuple):
    """One thing to tell, and how bad it is: the numbers are syslog's (RFC 5424, table 2)."""

    text: str
    severity: int


ERROR, WARNING, INFO = 3, 4, 6

MAINTENANCE_OVER = "maintenance is over: what becomes of it counts again"

_CAUSES = {
    Cause.EXIT: "ended by itself",
    Cause.MANAGER: "stopped as its manager asked",
    Cause.OPERATOR: "stopped in the guest by its administrator",
    Cause.SHUTDOWN: "stopped because cmappserver was told to end",
    Cause.LEASE: "stopped because no manager was heard for its lease",
    Cause.REQUIRED: "stopped because one that it requires was stopped",
    Cause.RELOAD: "stopped because its definition was changed",
    Cause.NOT_STARTED: "could not be started",
    Cause.NOT_READY: "did not become ready in time",
    Cause.UNHEALTHY: "ended for failed health checks",
    Cause.OUT_OF_MEMORY: "killed by the kernel for memory",
    Cause.UNKNOWN: "ended, and its status cannot be known",
}


def cause_text(cause: Cause) -> str:
    """Who or what ended a run."""
    return _CAUSES[cause]


def status_text(status: ExitStatus) -> str:
    """How a process ended, or nothing if nobody knows."""
    if status.signal is not None:
        return signals.text(status.signal)
    return "" if status.code is None else f"exit code {status.code}"


def oom_text(kills: int) -> str:
    """What a run has lost that goes on."""
    return f"the kernel has killed {kills} of its processes for memory; it runs on"


def problem_text(problem: str) -> str:
    """What is wrong with a definition, which may be several things, in one line."""
    return "problem: " + problem.replace("\n", "; ")


def outcome_text(outcome: Outcome) -> str:
    """How a run ended, in one line."""
    known = status_text(outcome.status)
    parts = [cause_text(outcome.cause) + (f", {known}" if known else "")]
    return ": ".join([*parts, outcome.detail] if outcome.detail else parts)


def changes(old: AppStatus | None, new: AppStatus) -> list[Line]:
    """What changed from ``old`` to ``new``; with no old one, all that is out of the ordinary."""
    return [
        *_maintenance(old, new),
        *_phase(old, new),
        *_survivors(old, new),
        *_memory(old, new),
        *_health(old, new),
        *_definition(old, new),
        *_owner(old, new),
    ]


def hasty(status: AppStatus, lost_after: float) -> list[Line]:
    """A warning where a manager gives up before the application has surely ended."""
    if status.ends_within is None:
        return []
    least = at_most_once.least_lost_after(status.ends_within)
    if lost_after >= least:
        return []
    text = (
        f"lost_after is {units.format_duration(lost_after)}, and the application may run for"
        f" {units.format_duration(status.ends_within)} after it is cut off: before it is started in"
        f" another guest, lost_after must be {units.format_duration(ceil(least))} at least"
    )
    return [Line(text, WARNING)]


def expiring(whose: str, end: float, now: float) -> list[Line]:
    """A warning where a certificate will soon have ended; the instants are wall times."""
    if end - now > SOON:
        return []
    days = max(0, int((end - now) / units.DAY))
    return [Line(f"the certificate of {whose} ends on {date(end)}, in {days} days", WARNING)]


def evidence(ended: Ended) -> list[Line]:
    """The last words of the health command and of the application, a line for each of theirs.

    Those of a guest of good will are fewer than the most that is written.
    """
    return [
        *(Line(f"last health output: {line}", ERROR) for line in _lines(ended.health_output)),
        *(Line(f"last log: {line}", ERROR) for line in _lines(ended.log_tail)),
    ]


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()][-LINES:]


def _phase(old: AppStatus | None, new: AppStatus) -> list[Line]:
    before = None if old is None else (old.phase, old.run, old.waits_for)
    if before == (new.phase, new.run, new.waits_for):
        return []
    match new.phase:
        case _ if new.waits_for:
            return [Line(f"{new.phase}: waits for {new.waits_for}", INFO)]
        case Phase.STOPPED | Phase.FAILED if new.maintenance is not None:
            return [Line(f"{new.phase}{_how(new)}", WARNING)]
        case Phase.BACKOFF:
            return [Line(_restart(new), WARNING)]
        case Phase.KILLING:
            return [Line("killing: SIGKILL is sent until nothing is left of it", WARNING)]
        case Phase.FAILED:
            return [Line("failed", ERROR)]
        case _ if new.pid is not None:
            return [Line(f"{new.phase}, pid {new.pid}", INFO)]
        case _:
            return [Line(str(new.phase), INFO)]


def _how(new: AppStatus) -> str:
    return f": {outcome_text(new.last)}" if new.last is not None else ""


def _restart(new: AppStatus) -> str:
    if new.maintenance is not None:
        return f"its restart waits for the end of the maintenance{_how(new)}"
    limit = f" of {new.restart_limit}" if new.restart_limit is not None else ""
    when = f" in {new.next_in:.3g}s" if new.next_in is not None else ""
    why = f" after: {outcome_text(new.last)}" if new.last is not None else ""
    return f"restart {new.restarts}{limit}{when}{why}"


def _maintenance(old: AppStatus | None, new: AppStatus) -> list[Line]:
    before, notice = None if old is None else old.maintenance, new.maintenance
    if notice is None:
        return [] if before is None else [Line(MAINTENANCE_OVER, INFO)]
    if before is not None and before.since == notice.since:
        return []
    return [Line(f"under maintenance {maintenance_text(notice)}", WARNING)]


def maintenance_text(notice: MaintenanceNotice) -> str:
    """Until when, by whom, and why."""
    until = datetime.fromtimestamp(notice.until, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    left = format_duration(max(1, round(notice.over_in)))
    why = f": {notice.reason}" if notice.reason else ""
    return f"until {until}, for {left}, by {notice.by}{why}"


def _survivors(old: AppStatus | None, new: AppStatus) -> list[Line]:
    if not new.survivors or (old is not None and old.survivors == new.survivors):
        return []
    return [Line(f"SIGKILL does not end pid {', '.join(map(str, new.survivors))}", ERROR)]


def _memory(old: AppStatus | None, new: AppStatus) -> list[Line]:
    before = old.oom_kills if old is not None and old.run == new.run else 0
    return [Line(oom_text(new.oom_kills), WARNING)] if new.oom_kills > before else []


def _health(old: AppStatus | None, new: AppStatus) -> list[Line]:
    before = Health.NONE if old is None else old.health
    # A new run begins with unknown health: that is not news.
    if new.health == before or new.health in (Health.NONE, Health.UNKNOWN):
        return []
    said = f": {new.health_output.strip()}" if new.health_output.strip() else ""
    bad = new.health is Health.UNHEALTHY
    return [Line(f"health: {new.health}{said if bad else ''}", WARNING if bad else INFO)]


def _definition(old: AppStatus | None, new: AppStatus) -> list[Line]:
    lines = []
    if old is not None and old.definition and old.definition != new.definition:
        lines.append(Line(f"its definition was changed to {new.definition}", INFO))
    if new.restart_pending and not (old is not None and old.restart_pending):
        lines.append(Line("its definition was changed; a restart is pending", WARNING))
    if new.removed and not (old is not None and old.removed):
        lines.append(Line("it was removed from the configuration, and runs on", WARNING))
    before = "" if old is None else old.problem
    if new.problem != before:
        text = problem_text(new.problem) if new.problem else "its problem is over"
        lines.append(Line(text, WARNING if new.problem else INFO))
    return lines


def _owner(old: AppStatus | None, new: AppStatus) -> list[Line]:
    if old is None or old.owner == new.owner:
        return []
    return [Line(f"its owner is now {new.owner or 'nobody'}", WARNING)]
