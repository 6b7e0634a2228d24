"""What cmappmgr does while it follows an application: a pure machine, without time or sockets.

The driver tells it what happens (``connected``, ``message``, ``link_lost``, ``stop``, ``tick``)
and carries out the actions that each of these gives, in order. All instants are monotonic
seconds, and ``deadline`` says when to call ``tick`` next.

    WAITING ──▶ CONNECTING ──▶ GREETING ──▶ CLAIMING ──▶ FOLLOWING ──▶ SETTLING ──▶ Exit
       ▲ retry       │             │            │            │            │
       └─────────────┴──── link lost ───────────┴────────────┘            └▶ CLAIMING, where a
                                                                stop of long ago was in the way
Rules:

- Until the application has been claimed once, the time for all of it is ``connect_timeout``.
- Then a lost link means "unknown": it is retried for ``lost_after`` from the last word heard,
  whatever fails meanwhile, and only an explicit refusal ends it sooner.
- A link that does not answer a poll for two poll intervals is given up for a new one.
- A claim on a new link never starts the application: what ended meanwhile is to be told.
- Once a Claim was sent, the application may run: SIGTERM then ends only when it is stopped.
"""

from enum import Enum

from cmappd import reasons
from cmappd.core import policy, wording
from cmappd.core.follow_actions import (
    ATTEMPT,
    FIRST_RETRY,
    LAST_RETRY,
    Action,
    Close,
    Connect,
    Exit,
    Failure,
    Log,
    Send,
    Terms,
    Wish,
    exit_after,
    exit_as,
    is_known,
    is_over,
    is_stale,
    refusal,
)
from cmappd.core.messages import (
    Ack,
    AppStatus,
    Claim,
    Done,
    Ended,
    Hello,
    Message,
    Poll,
    Refused,
    Release,
    Reply,
    State,
    Stop,
    Welcome,
)
from cmappd.core.state import Phase
from cmappd.core.wording import ERROR, INFO, WARNING

SETTLE = 1.0  # seconds to wait until the server has noted that we know the outcome


class Stage(Enum):
    """How far the following has come."""

    WAITING = "waiting"
    CONNECTING = "connecting"
    GREETING = "greeting"
    CLAIMING = "claiming"
    FOLLOWING = "following"
    SETTLING = "settling"
    OVER = "over"


class Follower:
    """The machine. Call ``tick`` once to begin."""

    def __init__(self, terms: Terms, now: float) -> None:
        self.terms = terms
        self.stage = Stage.WAITING
        self.status: AppStatus | None = None  # None until the application was claimed once
        self.wish = Wish.FOLLOW
        # A poll must have the time to be missed, and the link to be renewed, before lost_after.
        self._interval = min(terms.poll_interval, terms.lost_after / 4)
        self._heard = now
        self._until = now + terms.connect_timeout  # a claimed link must be there by then
        self._step_until = now  # when the stage ends by itself
        self._limit: float | None = None  # for what was asked: to start, or to stop
        if terms.start_timeout is not None:
            self._limit = now + terms.start_timeout
        self._poll: int | None = None  # the unanswered poll
        self._stopping: int | None = None  # the unanswered stop
        self._settling: set[int] = set()  # unanswered requests of SETTLING
        self._exit: Exit | None = None  # after SETTLING; None: claim again
        self._claiming: int | None = None  # the last claim; None: none was ever sent
        self._guest: tuple[str, str] | None = None  # boot id and epoch
        self._rebooted = False  # since the last link
        self._cleared = False  # an outcome of an earlier manager's run was out of the way
        self._silences = 0  # polls answered by "it is over" without an Ended
        self._attempts = 0
        self._failure: Failure | None = None
        self._seq = 0
        self._actions: list[Action] = []

    @property
    def run(self) -> str | None:
        """The run that is followed."""
        return None if self.status is None else self.status.run

    @property
    def deadline(self) -> float | None:
        """When ``tick`` is due; None when it is over."""
        if self.stage is Stage.OVER:
            return None
        times = [self._step_until]
        if self.stage not in (Stage.FOLLOWING, Stage.SETTLING):
            times.append(self._until)
        if self._limit is not None and self.stage is not Stage.SETTLING:
            times.append(self._limit)
        return min(times)

    # What happens -------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Do what the time has brought."""
        if self.stage is Stage.SETTLING:
            if now >= self._step_until:
                self._settled(now)
        elif self.stage is Stage.OVER:
            pass
        elif self._limit is not None and now >= self._limit:
            self._out_of_time()
        elif self.stage is not Stage.FOLLOWING and now >= self._until:
            self._give_up()
        elif now >= self._step_until:
            self._step(now)
        return self._flush()

    def connected(self, now: float) -> list[Action]:
        """The link is open, and both ends have shown their certificates."""
        self._enter(Stage.GREETING, self._step_until)
        self._send(Hello(self._next(), self.terms.software, self.terms.instance))
        return self._flush()

    def message(self, message: Reply, now: float) -> list[Action]:
        """The server said this."""
        if self.stage is Stage.OVER:
            return []
        self._heard = now
        if self.stage is Stage.SETTLING:
            self._answer(message, now)
        elif isinstance(message, Welcome):
            self._welcome(message)
        elif self.stage is Stage.CLAIMING and not self._is_answer(message):
            pass  # until the claim is answered, nothing that is said is about our ownership
        elif isinstance(message, State):
            self._state(message, now)
        elif isinstance(message, Ended):
            self._ended(message, now)
        elif isinstance(message, Refused):
            self._refused(message)
        elif isinstance(message, Done) and message.seq == self._stopping:
            self._finish(exit_as(reasons.STOPPED, "", self.run), now)
        return self._flush()

    def link_lost(self, failure: Failure, now: float) -> list[Action]:
        """The link could not be opened, or has ended."""
        if self.stage is Stage.SETTLING:
            self._say("the link was lost before the server noted that", WARNING)
            if self._exit is None:  # the claim that was to follow needs a link
                self._retry(failure, now)
            else:
                self._over(self._exit)
        elif self.stage is not Stage.OVER:
            self._lost(failure, now)
        return self._flush()

    def stop(self, now: float) -> list[Action]:
        """SIGTERM: the first stops the application in order, the second kills it."""
        if self.stage in (Stage.SETTLING, Stage.OVER) and self._exit is not None:
            return []
        if self._claiming is None:
            self._over(Exit(reasons.STOPPED, 0, "asked to end before anything was started"))
            return self._flush()
        if self.wish is Wish.FOLLOW:
            self._limit = now + self.terms.stop_timeout
        self.wish = Wish.STOP if self.wish is Wish.FOLLOW else Wish.KILL
        how = "stop" if self.wish is Wish.STOP else "kill"
        self._say(f"asked to {how} the application", INFO)
        if self.stage is Stage.FOLLOWING:
            self._ask_to_stop()
        elif self.stage is not Stage.CLAIMING:
            self._say("it is stopped as soon as the server is heard again", WARNING)
        return self._flush()

    # What follows from it -----------------------------------------------------------

    def _step(self, now: float) -> None:
        """The deadline of the stage has come."""
        if self.stage is Stage.WAITING:
            self._enter(Stage.CONNECTING, min(now + ATTEMPT, self._until))
            self._actions.append(Connect(self._step_until))
        elif self.stage is not Stage.FOLLOWING or self._poll is not None:
            self._actions.append(Close())
            self._lost(Failure(reasons.UNREACHABLE, "no answer"), now)
        else:
            self._poll = self._next()
            self._step_until = now + 2 * self._interval
            self._send(Poll(self._poll))

    def _welcome(self, welcome: Welcome) -> None:
        new = (welcome.boot_id, welcome.epoch)
        if self._guest is None:
            self._say(f"connected to cmappserver {welcome.software} in {welcome.guest}", INFO)
        elif self._guest[0] != new[0]:
            self._rebooted = True
            self._say("connected again: the guest has been restarted", ERROR)
        elif self._guest[1] != new[1]:
            self._say("connected again: cmappserver has been restarted", WARNING)
        else:
            self._say("connected again", INFO)
        self._claim()

    def _claim(self) -> None:
        fresh = self.status is None
        self._claiming = self._next()
        self.stage = Stage.CLAIMING
        self._send(
            Claim(
                self._claiming,
                self.terms.app,
                run=self.run,
                start=fresh and self.wish is Wish.FOLLOW,
                takeover=fresh and self.terms.takeover,
            )
        )

    def _is_answer(self, message: Reply) -> bool:
        goodbye = isinstance(message, Refused) and message.seq == 0
        return message.seq == self._claiming or goodbye

    def _state(self, state: State, now: float) -> None:
        if self.stage is Stage.CLAIMING:
            self._take_up(state, now)
            return
        self._note(state)
        if self._has_started(state):
            self._finish(Exit(reasons.SUCCESS, 0, "running", self.run), now)
        elif state.seq == self._poll:
            self._poll = None
            self._attempts = 0
            self._step_until = now + self._interval
            # The Ended is said before such a State; if it is missing twice, it will not come.
            self._silences = self._silences + 1 if is_over(state.status) else 0
            if self._silences == 2:
                self._conclude(state, now)

    def _take_up(self, state: State, now: float) -> None:
        """The application is ours, for the first time or again."""
        before, guest = self.status, self._guest
        self._enter(Stage.FOLLOWING, now + self._interval)
        self._note(state)
        if self.wish is not Wish.FOLLOW:
            self._ask_to_stop()
        elif self._has_started(state):
            self._finish(Exit(reasons.SUCCESS, 0, "running", self.run), now)
        elif before is None or guest is None:
            return
        elif state.boot_id != guest[0]:
            self._finish(exit_as(reasons.GUEST_RESTARTED, "", before.run), now)
        elif not is_known(before.run, guest[1], state):
            self._finish(exit_as(reasons.UNKNOWN_STATUS, "", before.run), now)
        elif is_over(state.status):
            self._conclude(state, now)

    def _note(self, state: State) -> None:
        """Tell what changed, once and with the run that it is about."""
        lines = wording.changes(self.status, state.status)
        self.status = state.status
        self._guest = (state.boot_id, state.epoch)
        for line in lines:
            self._actions.append(Log(line, self.run))

    def _ended(self, ended: Ended, now: float) -> None:
        """The result: write it down first, then say that it is written down."""
        outcome = ended.outcome
        end = exit_after(outcome, self.wish, rebooted=self._rebooted)
        stale = self.status is None and self.wish is Wish.FOLLOW and is_stale(outcome)
        severity = INFO if end.code == 0 or stale else ERROR
        self._actions.append(Log(wording.Line(end.text, severity), outcome.run))
        if severity == ERROR:
            self._actions += [Log(line, outcome.run) for line in wording.evidence(ended)]
        again = stale and not self._cleared
        self._cleared = self._cleared or stale
        # Who acknowledges owns no more; only before another claim must that be said as well.
        requests: list[Message] = [Ack(self._next(), outcome.run)]
        if again:
            requests.append(Release(self._next()))
        self._settle(None if again else end, now, *requests)

    def _conclude(self, state: State, now: float) -> None:
        """It is over and no Ended has come: tell what the state knows."""
        last = state.status.last
        if last is not None and last.run == state.status.run:
            self._ended(Ended(0, state.status.app, last), now)
        else:
            self._finish(exit_as(reasons.UNKNOWN_STATUS, "", self.run), now)

    def _refused(self, refused: Refused) -> None:
        reason, text = refusal(refused)
        unknown = self.stage is Stage.CLAIMING and reason is reasons.UNKNOWN_STATUS
        if unknown and self.wish is not Wish.FOLLOW and self.run is not None:
            self._say("the server does not know that run", WARNING)
            self.status = None
            self._claim()  # as a new manager would, to stop whatever runs now
            return
        if unknown and self._rebooted:
            self._over(exit_as(reasons.GUEST_RESTARTED, text, self.run))
        elif unknown:  # what became of the run, the server says; that it has ended, it may not
            self._over(exit_as(reason, "", self.run)._replace(text=text))
        else:
            self._over(exit_as(reason, text, self.run))

    def _ask_to_stop(self) -> None:
        self._stopping = self._next()
        self._send(Stop(self._stopping, self.terms.app, kill=self.wish is Wish.KILL))

    # How it ends --------------------------------------------------------------------

    def _finish(self, end: Exit, now: float) -> None:
        """Give up the ownership and end."""
        self._settle(end, now, Release(self._next()))

    def _settle(self, end: Exit | None, now: float, *requests: Message) -> None:
        self._enter(Stage.SETTLING, now + SETTLE)
        self._exit = end
        self._settling = {request.seq for request in requests}
        for request in requests:
            self._send(request)

    def _answer(self, message: Reply, now: float) -> None:
        if isinstance(message, Done | Refused):
            self._settling.discard(message.seq)
        if not self._settling:
            self._settled(now)

    def _settled(self, now: float) -> None:
        if self._exit is not None:
            self._over(self._exit)
        elif self._settling:
            self._actions.append(Close())
            self._retry(Failure(reasons.UNREACHABLE, "no answer"), now)
        elif self.wish is not Wish.FOLLOW:
            self._over(exit_as(reasons.STOPPED, "before it was started", self.run))
        else:
            self._step_until = now + ATTEMPT
            self._claim()

    def _lost(self, failure: Failure, now: float) -> None:
        if self.status is None:
            if failure.reason is reasons.UNREACHABLE:
                self._retry(failure, now)
            else:
                self._over(exit_as(failure.reason, failure.text, None))
            return
        if self.stage is Stage.FOLLOWING:
            # The second is for a process that was itself stopped: it gets one attempt.
            self._until = max(self._heard + self.terms.lost_after, now + self._interval)
            left = self._until - now
            self._say(f"the link was lost: {failure.text}; trying again for {left:.3g}s", WARNING)
            self._failure = failure
        self._retry(failure, now)

    def _retry(self, failure: Failure, now: float) -> None:
        """Wait a little, and a little longer each time."""
        if self._failure is None or failure.text != self._failure.text:
            self._say(f"cannot reach the server: {failure.text}", WARNING)
        self._failure = failure
        self._poll = self._stopping = None
        delay = policy.back_off(self._attempts, FIRST_RETRY, LAST_RETRY, self.terms.chance)
        self._attempts += 1
        self._enter(Stage.WAITING, now + delay)

    def _give_up(self) -> None:
        last = "no answer" if self._failure is None else self._failure.text
        self._actions.append(Close())
        if self.status is None:
            unknown = "; it may have been started" if self._claiming is not None else ""
            self._over(exit_as(reasons.UNREACHABLE, f"{last}{unknown}", None))
        else:
            text = f"the application's state is unknown; last: {last}"
            self._over(exit_as(reasons.LOST, text, self.run))

    def _out_of_time(self) -> None:
        reason, asked = reasons.NOT_STOPPED, self.terms.stop_timeout
        if self.terms.start_timeout is not None:
            reason, asked = reasons.NOT_READY, self.terms.start_timeout
            if self.status is None:
                reason = reasons.UNREACHABLE
        text = f"after {asked:.6g}s "
        if self.stage is not Stage.FOLLOWING or self.status is None:
            text += "the server cannot be reached, and the state is unknown"
        else:
            pids = ", ".join(map(str, self.status.survivors))
            text += f"it is {self.status.phase}" + (f", left: pid {pids}" if pids else "")
        self._over(exit_as(reason, text, self.run))

    def _has_started(self, state: State) -> bool:
        return self.terms.start_timeout is not None and state.status.phase is Phase.RUNNING

    def _over(self, end: Exit) -> None:
        self.stage = Stage.OVER
        self._exit = end
        self._actions.append(end)

    # Small parts --------------------------------------------------------------------

    def _enter(self, stage: Stage, until: float) -> None:
        self.stage = stage
        self._step_until = until
        if stage is Stage.FOLLOWING:
            self._failure = None

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _send(self, message: Message) -> None:
        self._actions.append(Send(message))

    def _say(self, text: str, severity: int) -> None:
        self._actions.append(Log(wording.Line(text, severity), self.run))

    def _flush(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions
