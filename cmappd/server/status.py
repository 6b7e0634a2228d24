"""One application, described for the people and programs that ask."""

from typing import TYPE_CHECKING

from cmappd.core import policy
from cmappd.core.lifecycle import App
from cmappd.core.messages import AppStatus
from cmappd.core.state import ALIVE, Health, Phase

if TYPE_CHECKING:
    from cmappd.server.supervisor import Supervisor

# How often SIGKILL is sent before what is left is called surviving it.
KILLS_TO_SURVIVE = 3
PROBLEM_LENGTH = 2000  # characters; the log has all of it


def describe(supervisor: "Supervisor", now: float) -> AppStatus:
    """The status of the supervisor's application; ``now`` is monotonic."""
    app, custody, runner = supervisor.app, supervisor.custody, supervisor.runner
    run, rule, owner = app.run, app.definition.restart, custody.owner
    bounded = rule.policy != "never"
    problems = [text for text in (supervisor.problem, runner.log_problem) if text]
    return AppStatus(
        app=app.name,
        goal=app.goal,
        phase=app.phase,
        description=app.definition.description,
        run=run.id if run is not None else (app.last.run if app.last is not None else None),
        pid=run.pid if run is not None else None,
        since=supervisor.since,
        started=supervisor.started if run is not None else None,
        health=run.health if run is not None else _idle_health(app),
        health_output=runner.health_output,
        owner=owner.name if owner is not None else None,
        owner_silent_for=now - owner.heard if owner and not owner.connected else None,
        restarts=len(policy.recent(app.restarts, now, rule.window)),
        restart_limit=rule.limit if bounded else None,
        restart_window=rule.window if bounded else None,
        next_in=_until(app.deadline, now) if app.phase is Phase.BACKOFF else None,
        survivors=runner.survivors(run.id) if run and run.kills >= KILLS_TO_SURVIVE else (),
        definition=supervisor.definition_hash,
        restart_pending=app.phase in ALIVE and supervisor.launched_as != supervisor.launch_hash,
        removed=app.removed,
        problem="; ".join(problems)[:PROBLEM_LENGTH],
        last=app.last,
    )


def _idle_health(app: App) -> Health:
    return Health.NONE if app.definition.health is None else Health.UNKNOWN


def _until(deadline: float | None, now: float) -> float | None:
    return max(0.0, deadline - now) if deadline is not None else None
