"""What a follower knows, and the smallest steps that it takes.

Only the modules of this package change it; what leads to what is theirs to say.
"""

from enum import Enum

from cmappd.core import wording
from cmappd.core.at_most_once import poll_interval
from cmappd.core.follow.actions import Action, Exit, Failure, Log, Send, Terms, Wish
from cmappd.core.messages import AppStatus, Message, State


class Stage(Enum):
    """How far the following has come."""

    WAITING = "waiting"
    CONNECTING = "connecting"
    GREETING = "greeting"
    CLAIMING = "claiming"
    FOLLOWING = "following"
    SETTLING = "settling"
    PARTING = "parting"
    OVER = "over"


class Following:
    """One manager's following of one application. Instants are monotonic seconds."""

    def __init__(self, terms: Terms, now: float) -> None:
        self.terms = terms
        self.stage = Stage.WAITING
        self.step_until = now  # when the stage ends by itself
        self.wish = Wish.FOLLOW
        # Of the link.
        self.interval = poll_interval(terms.poll_interval, terms.lost_after, None)
        self.heard = now
        self.until = now + terms.connect_timeout  # a claimed link must be there by then
        if terms.start_timeout is not None:
            self.until = now + min(terms.connect_timeout, terms.start_timeout)
        self.attempts = 0
        self.failure: Failure | None = None
        # Of the guest and the application.
        self.guest: tuple[str, str] | None = None  # boot id and epoch
        self.rebooted = False  # since the last link
        self.status: AppStatus | None = None  # None until the application was claimed once
        self.ready = False  # it was seen running
        self.maintained_until: float | None = None  # while the guest says that it is
        self.cleared = False  # an outcome of an earlier manager's run was out of the way
        self.silences = 0  # polls answered by "it is over" without an Ended
        # Of what was asked.
        self.limit: float | None = None  # for what was asked: to start, or to stop
        if terms.start_timeout is not None:
            self.limit = now + terms.start_timeout
        self.kill_from = now  # requests to stop from here on are further ones
        self.claiming: int | None = None  # the last claim; None: none was ever sent
        self.claims = 0  # that were sent, and not refused: each may start the application
        self.poll: int | None = None  # the unanswered poll
        self.stopping: int | None = None  # the unanswered stop
        self.settling: set[int] = set()  # unanswered requests of SETTLING
        self.exit: Exit | None = None  # after this stage; None: what is wished for is to be done
        self._seq = 0
        self._actions: list[Action] = []

    @property
    def run(self) -> str | None:
        """The run that is followed."""
        return None if self.status is None else self.status.run

    @property
    def maintained(self) -> bool:
        """Whether, by the last word of the guest, somebody works on the application."""
        return self.maintained_until is not None

    @property
    def to_stop(self) -> bool:
        """Whether the application is to be stopped."""
        return self.wish in (Wish.STOP, Wish.KILL)

    @property
    def known(self) -> AppStatus | None:
        """The state of the application, where the guest answers for it and owes no word."""
        return self.status if self.stage is Stage.FOLLOWING and self.poll is None else None

    @property
    def may_run(self) -> bool:
        """Whether a claim was granted, or may be: it was not answered, and may be heard yet."""
        return self.claims > 0

    def note(self, state: State, now: float) -> None:
        """Take the last word of the guest for the truth."""
        notice, terms = state.status.maintenance, self.terms
        self.status, self.guest = state.status, (state.boot_id, state.epoch)
        self.interval = poll_interval(terms.poll_interval, terms.lost_after, state.status.lease)
        self.maintained_until = None if notice is None else now + notice.over_in

    def enter(self, stage: Stage, until: float) -> None:
        """The one way into a stage that ends by itself: its deadline comes with it."""
        self.stage = stage
        self.step_until = until
        if stage is Stage.FOLLOWING:
            self.failure = None

    def end(self, end: Exit) -> None:
        """It is over."""
        self.stage = Stage.OVER
        self.exit = end._replace(claimed=self.may_run)
        self.do(self.exit)

    def seq(self) -> int:
        """The number for the next request."""
        self._seq += 1
        return self._seq

    def do(self, *actions: Action) -> None:
        """Ask for these, after what was asked for already."""
        self._actions += actions

    def send(self, message: Message) -> None:
        """Say something to the server."""
        self.do(Send(message))

    def say(self, text: str, severity: int) -> None:
        """Say something to people, about the run that is followed."""
        self.do(Log(wording.Line(text, severity), self.run))

    def flush(self) -> list[Action]:
        """What was asked for since the last time."""
        actions, self._actions = self._actions, []
        return actions
