"""The verbs of cmappmgr that own nothing: --stop, --detach, --status and --check."""

import time
from collections.abc import Callable
from typing import NamedTuple

from cmappd import reasons
from cmappd.client.call import Call, Opener, RefusedError, call
from cmappd.client.link import LinkError
from cmappd.core import at_most_once, policy, wording
from cmappd.core.follow.actions import FIRST_RETRY, LAST_RETRY, Exit, Failure
from cmappd.core.follow.verdicts import exit_as
from cmappd.core.messages import (
    Ack,
    AppStatus,
    Claim,
    Detach,
    Done,
    Ended,
    Refused,
    Reply,
    State,
    Status,
    Stop,
)
from cmappd.core.state import Health, Phase
from cmappd.reasons import Reason

STATUS = Reason("status", None, "the application's state, as an exit code of --status")
_CODES = {Phase.RUNNING: 0, Phase.FAILED: 1, Phase.STOPPED: 3}
_IN_BETWEEN = 2
_LOOK = 2.0  # seconds to find out what is left of what would not stop


class Errand(NamedTuple):
    """What every verb needs. ``until`` is when to give up, ``connect_until`` to connect."""

    app: str
    opener: Opener
    software: str
    instance: str
    chance: float
    connect_until: float
    until: float
    lost_after: float
    say: Callable[[str, int], None]

    def call(self) -> Call:
        """A new call. Raises LinkError and RefusedError."""
        until = min(self.connect_until, self.until)
        return call(self.opener, self.software, self.instance, until, self.chance, self.say)


def status(errand: Errand) -> Exit:
    """The state of the application in one line, and as a code."""
    try:
        found = _ask_status(errand.call(), errand.app, errand.until)
    except (LinkError, RefusedError) as error:
        return _failed(error.failure)
    # While somebody works on it, whoever watches it has nothing to do.
    code = 0 if found.maintenance is not None else _CODES.get(found.phase, _IN_BETWEEN)
    return Exit(STATUS, code, _line(found), found.run)


def check(errand: Errand) -> Exit:
    """Whether the application could be run from here."""
    try:
        connection = errand.call()
        found = _ask_status(connection, errand.app, errand.until)
    except (LinkError, RefusedError) as error:
        return _failed(error.failure)
    alone = at_most_once.ends_alone_after(found.ends_within)
    if found.removed:
        gone = "removed from the configuration; it runs on until it ends"
        return exit_as(reasons.UNKNOWN_APP, gone, found.run)._replace(ends_alone_after=alone)
    for line in (*connection.expiring(), *wording.hasty(found, errand.lost_after)):
        errand.say(line.text, line.severity)
    welcome = connection.welcome
    text = f"defined in {welcome.guest}, cmappserver {welcome.software}"
    if found.maintenance is not None:
        text += f"; under maintenance {wording.maintenance_text(found.maintenance)}"
    text += f"; {wording.problem_text(found.problem)}" if found.problem else ""
    return Exit(reasons.SUCCESS, 0, text, ends_alone_after=alone)


def detach(errand: Errand) -> Exit:
    """Have the manager that runs with our certificate hand the application over."""
    text = "detached"
    try:
        connection = errand.call()
        for reply in connection.ask(Detach(connection.seq(), errand.app), errand.until):
            if isinstance(reply, Done):
                text = reply.text
    except (LinkError, RefusedError) as error:
        return _failed(error.failure)
    return Exit(reasons.SUCCESS, 0, text)


def stop(errand: Errand, takeover: bool) -> Exit:
    """Stop the application; what does not run is stopped already."""
    asked = 0
    while True:
        connection = None
        try:
            connection = errand.call()
            asked += 1
            _stop(connection, errand, takeover)
            return Exit(reasons.STOPPED, 0, reasons.STOPPED.meaning)
        except RefusedError as error:
            return _failed(error.failure)
        except LinkError as error:
            if connection is not None and time.monotonic() >= errand.until:
                return _not_stopped(connection, errand)
            if connection is None:
                lost = Failure(reasons.LOST, f"asked to stop, result unknown: {error}")
                return _failed(lost if asked else error.failure)
            errand.say(f"the link was lost: {error}; trying again", wording.WARNING)
            errand = errand._replace(connect_until=errand.until)
            time.sleep(policy.back_off(asked - 1, FIRST_RETRY, LAST_RETRY, errand.chance))


def _stop(connection: Call, errand: Errand, takeover: bool) -> None:
    if takeover:
        claim = Claim(connection.seq(), errand.app, start=False, takeover=True)
        for reply in connection.ask(claim, errand.until):
            _acknowledge(connection, errand, reply, owner=True)
    for reply in connection.ask(Stop(connection.seq(), errand.app), errand.until):
        _acknowledge(connection, errand, reply, owner=takeover)


def _acknowledge(connection: Call, errand: Errand, reply: Reply, owner: bool) -> None:
    if not isinstance(reply, Ended):
        return
    errand.say(wording.outcome_text(reply.outcome), wording.INFO)
    if owner:
        connection.tell(Ack(connection.seq(), reply.outcome.run))


def _not_stopped(connection: Call, errand: Errand) -> Exit:
    try:
        found = _ask_status(connection, errand.app, time.monotonic() + _LOOK)
    except (LinkError, RefusedError):
        return exit_as(
            reasons.LOST, "asked to stop, and not gone in time; its state is unknown", None
        )
    if found.phase is Phase.STOPPED:
        return Exit(reasons.STOPPED, 0, reasons.STOPPED.meaning, found.run)
    return exit_as(reasons.NOT_STOPPED, f"not gone in time: {_line(found)}", found.run)


def _ask_status(connection: Call, app: str, until: float) -> AppStatus:
    found = None
    for reply in connection.ask(Status(connection.seq(), (app,)), until):
        if isinstance(reply, State) and reply.status.app == app:
            found = reply.status
    if found is None:
        raise RefusedError(Refused(0, reasons.UNKNOWN_APP.name, "the guest does not name it"))
    return found


def _failed(failure: Failure) -> Exit:
    return exit_as(failure.reason, failure.text, None)


def _line(status: AppStatus) -> str:
    facts = [str(status.phase)]
    if status.maintenance is not None:
        facts.append(f"under maintenance {wording.maintenance_text(status.maintenance)}")
    if status.waits_for:
        facts.append(f"waits for {status.waits_for}")
    if status.pid is not None:
        facts.append(f"pid {status.pid}")
    if status.health is not Health.NONE:
        facts.append(f"health {status.health}")
    if status.owner is not None:
        facts.append(f"owner {status.owner}")
    if status.survivors:
        facts.append(f"left: pid {', '.join(map(str, status.survivors))}")
    if status.phase in (Phase.STOPPED, Phase.FAILED) and status.last is not None:
        facts.append(wording.outcome_text(status.last))
    if status.problem:
        facts.append(wording.problem_text(status.problem))
    return ", ".join(facts)
