"""What cmappmgr does while it follows an application: a pure machine, without time or sockets.

The driver tells it what happens (``connected``, ``message``, ``link_lost``, ``stop``, ``tick``)
and carries out the actions that each of these gives, in order. All instants are monotonic
seconds, and ``deadline`` says when to call ``tick`` next.

    WAITING ──▶ CONNECTING ──▶ GREETING ──▶ CLAIMING ──▶ FOLLOWING ──▶ SETTLING ──▶ Exit
       ▲ retry       │             │            │            │            │
       ├─────────────┴──── link lost ───────────┴────────────┘            └▶ CLAIMING, where a
       └▶ PARTING ──▶ Exit, where the link was given up         stop of long ago was in the way

Rules:

- Once a claim was sent, the application may run, be it that the claim was granted, or that it was
  lost with its link and is heard later. Then nothing ends this within ``lost_after`` of the last
  word heard but the guest's word that the application has ended, will not stop, or has another
  owner. That this manager is refused, for its certificate or its rights, is no such word.
- Until the application has been claimed once, the time for all of it is ``connect_timeout``.
- Then a lost link means "unknown": it is retried for ``lost_after`` from the last word heard,
  whatever fails meanwhile.
- The time to stop it, or to start it, ends this only while the guest answers. Where the link is
  lost, or a poll is not answered, ``lost_after`` does.
- A link that does not answer a poll for two poll intervals is given up for a new one.
- A claim on a new link never starts the application: what ended meanwhile is to be told.
- While the guest says that the application is under maintenance, nothing that becomes of it,
  of its server or of its guest ends this: the link is tried for until the maintenance should
  be over, and for ``lost_after`` more. Afterwards what runs then is followed, and what is
  at rest ends this as ever. SIGTERM, and another owner, end it at any time.
- To detach is to hand the ownership over, and counts only when the server has said that it knows:
  where the link is lost before, a new one is tried for, for ``lost_after``.
- After a claim SIGTERM ends this only when the application is stopped.
"""

from cmappd import reasons
from cmappd.core.follow import claim, link, news
from cmappd.core.follow.actions import TOGETHER, Action, Exit, Failure, Terms, Wish
from cmappd.core.follow.following import Following, Stage
from cmappd.core.follow.verdicts import exit_as, out_of_time
from cmappd.core.messages import AppStatus, Done, Ended, Leave, Refused, Reply, State, Welcome
from cmappd.core.wording import INFO, WARNING

# Nothing that is said now changes what this ends with.
OVER = (Stage.PARTING, Stage.OVER)


class Follower:
    """The machine. Call ``tick`` once to begin."""

    def __init__(self, terms: Terms, now: float) -> None:
        self._f = Following(terms, now)

    @property
    def stage(self) -> Stage:
        """How far it has come."""
        return self._f.stage

    @property
    def status(self) -> AppStatus | None:
        """The last that was heard of the application; None until it was claimed once."""
        return self._f.status

    @property
    def wish(self) -> Wish:
        """What was asked for so far."""
        return self._f.wish

    @property
    def run(self) -> str | None:
        """The run that is followed."""
        return self._f.run

    @property
    def deadline(self) -> float | None:
        """When ``tick`` is due; None when it is over."""
        f = self._f
        if f.stage is Stage.OVER:
            return None
        times = [f.step_until]
        if f.stage is Stage.PARTING:
            return f.step_until
        if f.stage not in (Stage.FOLLOWING, Stage.SETTLING):
            times.append(f.until)
        if f.limit is not None and f.known is not None:
            times.append(f.limit)
        return min(times)

    def tick(self, now: float) -> list[Action]:
        """Do what the time has brought."""
        f = self._f
        if f.stage is Stage.SETTLING:
            if now >= f.step_until:
                claim.settled(f, now)
        elif f.stage is Stage.PARTING:
            link.part(f, now)
        elif f.stage is Stage.OVER:
            pass
        elif f.limit is not None and now >= f.limit and f.known is not None:
            f.end(out_of_time(f.terms, f.known))
        elif f.stage is not Stage.FOLLOWING and now >= f.until:
            link.give_up(f, now)
        elif now >= f.step_until:
            link.step(f, now)
        return f.flush()

    def connected(self, now: float) -> list[Action]:
        """The link is open, and both ends have shown their certificates."""
        link.greet(self._f)
        return self._f.flush()

    def message(self, message: Reply, now: float) -> list[Action]:
        """The server said this."""
        f = self._f
        if f.stage in OVER:
            return []
        f.heard = now
        if f.stage is Stage.SETTLING:
            claim.answered(f, message, now)
        elif isinstance(message, Welcome):
            link.welcomed(f, message)
            claim.claim(f)
        elif f.stage is Stage.CLAIMING and not claim.is_answer(f, message):
            pass  # until the claim is answered, nothing that is said is about our ownership
        elif isinstance(message, State):
            news.state(f, message, now)
        elif isinstance(message, Ended):
            news.ended(f, message, now)
        elif isinstance(message, Refused):
            news.refused(f, message, now)
        elif isinstance(message, Done) and message.seq == f.stopping:
            claim.finish(f, exit_as(reasons.STOPPED, "", f.run), now)
        elif isinstance(message, Leave):
            self._detach(now)
        return f.flush()

    def link_lost(self, failure: Failure, now: float) -> list[Action]:
        """The link could not be opened, or has ended."""
        f = self._f
        if f.stage is Stage.SETTLING:
            f.say("the link was lost before the server noted that", WARNING)
            if f.exit is None:  # the claim that was to follow needs a link
                link.retry(f, failure, now)
            else:
                f.end(f.exit)
        elif f.stage not in OVER:
            link.lost(f, failure, now)
        return f.flush()

    def stop(self, now: float) -> list[Action]:
        """SIGTERM: the first stops the application in order, the second kills it."""
        f = self._f
        if f.stage is Stage.PARTING:
            f.say("asked to stop the application, which nobody hears; waiting on", WARNING)
            return f.flush()
        if f.stage in (Stage.SETTLING, Stage.OVER) and f.exit is not None:
            return []
        if f.claiming is None:
            f.end(Exit(reasons.STOPPED, 0, "asked to end before anything was started"))
            return f.flush()
        if f.to_stop and now < f.kill_from:
            return []
        if not f.to_stop:
            f.limit = now + f.terms.stop_timeout
            f.kill_from = now + TOGETHER
            # Also where a boot, or the end of a maintenance, was being waited for.
            f.until = min(f.until, now + f.terms.lost_after)
        f.wish = Wish.KILL if f.to_stop else Wish.STOP
        how = "stop" if f.wish is Wish.STOP else "kill"
        f.say(f"asked to {how} the application", INFO)
        if f.stage is Stage.FOLLOWING:
            claim.ask_to_stop(f)
        elif f.stage is not Stage.CLAIMING:
            f.say("it is stopped as soon as the server is heard again", WARNING)
        return f.flush()

    def detach(self, now: float) -> list[Action]:
        """SIGUSR1: hand the application over to its next owner, and end."""
        self._detach(now)
        return self._f.flush()

    def _detach(self, now: float) -> None:
        f = self._f
        over = f.stage in (Stage.SETTLING, *OVER) and f.exit is not None
        if over or f.wish is Wish.DETACH:
            return
        if f.to_stop:
            f.say("asked to detach, but the application is being stopped", WARNING)
            return
        if f.claiming is None:
            f.end(Exit(reasons.SUCCESS, 0, "detached before anything was asked of the guest"))
            return
        f.wish = Wish.DETACH
        f.say("asked to detach from the application", INFO)
        if f.stage is Stage.FOLLOWING:
            claim.detach(f, now)
        elif f.stage is not Stage.CLAIMING:
            f.say("it is handed over as soon as the server is heard again", WARNING)
            if f.maintained:  # the link is not tried for so long any more
                f.until = min(f.until, now + f.terms.lost_after)
