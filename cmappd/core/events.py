"""What can happen to an application, and what can be asked to be done about it: as data.

Events that carry a ``run`` speak of that run only. ``lifecycle.step`` takes events and
gives actions; carrying those out, and telling what came of it, is the supervisor's part.
"""

from dataclasses import dataclass

from cmappd.core.config import Application
from cmappd.core.sd_notify import Notification
from cmappd.core.state import Cause, ExitStatus, Maintenance, Outcome, Part

# Events ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Somebody wishes it up."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Somebody wishes it down.

    ``patience`` is for those that require it to end before it: seconds, 0 where none is up or
    nobody may wait for them.
    """

    cause: Cause
    detail: str = ""
    patience: float = 0.0


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
class Maintain:
    """Somebody begins to work on it, or goes on with other words."""

    maintenance: Maintenance


@dataclass(frozen=True, slots=True)
class MaintenanceOver:
    """The work is done, or its time is over."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """What the run requires is not all ready; ``detail`` says what is not, and what that does."""

    run: str
    detail: str


@dataclass(frozen=True, slots=True)
class Provided:
    """All that the run requires is ready."""

    run: str


@dataclass(frozen=True, slots=True)
class NotProvided:
    """Something that the run requires has come to rest, or is not there."""

    run: str
    detail: str


@dataclass(frozen=True, slots=True)
class Released:
    """Of those that require it, nothing lives any more."""

    run: str


@dataclass(frozen=True, slots=True)
class Launched:
    """A command of the run has a process."""

    run: str
    pid: int
    part: Part = Part.MAIN


@dataclass(frozen=True, slots=True)
class NotLaunched:
    """A command of the run got no process."""

    run: str
    detail: str
    part: Part = Part.MAIN


@dataclass(frozen=True, slots=True)
class Exited:
    """The process of a command has ended. ``empty``: and nothing else is left of the tree.

    ``stop.after`` has a tree of its own, because it is launched when the run's is gone.
    ``oom_kills`` is how many processes of the run the kernel has killed for memory by then.
    """

    run: str
    status: ExitStatus
    empty: bool
    part: Part = Part.MAIN
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class OomKilled:
    """The kernel has killed so many of its processes for memory by now, and the run goes on."""

    run: str
    oom_kills: int


@dataclass(frozen=True, slots=True)
class MainFound:
    """This is the main process: of what a command that daemonised left behind, or from now on."""

    run: str
    pid: int


@dataclass(frozen=True, slots=True)
class Notified:
    """A process of the run's tree has said something of the application, by sd_notify(3).

    What it said of the main process is not heeded here: who that is, MainFound tells.
    """

    run: str
    word: Notification


@dataclass(frozen=True, slots=True)
class Asked:
    """The stop signal was sent."""

    run: str


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing is left of the tree: the run's, or that of ``stop.after``."""

    run: str
    part: Part = Part.MAIN


@dataclass(frozen=True, slots=True)
class Checked:
    """A health check has ended; None: it could not be made, and nothing is known.

    ``detail`` is the end of the sentence "its health check ...".
    """

    run: str
    passed: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class CheckDue:
    """The time of the next health check has come."""


@dataclass(frozen=True, slots=True)
class PingDue:
    """The time for a ping of the watchdog is over."""


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
    | Awaited
    | Provided
    | NotProvided
    | Released
    | Maintain
    | MaintenanceOver
    | Launched
    | NotLaunched
    | Exited
    | OomKilled
    | MainFound
    | Asked
    | Gone
    | Notified
    | Checked
    | CheckDue
    | PingDue
    | TimedOut
)


# Actions -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Require:
    """Have these started, and watch them; answered by Awaited, and by Provided or NotProvided."""

    run: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopDependants:
    """Stop all that requires it; of a run that yields, answered by Released."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Spawn:
    """Launch a command of this run; answered by Launched or NotLaunched, and then by Exited."""

    run: str
    part: Part = Part.MAIN


@dataclass(frozen=True, slots=True)
class FindMain:
    """Look for the main process of what daemonised; answered by MainFound, or by Gone."""

    run: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Send the stop signal: to the main process, or to the ``whole`` tree; answered by Asked."""

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
    """It has ended for good: this is the result to deliver. Of a run that was not ``launched``
    nothing is in the log.
    """

    outcome: Outcome
    launched: bool = True


Action = Require | StopDependants | Spawn | FindMain | Terminate | Destroy | Check | Conclude
