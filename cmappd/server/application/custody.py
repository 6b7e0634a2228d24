"""Whose an application is, and which results wait to be delivered to whom."""

from cmappd.core.lifecycle import App
from cmappd.core.messages import Claim, Detach, Done, Ended, Leave, Refused, Stop
from cmappd.core.ownership import Owner, may_claim
from cmappd.core.state import REST
from cmappd.server.shared.items import Link

# Results that a manager may still ask for when its link comes back.
KEPT_RESULTS = 8


class Custody:
    """The owner of one application, its link while it is connected, and its results."""

    __slots__ = ("_concluded", "_held", "_owner", "link", "undelivered")

    def __init__(self) -> None:
        self._owner: Owner | None = None
        self.link: Link | None = None
        # The result that the owner, or the next manager of its name, has not acknowledged.
        self.undelivered: Ended | None = None
        self._concluded: tuple[Ended, ...] = ()
        self._held = False  # somebody works on the application: no result is given

    @property
    def owner(self) -> Owner | None:
        """Who owns it. While it is connected, what it asks on its link renews its lease."""
        if self._owner is None or self.link is None:
            return self._owner
        return self._owner.refreshed(self.link.last_there)

    def claim(
        self, link: Link, claim: Claim, app: App, lease: float, now: float
    ) -> Refused | Ended | None:
        """Make the link's manager the owner. A refusal, or a result to give, or None."""
        takeover = claim.takeover
        if not may_claim(self.owner, link.name, link.instance, now, lease, takeover=takeover):
            return Refused(claim.seq, "busy", self._busy(app.name))
        owed = self._owed_to(link, app)
        result = None if self._held else self._result_for(claim.run, owed)
        unknown = claim.run is not None and not _is_known(claim.run, app)
        if result is None and unknown and not self._held:
            text = f"run {claim.run} of '{app.name}' is not known to this cmappserver"
            return Refused(claim.seq, "unknown-status", text)
        self._dismiss(link, app.name)
        self._owner = Owner(link.name, link.instance, link.last_there)
        self.link = link
        if not self._held:
            self.undelivered = owed or result
        return result

    def refuse_stop(self, link: Link, stop: Stop, app: App, now: float) -> Refused | None:
        """A refusal for whoever may not stop the application: it is another manager's."""
        owner = self.owner
        if owner is None or owner.released or link.administrator or owner.name == link.name:
            return None
        if now >= owner.expires(app.definition.manager.lease):
            return None
        text = f"'{app.name}' is owned by {owner.name}; only it may stop it"
        return Refused(stop.seq, "busy", text)

    def _owed_to(self, link: Link, app: App) -> Ended | None:
        """What nobody of the link's name has acknowledged yet.

        Where somebody has launched it again, what became of it before would be no truth.
        """
        if app.phase not in REST or self.owner is None:
            return None
        return self.undelivered if self.owner.released or self.owner.name == link.name else None

    def _result_for(self, run: str | None, owed: Ended | None) -> Ended | None:
        """A fresh manager gets what is owed, a returning one what became of its run."""
        if run is None:
            return owed
        return next((one for one in self._concluded if _is_of(one, run)), None)

    def _dismiss(self, link: Link, app: str) -> None:
        if self.link is None or self.link is link:
            return
        if self.link.instance != link.instance:
            self.link.send(Refused(0, "busy", f"'{app}' was taken over by {link.name}"))
        self.link.hang_up()

    def _busy(self, app: str) -> str:
        assert self._owner is not None
        state = "connected" if self._owner.connected else "not connected, its lease not over"
        return f"'{app}' is owned by {self._owner.name} ({state})"

    @property
    def concluded(self) -> tuple[Ended, ...]:
        """The last results, delivered or not."""
        return self._concluded

    def resume(
        self, owner: Owner | None, undelivered: Ended | None, concluded: tuple[Ended, ...]
    ) -> None:
        """Take over from an earlier cmappserver, whose links have all ended."""
        self._owner = owner.disconnected() if owner is not None else None
        self.undelivered, self._concluded = undelivered, concluded

    def await_owner(self, now: float) -> None:
        """Somebody may own it, and nobody knows who: anybody may come, within a lease."""
        self._owner = Owner("", "", now, connected=False, released=True)

    def lost(self, link: Link) -> None:
        """Note the end of a link."""
        if link is self.link:
            owner = self.owner
            self.link = None
            self._owner = owner.disconnected() if owner is not None else None

    def release(self) -> None:
        """Nobody owns it from here on."""
        self._owner = None
        self.link = None
        self.undelivered = None

    def expire(self) -> None:
        """The lease is over. A link that is still open would go on as if it were the owner's."""
        if self.link is not None:
            self.link.hang_up()
        self.release()

    def hand_over(self) -> None:
        """Await the next owner; the lease, and a result, are for whoever it will be."""
        owner = self.owner
        self._owner = owner.handing_over() if owner is not None else None
        self.link = None

    def detach(self, link: Link, detach: Detach) -> Refused | Done | None:
        """The answer to whoever asks the owner to hand over; None when it has been asked to."""
        owner = self.owner
        if owner is None or owner.released:
            return Done(detach.seq, f"nobody owns '{detach.app}'")
        if owner.name != link.name:
            return Refused(detach.seq, "busy", self._busy(detach.app))
        if self.link is not None:
            self.link.send(Leave(0))
            return None
        self.hand_over()
        return Done(detach.seq, f"'{detach.app}' is handed over; its manager is not connected")

    def heed(self, app: App) -> bool:
        """Hold back the results while somebody works on the application.

        When that is over, the result of what is at rest counts, and is to be delivered, which is
        the answer; where it was launched again, what became of it before is of no consequence.
        """
        held, self._held = self._held, app.maintenance is not None
        if held and app.phase not in REST:
            self.undelivered = None
        if not held or self._held or self.undelivered is None:
            return False
        if self.undelivered not in self._concluded:
            self._keep(self.undelivered)
        return True

    def conclude(self, result: Ended) -> None:
        """Keep the result of an application that came to rest."""
        if self.owner is not None:
            self.undelivered = result
        if not self._held:
            self._keep(result)

    def _keep(self, result: Ended) -> None:
        self._concluded = (*self._concluded, result)[-KEPT_RESULTS:]

    def deliver(self) -> None:
        """Give the owner the result, if it is connected and may have it."""
        if self.link is not None and self.undelivered is not None and not self._held:
            self.link.send(self.undelivered)

    def acknowledge(self, run: str) -> None:
        """The owner has written the result down; with that its ownership has ended."""
        if self.undelivered is None or self.undelivered.outcome.run == run:
            self.release()


def _is_of(result: Ended, run: str) -> bool:
    """Whether a result is of a run, or of a later one: a run that was restarted has none itself."""
    epoch, _, number = run.rpartition(".")
    its_epoch, _, its_number = result.outcome.run.rpartition(".")
    # As text, because a peer may say anything: of two numbers the longer one is later.
    return epoch == its_epoch and (len(number), number) <= (len(its_number), its_number)


def _is_known(run: str, app: App) -> bool:
    """Whether what became of a run is known: an account of it goes on, also past a crash.

    What was found running, and nobody had written down, knows of no run before it.
    """
    if not run.startswith(f"{app.name}.{app.epoch}."):
        return False
    return app.last is not None or app.run is None or app.run.id == run
