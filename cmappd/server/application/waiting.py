"""Who waits for an application to come up or to go down, and what they are told then."""

from dataclasses import dataclass

from cmappd.core.lifecycle import App
from cmappd.core.messages import Done, Refused
from cmappd.core.policy import verdict
from cmappd.core.state import REST, Phase
from cmappd.core.wording import outcome_text
from cmappd.server.shared.items import Link

# Requests that may wait for one application at a time, from all peers together.
MAX_WAITING = 64


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that is answered when the application has got there."""

    link: Link
    seq: int
    down: bool  # it waits for the end; otherwise for readiness
    but: str | None = None  # readiness of another run than this one

    def answer(self, app: App) -> Done | Refused | None:
        """The answer; None while the application is on its way."""
        if self.down:
            return Done(self.seq, f"{app.name} is stopped") if app.phase in REST else None
        if app.phase is Phase.RUNNING and app.run is not None and app.run.id != self.but:
            pid = f", pid {app.run.pid}" if app.run.pid is not None else ""
            return Done(self.seq, f"{app.name} is running{pid}")
        return self._not_started(app) if app.phase in REST else None

    def _not_started(self, app: App) -> Refused:
        if app.removed:
            return Refused(self.seq, "unknown-app", f"{app.name} is removed from the configuration")
        if app.last is None:
            return Refused(self.seq, "not-started", f"{app.name} was not started")
        reason, _code = verdict(app.last)
        return Refused(self.seq, reason.name, f"{app.name} {outcome_text(app.last)}")


class WaitingRoom:
    """The requests that wait for one application."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []

    def admit(self, waiting: Waiting, app: str) -> bool:
        """Let a request wait; one that finds no room is refused, and it is False."""
        if len(self._waiting) >= MAX_WAITING:
            text = f"too many requests wait for '{app}'"
            waiting.link.send(Refused(waiting.seq, "busy", text))
            return False
        self._waiting.append(waiting)
        return True

    def leave(self, link: Link) -> None:
        """Whoever is gone waits no more."""
        self._waiting = [one for one in self._waiting if one.link is not link]

    def dismiss(self, reason: str, text: str) -> None:
        """Refuse all of them."""
        for one in self._waiting:
            one.link.send(Refused(one.seq, reason, text))
        self._waiting.clear()

    def answer(self, app: App) -> None:
        """Answer those that have waited long enough."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            answer = one.answer(app)
            if answer is None:
                self._waiting.append(one)
            else:
                one.link.send(answer)
