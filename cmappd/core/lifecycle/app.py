"""One application as the lifecycle sees it, and the one way from phase to phase."""

import zlib
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from cmappd.core.config import Application
from cmappd.core.events import Action, Event
from cmappd.core.state import (
    Announced,
    Cause,
    ExitStatus,
    Goal,
    Health,
    Maintenance,
    Outcome,
    Part,
    Phase,
)

Kind = Literal["simple", "forking", "oneshot"]

# In these a run is expected to do its work, and its health is looked after.
CHECKED_PHASES = frozenset({Phase.STARTING, Phase.RUNNING})
# Seconds to survive of what cannot say that it is ready: it was launched before it was to say so.
SURVIVAL = 1.0


class Run(Struct, frozen=True):
    """One launch of an application, until its tree is empty."""

    id: str
    started: float
    kind: Kind = "simple"  # the type of the definition it was launched by
    part: Part = Part.MAIN  # the command that it is at: START, MAIN or AFTER
    launched: bool = False  # there is, or was, a process of it
    limit: float | None = None  # of a daemon, to have found its place: forks do not prolong it
    searching: bool = False  # its command has daemonised; the main process is being looked for
    asking: bool = False  # stop.command is under way
    asked: bool = False  # it was asked to end: by stop.command, or the stop signal was sent
    yielding: bool = False  # it is asked to end when those that require it have ended
    pid: int | None = None  # of the main process, once that is known; a oneshot has none
    ending: Cause | None = None  # why it is being ended, if it is
    detail: str = ""
    status: ExitStatus | None = None  # of the main process, once it has ended
    health: Health = Health.NONE
    streak: int = 0  # consecutive passes above 0, consecutive failures below
    check_due: float | None = None  # None while a check is under way, or there is none
    checking: bool = False  # a check is under way
    kills: int = 0  # how often SIGKILL was sent to what is left
    oom_kills: int = 0  # of its processes, by the kernel for memory, while it went on
    socket: bool = False  # it was given NOTIFY_SOCKET
    unheard: bool = False  # nobody listened for a while in which it may have said that it is ready
    announced: Announced = Announced.NOTHING
    status_text: str = ""  # what it said last of its state, in words
    watchdog: float = 0.0  # seconds between two pings at the most, as it was told; 0: none awaited
    chosen: float | None = None  # the same, as it has said itself since
    ping_due: float | None = None  # when the next ping is late
    silent: bool = False  # a ping was missed, and none has come since
    excused: float | None = None  # it is stopping by itself: until then no failure counts

    @property
    def condition(self) -> Health:
        """Its health, by its checks and by its watchdog."""
        return Health.UNHEALTHY if self.silent else self.health

    @property
    def ping_interval(self) -> float:
        """Seconds between two pings at the most; 0: none awaited."""
        return self.watchdog if self.chosen is None else self.chosen

    @property
    def chance(self) -> float:
        """A number from 0 to 1 that spreads what is periodic: run ids are as good as random."""
        return zlib.crc32(self.id.encode()) / 2**32


class App(Struct, frozen=True):
    """One application.

    ``run`` is there in the phases in which a process may live, and in WAITING, which is for it.
    """

    name: str
    epoch: str  # makes run ids of different servers differ
    definition: Application
    goal: Goal = Goal.DOWN
    phase: Phase = Phase.STOPPED
    deadline: float | None = None  # when the phase ends by itself
    serial: int = 0  # of the last launch
    run: Run | None = None
    restarts: tuple[float, ...] = ()  # when the guest restarted it
    last: Outcome | None = None  # how the run before ended
    removed: bool = False  # its stanza is gone: it may end, and not start
    maintenance: Maintenance | None = None  # while it is there, only what was asked for is done


Step = tuple[App, tuple[Action, ...]]


def enter(app: App, phase: Phase, deadline: float | None, run: Run | None) -> App:
    """The one way into a phase: its deadline comes with it, and so does its run."""
    if run is not None and phase not in CHECKED_PHASES:
        run = replace(run, check_due=None, searching=False, ping_due=None)
    return replace(app, phase=phase, deadline=deadline, run=run)


def is_up(app: App) -> bool:
    """Whether the application is there: its main process, or the success of a oneshot."""
    return app.run is not None and app.phase in CHECKED_PHASES and has_main(app.run)


def has_main(run: Run) -> bool:
    """Whether its main process lives, or it is a oneshot that has ended, as it should."""
    return (run.pid is None) == (run.status is not None)


def readiness(app: App) -> float | Literal["health", "notify"]:
    """What makes the live run ready: seconds to survive, or a word that is awaited."""
    ready = app.definition.start.ready
    return SURVIVAL if ready == "notify" and not live_run(app).socket else ready


def concerns(app: App, one: Event | Action) -> bool:
    """Whether it speaks of the live run, or of none."""
    run = getattr(one, "run", None)
    return run is None or (app.run is not None and app.run.id == run)


def live_run(app: App) -> Run:
    if app.run is None:  # the walk of all states proves that this cannot be
        raise AssertionError(f"{app.name} is {app.phase} without a run")
    return app.run


def last_outcome(app: App) -> Outcome:
    if app.last is None:  # it waits because a run has ended
        raise AssertionError(f"{app.name} is {app.phase} without an outcome")
    return app.last
