"""One clear line for each change of an application, for the server's log."""

from cmappd.core.lifecycle import App, Run
from cmappd.core.state import Health, Maintenance, Phase
from cmappd.core.units import format_duration
from cmappd.core.wording import cause_text, oom_text, outcome_text


def narrate(before: App, after: App, now: float) -> list[str]:
    """What has changed from one moment to the next, a line each."""
    lines = []
    if after.last is not None and (before.last is None or after.last.run != before.last.run):
        lines.append(f"run {after.last.run} {outcome_text(after.last)}")
    waits, waited = _waits(after), _waits(before)
    if waits:
        lines += waits if waits != waited else []
    elif after.run is not None and not after.run.launched:
        pass  # what comes of it will be told
    elif before.phase is Phase.BACKOFF and after.phase is Phase.STOPPED and after.last is not None:
        lines.append(cause_text(after.last.cause))
    elif waited or (after.phase, _pid(after)) != (before.phase, _pid(before)):
        lines.append(_phase(after, now))
    if after.run is not None and before.run is not None and after.run.id == before.run.id:
        lines += _health(before.run.condition, after.run.condition)
        if after.run.announced is not before.run.announced:
            lines.append(f"it says that it is {after.run.announced}")
        if after.run.oom_kills > before.run.oom_kills:
            lines.append(oom_text(after.run.oom_kills))
    if after.maintenance != before.maintenance:
        lines.append(_maintenance(after.maintenance, now))
    if after.removed and not before.removed:
        lines.append("removed from the configuration; it will not be started again")
    return lines


def _maintenance(maintenance: Maintenance | None, now: float) -> str:
    if maintenance is None:
        return "maintenance is over"
    left = format_duration(max(1, round(maintenance.until - now)))
    why = f": {maintenance.reason}" if maintenance.reason else ""
    return f"under maintenance for {left}, by {maintenance.by}{why}"


def _waits(app: App) -> list[str]:
    run = app.run
    if run is not None and app.phase is Phase.WAITING and run.detail:
        return [f"waits for {run.detail}"]
    if run is not None and run.yielding:
        return [f"stops when those that require it have ended (run {run.id})"]
    return []


def _pid(app: App) -> int | None:
    return app.run.pid if app.run is not None else None


def _phase(app: App, now: float) -> str:
    run = _run(app.run) if app.run is not None else ""
    left = f"{app.deadline - now:.1f} s" if app.deadline is not None else ""
    match app.phase:
        case Phase.STARTING:
            return f"starting ({run})"
        case Phase.RUNNING:
            return f"running ({run})"
        case Phase.STOPPING:
            return f"stopping ({run}); SIGKILL follows in {left}"
        case Phase.KILLING:
            return f"killing what is left ({run})"
        case Phase.BACKOFF:
            limit = app.definition.restart.limit
            return f"restart {len(app.restarts)} of {limit} follows in {left}"
        case _:
            return str(app.phase)


def _run(run: Run) -> str:
    return f"run {run.id}" + (f", pid {run.pid}" if run.pid is not None else "")


def _health(before: Health, after: Health) -> list[str]:
    if before is after or after is Health.NONE:
        return []
    return [str(after)]
