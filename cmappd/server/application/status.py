"""One application, described for the people and programs that ask."""

import time

from cmappd.core import at_most_once, policy
from cmappd.core.config import Application, plan
from cmappd.core.lifecycle import App, Run, untold
from cmappd.core.messages import AppStatus, MaintenanceNotice, Past
from cmappd.core.state import ALIVE, Announced, Cause, Health, Outcome, Part, Phase
from cmappd.server.application.custody import Custody
from cmappd.server.application.runner import Runner
from cmappd.server.shared.leftovers import still_there
from cmappd.server.shared.store import Record

# How often SIGKILL is sent before what is left is called surviving it.
KILLS_TO_SURVIVE = 3
HISTORY = 20  # runs of which it is remembered how they ended
ASKED = frozenset({Cause.MANAGER, Cause.OPERATOR})
PROBLEM_LENGTH = 2000  # characters; the log has all of it


class Notes:
    """What the lifecycle need not know, and people want to: times are wall times, in seconds."""

    __slots__ = (
        "asker",
        "definition_hash",
        "history",
        "launch_hash",
        "launched_as",
        "problem",
        "record",
        "since",
        "started",
        "unsaved",
    )

    def __init__(self, definition: Application) -> None:
        self.problem = ""  # why its stanza in the files is not the one in force
        self.record = ""  # why what an earlier cmappserver knew of it is not known here
        self.since = time.time()  # the last change of phase
        self.started: float | None = None  # the last launch
        self.launched_as = ""  # the launch keys of the last run, as a hash
        self.unsaved = ""  # why what is to survive cmappserver is not kept
        self.history: tuple[Past, ...] = ()  # the last runs, the oldest first
        self.asker = ""  # who last asked for an end
        self.define(definition)

    def define(self, definition: Application) -> None:
        """Note the definition in force."""
        # Every answer to a poll has these, and they cost more than all the rest of it.
        self.definition_hash = plan.definition_hash(definition)
        self.launch_hash = plan.launch_hash(definition)

    def resume(self, record: Record) -> None:
        """Take over what an earlier cmappserver had noted."""
        self.since, self.started = record.since, record.started
        self.launched_as = record.launched_as
        self.history, self.asker = record.history, record.asker

    def remember(self, outcome: Outcome, *, launched: bool) -> None:
        """Note how a run ended; or by whom, while it waits, the next one was called off."""
        self.record = ""  # people have had as long as a run to read it, and all is known since
        if self.history and self.history[-1].outcome.run == outcome.run:
            self.history = self.history[:-1]
        by = self.asker if outcome.cause in ASKED else ""
        past = Past(0, outcome, time.time(), self.started if launched else None, by)
        self.history = (*self.history, past)[-HISTORY:]

    def launch(self) -> None:
        """Note a launch of what is in force."""
        self.launched_as = self.launch_hash
        self.started = time.time()


def describe(app: App, custody: Custody, runner: Runner, notes: Notes, now: float) -> AppStatus:
    """The status of an application; ``now`` is monotonic."""
    run, rule, owner = app.run, app.definition.restart, custody.owner
    bounded, mortal = rule.policy != "never", app.definition.manager.on_lost == "stop"
    unlimited = runner.confinement.problem
    problems = [notes.problem, notes.record, notes.unsaved, runner.output.problem]
    problems += [runner.checks.problem, still_there(runner.left_over)]
    problems += [f"resources: {unlimited}"] if unlimited else []
    return AppStatus(
        app=app.name,
        goal=app.goal,
        phase=app.phase,
        description=app.definition.description,
        run=run.id if run is not None else (app.last.run if app.last is not None else None),
        pid=_main_pid(run),
        since=notes.since,
        started=notes.started if app.phase in ALIVE else None,
        health=run.condition if run is not None else _idle_health(app),
        health_output=runner.checks.output,
        announced=run.announced if run is not None else Announced.NOTHING,
        status_text=run.status_text if run is not None else "",
        owner=owner.name if owner is not None and not owner.released else None,
        owner_silent_for=now - owner.heard if owner and not owner.connected else None,
        lease=app.definition.manager.lease if mortal else None,
        ends_within=ends_within(app.definition) if mortal else None,
        lease_over=owner is not None and now >= owner.expires(app.definition.manager.lease),
        restarts=len(policy.recent(app.restarts, now, rule.window)),
        restart_limit=rule.limit if bounded else None,
        restart_window=rule.window if bounded else None,
        next_in=_until(app.deadline, now) if app.phase is Phase.BACKOFF else None,
        confined=run is not None and bool(runner.confinement),
        survivors=runner.survivors(run.id) if run and run.kills >= KILLS_TO_SURVIVE else (),
        oom_kills=run.oom_kills if run is not None else 0,
        definition=notes.definition_hash,
        restart_pending=app.phase in ALIVE
        and (notes.launched_as != notes.launch_hash or untold(app) or bool(unlimited)),
        removed=app.removed,
        maintenance=_notice(app, now),
        requires=app.definition.requires,
        waits_for=_waits_for(app, runner),
        problem="; ".join(filter(None, problems))[:PROBLEM_LENGTH],
        last=app.last,
        log_dropped=runner.output.dropped,
    )


def _notice(app: App, now: float) -> MaintenanceNotice | None:
    maintenance = app.maintenance
    if maintenance is None:
        return None
    left = max(0.0, maintenance.until - now)
    who, since = maintenance.by, maintenance.since
    return MaintenanceNotice(who, since, time.time() + left, left, maintenance.reason)


def ends_within(definition: Application) -> float:
    """Seconds that it may run after the last word of its manager, where that ends it."""
    stop = definition.stop
    lease, has_after = definition.manager.lease, stop.after is not None
    return at_most_once.ends_within(lease, stop.timeout, has_after=has_after)


def _main_pid(run: Run | None) -> int | None:
    """Where it lives, as far as is known: stop.after is launched when nothing is left."""
    if run is None or run.status is not None or run.part is Part.AFTER:
        return None
    return run.pid


def _idle_health(app: App) -> Health:
    return Health.NONE if app.definition.health is None else Health.UNKNOWN


def _until(deadline: float | None, now: float) -> float | None:
    return max(0.0, deadline - now) if deadline is not None else None


def _waits_for(app: App, runner: Runner) -> str:
    if app.run is None:
        return ""
    if app.phase is Phase.WAITING:
        return app.run.detail
    return f"the end of {runner.world.dependencies.holding_up(app)}" if app.run.yielding else ""
