"""What can happen to an application, and what can be asked to be done about it: as data.

Events that carry a ``run`` speak of that run only. ``lifecycle.step`` takes events and
gives actions; carrying those out, and telling what came of it, is the supervisor's part.
"""

from dataclasses import dataclass

from cmappd.core.config import Application
from cmappd.core.state import Cause, ExitStatus, Outcome

# Events ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Somebody wishes it up."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Somebody wishes it down."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Kill:
    """Somebody wishes it down at once."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Restart:
    """Somebody wishes it up, in a new run."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Define:
    """The definition in force has changed, or is there again."""

    definition: Application


@dataclass(frozen=True, slots=True)
class Remove:
    """The definition is gone."""


@dataclass(frozen=True, slots=True)
class Launched:
    """The run has a process."""

    run: str
    pid: int


@dataclass(frozen=True, slots=True)
class NotLaunched:
    """The run got no process."""

    run: str
    detail: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The main process has ended. ``empty``: and nothing else is left of the tree."""

    run: str
    status: ExitStatus
    empty: bool


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing is left of the tree."""

    run: str


@dataclass(frozen=True, slots=True)
class Checked:
    """A health check has ended."""

    run: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class CheckDue:
    """The time of the next health check has come."""


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The deadline of the phase has come."""


Event = (
    Start
    | Stop
    | Kill
    | Restart
    | Define
    | Remove
    | Launched
    | NotLaunched
    | Exited
    | Gone
    | Checked
    | CheckDue
    | TimedOut
)


# Actions -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    """Launch the command as this run; answered by Launched or NotLaunched."""

    run: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Send the stop signal: to the main process, or to the ``whole`` tree."""

    run: str
    whole: bool


@dataclass(frozen=True, slots=True)
class Destroy:
    """Send SIGKILL to the whole tree."""

    run: str


@dataclass(frozen=True, slots=True)
class Check:
    """Run a health check; answered by Checked."""

    run: str


@dataclass(frozen=True, slots=True)
class Conclude:
    """It has ended for good: this is the result to deliver."""

    outcome: Outcome


Action = Spawn | Terminate | Destroy | Check | Conclude
