"""The tagged messages of ``cmapp/1``: what the two ends say to each other.

Requests go to cmappserver and carry a ``seq`` above 0. Every request is answered by one
closing reply with the same ``seq``, in any order, because a Stop may take a minute and a
Poll may not: ``Welcome``, ``State`` (to Claim and Poll), ``Ended`` (to Claim), ``Done`` or
``Refused``. Before its closing ``Done``, Status is answered by a ``State`` for each
application, Logs by ``Text``, and History by a ``Past`` for each run. What the server says
unasked has ``seq`` 0: a changed ``State``, the result of a run, and ``Refused`` before it hangs up.

No message carries a command, a path, a user or an environment: a manager can only name
an application. Unknown fields are ignored, so that fields can be added; unknown types
are an error. Wall times are seconds since the epoch and for people only; ``*_in`` and
``*_for`` are seconds from now, because the two ends share no monotonic clock. A number that
no honest guest says is an error, too, so that nobody who reads one has to think of it.
"""

from typing import Annotated

import msgspec

from cmappd.core.state import Announced, Goal, Health, Outcome, Phase
from cmappd.core.units import DAY, LONGEST

# Seconds that maintenance may last, so that nobody forgets it for ever.
MAX_MAINTENANCE = 7 * DAY

Instant = Annotated[float, msgspec.Meta(ge=0, lt=253_402_300_800)]  # wall time, to the year 9999
Seconds = Annotated[float, msgspec.Meta(ge=0, le=100 * LONGEST)]  # also a sum, or a long silence
Lease = Annotated[float, msgspec.Meta(ge=1, le=LONGEST)]  # it is polled several times in a lease
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Message(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    """What all messages have. ``seq`` pairs a reply with its request; 0 is unasked."""

    seq: int


class Hello(Message, frozen=True, tag="hello"):
    """The first request. ``instance`` is random for each process: two of one name differ."""

    software: str
    instance: str


class Claim(Message, frozen=True, tag="claim"):
    """Own ``app`` from here on, and start it unless it runs or ``start`` is false.

    ``run`` is the run that this instance followed before its link was lost; its outcome
    is given even when it has been replaced since, that of the last run where the restart policy
    has gone on from it.
    """

    app: str
    run: str | None = None
    start: bool = True
    takeover: bool = False


class Poll(Message, frozen=True, tag="poll"):
    """Prove that the guest answers, and renew the lease. From the owner only."""


class Ack(Message, frozen=True, tag="ack"):
    """The outcome of ``run`` is written down here; it need not be kept for us any more."""

    run: str


class Release(Message, frozen=True, tag="release"):
    """Give up the ownership; the application runs on for its next owner.

    With ``handover`` that one is awaited: the lease runs on from here, and the result of what
    ends meanwhile is kept for whoever claims next.
    """

    handover: bool = False


class Detach(Message, frozen=True, tag="detach"):
    """Have the manager of this name that owns ``app`` hand it over.

    From a manager only. Answered when it is owned no more.
    """

    app: str


class Stop(Message, frozen=True, tag="stop"):
    """Stop ``app`` in order, or with ``kill`` at once. Answered when its tree is gone."""

    app: str
    kill: bool = False


class Status(Message, frozen=True, tag="status"):
    """Describe ``apps``, or with none named all that the peer may see."""

    apps: tuple[str, ...] = ()


class Start(Message, frozen=True, tag="start"):
    """Start ``app``; what runs already runs on. Answered when it is ready or has failed.

    From the administrator only.
    """

    app: str


class Restart(Message, frozen=True, tag="restart"):
    """Stop ``app`` if it runs, and start it. Answered as Start is.

    From the administrator only.
    """

    app: str


class Maintain(Message, frozen=True, tag="maintain"):
    """Put ``app`` under maintenance for so many seconds from now; with 0, end it.

    From the administrator only.
    """

    app: str
    seconds: float = 0.0
    reason: str = ""


class Reload(Message, frozen=True, tag="reload"):
    """Read the configuration again. From the administrator only."""


class Upgrade(Message, frozen=True, tag="upgrade"):
    """Replace cmappserver by the version now on disk; what runs is not touched.

    ``Done`` has the new version; then the connection ends, and the new one answers the next.
    From the administrator only.
    """


class Logs(Message, frozen=True, tag="logs"):
    """The last ``lines`` lines of the log of ``app``; with ``follow`` all that comes after them.

    Then it is answered when there is nothing more to follow. From the administrator only.
    """

    app: str
    lines: int = 10
    follow: bool = False


class Reopen(Message, frozen=True, tag="reopen"):
    """Open the logs of ``apps``, or of all, anew. From the administrator only."""

    apps: tuple[str, ...] = ()


class History(Message, frozen=True, tag="history"):
    """How the last runs of ``app`` ended. From the administrator only."""

    app: str


class Welcome(Message, frozen=True, tag="welcome"):
    """The answer to Hello. ``epoch`` changes with each start of cmappserver."""

    software: str
    guest: str
    boot_id: str
    epoch: str


class MaintenanceNotice(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody works on the application: who, why, and for how long."""

    by: str
    since: Instant
    until: Instant
    over_in: Seconds
    reason: str = ""


class AppStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that can be said of one application now."""

    app: str
    goal: Goal
    phase: Phase
    description: str = ""
    run: str | None = None  # the live run, or the last one
    pid: Count | None = None
    since: Instant | None = None  # the last change of phase
    started: Instant | None = None  # the launch of the live run
    health: Health = Health.NONE
    health_output: str = ""
    announced: Announced = Announced.NOTHING  # what it says of itself, by sd_notify(3)
    status_text: str = ""  # the same, in its own words
    owner: str | None = None
    owner_silent_for: Seconds | None = None  # None while the owner is connected
    lease: Lease | None = None  # None where the silence of the owner ends nothing
    ends_within: Seconds | None = None  # how long it may run after the last word of its owner
    lease_over: bool = False  # the owner was not heard for its lease: anybody may claim it
    restarts: Count = 0  # within the window
    restart_limit: Count | None = None  # None where the policy never restarts
    restart_window: Seconds | None = None
    next_in: Seconds | None = None  # in BACKOFF: until the next launch
    confined: bool = False  # its tree is known by a cgroup, and not by what processes show
    survivors: tuple[Count, ...] = ()  # pids that SIGKILL did not end
    oom_kills: Count = 0  # processes of the live run that the kernel has killed for memory
    definition: str = ""  # a hash of the definition in force
    restart_pending: bool = False  # a launch key has changed since the launch
    requires: tuple[str, ...] = ()  # the applications that must be ready before it is launched
    waits_for: str = ""  # what keeps it from its launch, or in order from its end; for people
    removed: bool = False  # its stanza is gone; it leaves when it ends
    maintenance: MaintenanceNotice | None = None
    problem: str = ""  # with its stanza, records, log, checks or limits, or what is left of a run
    last: Outcome | None = None  # how its last run ended
    log_dropped: Count = 0  # lines of its log that could not be written


class State(Message, frozen=True, tag="state"):
    """The state of an application, and of the guest around it."""

    status: AppStatus
    boot_id: str
    epoch: str


class Ended(Message, frozen=True, tag="ended"):
    """The result for the owner: the application ended, and the guest will not restart it.

    The two texts are the evidence: the last output of the health command and of the
    application itself.
    """

    app: str
    outcome: Outcome
    health_output: str = ""
    log_tail: str = ""


class Leave(Message, frozen=True, tag="leave"):
    """Hand the application over, and end: another process of this manager's name asked for it."""


class Past(Message, frozen=True, tag="past"):
    """A run that has ended; ``by`` is who asked for its end."""

    outcome: Outcome
    ended: Instant
    started: Instant | None = None
    by: str = ""


class Text(Message, frozen=True, tag="text"):
    """A piece of a log; or with ``remark`` a line about the log, for the person who reads it."""

    text: str
    remark: bool = False


class Done(Message, frozen=True, tag="done"):
    """The request has been carried out; ``text`` says so to a person.

    ``about`` is, after Status, what holds for all of this guest: for its administrator only.
    """

    text: str = ""
    about: str = ""


class Refused(Message, frozen=True, tag="refused"):
    """The request has not been carried out. ``reason`` is a name in ``cmappd.reasons``."""

    reason: str
    text: str


Request = (
    Hello
    | Claim
    | Poll
    | Ack
    | Release
    | Detach
    | Stop
    | Status
    | Start
    | Restart
    | Maintain
    | Reload
    | Upgrade
    | Logs
    | Reopen
    | History
)
Reply = Welcome | State | Ended | Leave | Past | Text | Done | Refused
