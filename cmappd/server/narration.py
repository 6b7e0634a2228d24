"""One clear line for each change of an application, for the server's log."""

from cmappd.core.lifecycle import App
from cmappd.core.state import Cause, Health, Outcome, Phase

_CAUSES = {
    Cause.EXIT: "by itself",
    Cause.MANAGER: "as its manager asked",
    Cause.OPERATOR: "as the administrator asked",
    Cause.SHUTDOWN: "because cmappserver was told to end",
    Cause.LEASE: "because no manager was heard for the lease",
    Cause.RELOAD: "because its definition has changed",
    Cause.NOT_STARTED: "it could not be started",
    Cause.NOT_READY: "because it was not ready in time",
    Cause.UNHEALTHY: "because its health checks failed",
    Cause.UNKNOWN: "with a status that cannot be known",
}


def why(cause: Cause) -> str:
    """Who or what ended a run, as the end of a sentence."""
    return _CAUSES[cause]


def how(outcome: Outcome) -> str:
    """How a run ended, as a sentence without its subject: "exited with code 3, by itself"."""
    if outcome.cause is Cause.NOT_STARTED:
        return f"could not be started: {outcome.detail}"
    status = outcome.status
    if status.signal is not None:
        words = f"was ended by signal {status.signal}"
    elif status.code is not None:
        words = f"exited with code {status.code}"
    else:
        words = "ended"
    detail = f" ({outcome.detail})" if outcome.detail else ""
    return f"{words}, {why(outcome.cause)}{detail}"


def narrate(before: App, after: App, now: float) -> list[str]:
    """What has changed from one moment to the next, a line each."""
    lines = []
    if after.last is not None and (before.last is None or after.last.run != before.last.run):
        lines.append(f"run {after.last.run} {how(after.last)}")
    if after.run is not None and after.run.pid is None:
        pass  # not launched yet: what comes of it will be told
    elif before.phase is Phase.BACKOFF and after.phase is Phase.STOPPED and after.last is not None:
        lines.append(f"stopped, {why(after.last.cause)}")
    elif (after.phase, _pid(after)) != (before.phase, _pid(before)):
        lines.append(_phase(after, now))
    if after.run is not None and before.run is not None and after.run.id == before.run.id:
        lines += _health(before.run.health, after.run.health)
    if after.removed and not before.removed:
        lines.append("removed from the configuration; it will not be started again")
    return lines


def _pid(app: App) -> int | None:
    return app.run.pid if app.run is not None else None


def _phase(app: App, now: float) -> str:
    run = f"run {app.run.id}, pid {app.run.pid}" if app.run is not None else ""
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


def _health(before: Health, after: Health) -> list[str]:
    if before is after or after is Health.NONE:
        return []
    return [str(after)]
