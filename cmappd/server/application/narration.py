"""One clear line for each change of an application, for the server's log."""

from cmappd.core import policy
from cmappd.core.lifecycle import App, Run
from cmappd.core.state import REQUESTED, Cause, Health, Maintenance, Outcome, Part, Phase
from cmappd.core.units import format_duration
from cmappd.core.wording import (
    ERROR,
    INFO,
    WARNING,
    Line,
    cause_text,
    oom_text,
    outcome_text,
    status_text,
)


def narrate(before: App, after: App, now: float, failure: str = "") -> list[Line]:
    """What has changed from one moment to the next, a line each.

    ``failure`` is the last health check that failed, in a line.
    """
    lines = []
    if after.last is not None and (before.last is None or after.last.run != before.last.run):
        text = f"run {after.last.run} {outcome_text(after.last)}"
        lines.append(Line(text, _how_bad(after.last, after.phase)))
    # First, because what follows is often for that.
    if after.run is not None and before.run is not None and after.run.id == before.run.id:
        lines += _of_run(before.run, after.run, failure)
    waits, waited = _waits(after), _waits(before)
    if waits:
        lines += waits if waits != waited else []
    elif after.run is not None and not after.run.launched:
        pass  # what comes of it will be told
    elif before.phase is Phase.BACKOFF and after.phase is Phase.STOPPED and after.last is not None:
        lines.append(Line(cause_text(after.last.cause), INFO))
    elif waited or _place(after) != _place(before):
        lines.append(_phase(after, now))
    if after.maintenance != before.maintenance:
        lines.append(_maintenance(after.maintenance, now))
    if after.removed and not before.removed:
        text = "removed from the configuration; it will not be started again"
        lines.append(Line(text, WARNING))
    return lines


def _of_run(before: Run, after: Run, failure: str) -> list[Line]:
    """What a run that goes on says of itself, and what is found of it."""
    # Where it is its watchdog that was not heard, the check may well have passed.
    by_check = after.health is Health.UNHEALTHY
    lines = _health(before.condition, after.condition, failure if by_check else "")
    if after.announced is not before.announced:
        lines.append(Line(f"it says that it is {after.announced}", INFO))
    if after.oom_kills > before.oom_kills:
        lines.append(Line(oom_text(after.oom_kills), WARNING))
    return lines


def _how_bad(outcome: Outcome, phase: Phase) -> int:
    if outcome.success or (outcome.cause in REQUESTED and outcome.cause is not Cause.LEASE):
        return INFO
    return ERROR if phase is Phase.FAILED else WARNING


def _maintenance(maintenance: Maintenance | None, now: float) -> Line:
    if maintenance is None:
        return Line("maintenance is over", INFO)
    left = format_duration(max(1, round(maintenance.until - now)))
    why = f": {maintenance.reason}" if maintenance.reason else ""
    return Line(f"under maintenance for {left}, by {maintenance.by}{why}", WARNING)


def _waits(app: App) -> list[Line]:
    run = app.run
    if run is not None and app.phase is Phase.WAITING and run.detail:
        return [Line(f"waits for {run.detail}", INFO)]
    if run is not None and run.yielding:
        why = _ending(run)
        return [Line(f"{why}, when those that require it have ended (run {run.id})", INFO)]
    return []


def _place(app: App) -> tuple[Phase, int | None] | None:
    """Where it is in its life; nowhere before there is a process."""
    if app.run is None:
        return app.phase, None
    return (app.phase, app.run.pid) if app.run.launched else None


def _phase(app: App, now: float) -> Line:
    run = named(app.run) if app.run is not None else ""
    left = f"{app.deadline - now:.1f} s" if app.deadline is not None else ""
    match app.phase:
        case Phase.STARTING:
            return Line(f"starting ({run})", INFO)
        case Phase.RUNNING:
            return Line(f"running ({run})", INFO)
        case Phase.STOPPING if app.run is not None:
            return _stopping(app.run, app, left)
        case Phase.KILLING:
            return Line(f"killing what is left ({run})", WARNING)
        case Phase.BACKOFF:
            limit = app.definition.restart.limit
            return Line(f"restart {len(app.restarts)} of {limit} follows in {left}", WARNING)
        case Phase.FAILED:
            return Line("failed", ERROR)
        case _:
            return Line(str(app.phase), INFO)


def _stopping(run: Run, app: App, left: str) -> Line:
    """Why it stops, as far as that is known before nothing is left of it."""
    if run.part is Part.AFTER:
        return Line(f"nothing is left of it; stop.after runs (run {run.id})", INFO)
    if run.status is None or run.ending not in (None, Cause.OUT_OF_MEMORY):
        why = f": {run.detail}" if run.detail else ""
        asked = run.ending in REQUESTED and run.ending is not Cause.LEASE
        text = f"{_ending(run)} ({named(run)}); SIGKILL follows in {left}{why}"
        return Line(text, INFO if asked else WARNING)
    well = policy.succeeded(Cause.EXIT, run.status, app.definition.restart.success_codes)
    how = status_text(run.status) or "nobody knows how"
    text = f"its main process has ended, {how}; stopping what is left (run {run.id})"
    return Line(f"{text}; SIGKILL follows in {left}", INFO if well else WARNING)


def _ending(run: Run) -> str:
    """That it stops, and who asked for that, or what did; of a failure the detail says more."""
    if run.ending not in REQUESTED:
        return "stopping"
    return cause_text(run.ending).replace("stopped", "stopping", 1)


def named(run: Run) -> str:
    """A run, and its main process where there is one."""
    return f"run {run.id}" + (f", pid {run.pid}" if run.pid is not None else "")


def _health(before: Health, after: Health, why: str) -> list[Line]:
    if before is after or after is Health.NONE:
        return []
    if after is not Health.UNHEALTHY:
        return [Line(str(after), INFO)]
    return [Line(f"{after}: {why}" if why else str(after), WARNING)]
