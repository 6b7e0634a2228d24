"""The words for what an application is wished to be, is, and was.

Everything above speaks of applications in these words: the lifecycle changes them, the
messages carry them, the programs print them. Instants are monotonic seconds, and no
run is ever spoken of without its id.
"""

from enum import StrEnum
from typing import Annotated

import msgspec


class Goal(StrEnum):
    """What somebody wished for."""

    UP = "up"
    DOWN = "down"


class Phase(StrEnum):
    """What is the case. A process may live in the ALIVE ones, and in no other."""

    STOPPED = "stopped"  # nothing runs, and nothing went wrong
    WAITING = "waiting"  # nothing runs; to be launched when what it requires is ready
    STARTING = "starting"  # launched, not yet known to be ready
    RUNNING = "running"
    STOPPING = "stopping"  # asked to end, or its main process has ended and the rest must
    KILLING = "killing"  # SIGKILL is being sent until nothing is left
    BACKOFF = "backoff"  # nothing runs; to be launched again when the delay is over
    FAILED = "failed"  # nothing runs, and nothing more will be tried


ALIVE = frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.KILLING})
REST = frozenset({Phase.STOPPED, Phase.FAILED})  # nothing runs, nor will by itself


class Part(StrEnum):
    """What a process was launched as: one of the commands of an application, by its key."""

    START = "start.command"
    MAIN = "command"
    STOP = "stop.command"
    AFTER = "stop.after"


class Cause(StrEnum):
    """Why a run ended: by itself, or because somebody or something ended it."""

    EXIT = "exit"  # by itself; its status says the rest
    MANAGER = "manager"  # the owning manager asked
    OPERATOR = "operator"  # the guest's administrator asked
    SHUTDOWN = "shutdown"  # cmappserver was told to end
    LEASE = "lease"  # no manager was heard for the lease, and on_lost = "stop"
    REQUIRED = "required"  # one that it requires was stopped
    RELOAD = "reload"  # a changed launch key, and reload = "restart"
    NOT_STARTED = "not-started"  # it could not be executed
    NOT_READY = "not-ready"  # it was not ready within start.timeout
    UNHEALTHY = "unhealthy"  # its health checks failed too often, or its watchdog was not renewed
    OUT_OF_MEMORY = "out-of-memory"  # the kernel killed its main process for memory
    UNKNOWN = "unknown"  # it ended, and its status cannot be known


REQUESTED = frozenset(
    {Cause.MANAGER, Cause.OPERATOR, Cause.SHUTDOWN, Cause.LEASE, Cause.REQUIRED, Cause.RELOAD}
)


class Health(StrEnum):
    """What the health command last said, after counting."""

    NONE = "none"  # there is no health command
    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Announced(StrEnum):
    """What an application last said of its own state, by sd_notify(3)."""

    NOTHING = ""
    READY = "ready"
    RELOADING = "reloading"
    STOPPING = "stopping"  # which is final


class ExitStatus(msgspec.Struct, frozen=True):
    """How a process ended: with an exit code, or by a signal; with neither, nobody knows.

    Only what a process can end with is taken from a peer: a manager ends with it too.
    """

    code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    signal: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None

    @property
    def known(self) -> bool:
        """Whether anybody knows."""
        return self.code is not None or self.signal is not None

    @property
    def shell_code(self) -> int | None:
        """The status as a shell shows it: the code, or 128 + the signal's number."""
        return self.code if self.signal is None else 128 + self.signal


class Maintenance(msgspec.Struct, frozen=True):
    """Somebody works on an application, until this instant, and it is to be left alone.

    ``by`` is who said so, ``since`` when by the wall clock, ``reason`` a sentence for people.
    """

    until: float
    by: str
    since: float
    reason: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended. ``detail`` is a sentence for people; ``success`` the policy's verdict."""

    run: str
    cause: Cause
    status: ExitStatus
    success: bool
    detail: str = ""
