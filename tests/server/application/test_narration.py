"""What the log of cmappserver says of the life of an application, and how bad it is."""

from collections.abc import Iterator

import msgspec
import pytest

from cmappd.core import lifecycle
from cmappd.core.config import Application, Start, Stop
from cmappd.core.events import (
    CheckDue,
    Checked,
    Event,
    Exited,
    Gone,
    Kill,
    Launched,
    NotLaunched,
    TimedOut,
)
from cmappd.core.events import Start as Begin
from cmappd.core.events import Stop as End
from cmappd.core.lifecycle import App
from cmappd.core.state import Cause, ExitStatus, Part
from cmappd.core.wording import ERROR, INFO, WARNING, Line
from cmappd.server.application.narration import narrate
from tests.core.definitions import fresh, health

RUN = "db.e.1"
SIMPLE = Application(command=("/bin/db",))
PREPARED = Application(command=("/bin/db",), start=Start(command=("/bin/prepare",)))
CLEANED = Application(command=("/bin/db",), stop=Stop(after=("/bin/clean",)))
FORKING = Application(command=("/bin/db",), type="forking")
CRASHED = ExitStatus(signal=9)


def told(defined: Application, events: list[Event]) -> Iterator[Line]:
    app: App = fresh(defined)
    for event in events:
        before = app
        app, _ = lifecycle.step(app, event, 0.0)
        yield from narrate(before, app, 0.0)


LAST: list[tuple[Application, list[Event], Line]] = [
    (SIMPLE, [Launched(RUN, 7)], Line(f"starting (run {RUN}, pid 7)", INFO)),
    (FORKING, [Launched(RUN, 7)], Line(f"starting (run {RUN})", INFO)),
    (PREPARED, [Launched(RUN, 7, Part.START)], Line(f"starting (run {RUN})", INFO)),
    (
        SIMPLE,
        [Launched(RUN, 7), TimedOut(), End(Cause.OPERATOR)],
        Line(
            "stopping in the guest by its administrator"
            f" (run {RUN}, pid 7); SIGKILL follows in 30.0 s",
            INFO,
        ),
    ),
    (
        SIMPLE,
        [Launched(RUN, 7), TimedOut(), End(Cause.LEASE)],
        Line(
            "stopping because no manager was heard for its lease"
            f" (run {RUN}, pid 7); SIGKILL follows in 30.0 s",
            WARNING,
        ),
    ),
    (
        SIMPLE,
        [Launched(RUN, 7), TimedOut(), End(Cause.MANAGER, patience=9.0)],
        Line(
            f"stopping as its manager asked, when those that require it have ended (run {RUN})",
            INFO,
        ),
    ),
    (
        SIMPLE,
        [Launched(RUN, 7), TimedOut(), Exited(RUN, CRASHED, empty=False)],
        Line(
            "its main process has ended, SIGKILL (signal 9); stopping what is left"
            f" (run {RUN}); SIGKILL follows in 30.0 s",
            WARNING,
        ),
    ),
    (
        CLEANED,
        [Launched(RUN, 7), TimedOut(), Exited(RUN, CRASHED, empty=True)],
        Line(f"nothing is left of it; stop.after runs (run {RUN})", INFO),
    ),
    (
        SIMPLE,
        [Launched(RUN, 7), Kill(Cause.OPERATOR)],
        Line(f"killing what is left (run {RUN}, pid 7)", WARNING),
    ),
    (SIMPLE, [NotLaunched(RUN, "cannot execute /bin/db")], Line("failed", ERROR)),
]


@pytest.mark.parametrize(("defined", "events", "last"), LAST)
def test_what_is_told_last(defined: Application, events: list[Event], last: Line) -> None:
    began: list[Event] = [Begin()]
    assert [*told(defined, began + events)][-1] == last


def test_a_launch_that_fails_is_told_as_an_error() -> None:
    said = [*told(SIMPLE, [Begin(), NotLaunched(RUN, "cannot execute /bin/db")])]
    assert said[0] == Line(f"run {RUN} could not be started: cannot execute /bin/db", ERROR)


def test_an_end_that_was_asked_for_is_told_as_news() -> None:
    asked: list[Event] = [Begin(), Launched(RUN, 7), End(Cause.OPERATOR), Gone(RUN, Part.MAIN)]
    assert {line.severity for line in told(SIMPLE, asked)} == {INFO}


def test_why_comes_before_what() -> None:
    sick = Application(command=("/bin/db",), health=health(failures=1))
    failed = Checked(RUN, passed=False, detail="ended with exit code 1")
    said = [*told(sick, [Begin(), Launched(RUN, 7), TimedOut(), CheckDue(), failed])]
    assert said[-2:] == [
        Line("unhealthy", WARNING),
        Line(
            f"stopping (run {RUN}, pid 7); SIGKILL follows in 30.0 s:"
            " unhealthy: its health check ended with exit code 1",
            WARNING,
        ),
    ]


def test_the_failed_check_is_told_where_it_makes_it_unhealthy() -> None:
    sick = Application(command=("/bin/db",), health=health(failures=1, action="report"))
    up: list[Event] = [Begin(), Launched(RUN, 7), TimedOut(), CheckDue()]
    well = fresh(sick)
    for event in up:
        well, _ = lifecycle.step(well, event, 0.0)
    ill, _ = lifecycle.step(well, Checked(RUN, passed=False, detail="exit code 1"), 0.0)
    said = "ended with exit code 1: no space left"
    assert narrate(well, ill, 0.0, said) == [Line(f"unhealthy: {said}", WARNING)]
    assert narrate(ill, well, 0.0, said) == [Line("unknown", INFO)]
    assert well.run is not None
    silent = msgspec.structs.replace(well, run=msgspec.structs.replace(well.run, silent=True))
    assert narrate(well, silent, 0.0, said) == [Line("unhealthy", WARNING)]
