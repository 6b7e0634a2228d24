"""What the administrator asks about logs: to read one, to follow it, to have them opened anew."""

from collections.abc import Callable, Iterator

from cmappd.core.messages import Done, Logs, Refused, Reopen, Text
from cmappd.errors import CmappdError
from cmappd.server.application.follower import PIECE, Follower
from cmappd.server.application.output import Output
from cmappd.server.registry import Registry

LOG_SIZE = 1024 * 1024  # bytes of a log that are read at once, at the most
PROBLEMS = 8 * 1024  # characters


class Reader:
    """One peer that reads logs, of which it may follow one."""

    __slots__ = ("_follower", "_output", "_registry", "_send")

    def __init__(self, registry: Registry, send: Callable[..., None]) -> None:
        """``send`` takes any number of messages."""
        self._registry = registry
        self._send = send
        self._follower: Follower | None = None
        self._output: Output | None = None  # that is followed

    def read(self, message: Logs) -> None:
        """Send the end of a log, and what comes after it, if that is asked for."""
        supervisor = self._registry.find(message.app)
        if supervisor is None:
            self._refuse_unknown(message.seq, message.app)
            return
        if message.follow and self._follower is not None:
            self._send(Refused(message.seq, "busy", "a connection follows one log at a time"))
            return
        output = supervisor.runner.output
        try:
            text = output.read(supervisor.app.definition, message.lines, LOG_SIZE)
        except CmappdError as error:
            self._send(Refused(message.seq, "usage", str(error)))
            return
        texts = _texts(message, text, output)
        if message.follow:
            self._send(*texts)
            self._follow(message, output)
        else:
            self._send(*texts, Done(message.seq))

    def _follow(self, message: Logs, output: Output) -> None:
        def ended() -> None:
            self.close()
            text = f"there is nothing more to follow: '{message.app}' has left"
            self._send(Refused(message.seq, "unknown-app", text))

        self._follower, self._output = Follower(message.seq, self._send), output
        output.follow(self._follower.hear, ended)

    def pause(self) -> None:
        """The peer has much to read."""
        if self._follower is not None:
            self._follower.paused = True

    def resume(self) -> None:
        """The peer has read it."""
        if self._follower is not None:
            self._follower.resume()

    def close(self) -> None:
        """Nothing is followed any more."""
        if self._follower is not None and self._output is not None:
            self._output.unfollow(self._follower.hear)
        self._follower = self._output = None

    def reopen(self, message: Reopen) -> None:
        """Open the logs of some applications, or of all, anew."""
        found = {one.app.name: one for one in self._registry.supervisors()}
        wanted = message.apps or tuple(found)
        for name in wanted:
            if name not in found:
                self._refuse_unknown(message.seq, name)
                return
        outcomes = {name: found[name].runner.output.reopen() for name in wanted}
        problems = [f"{name}: {problem}" for name, problem in outcomes.items() if problem]
        if problems:
            self._send(Refused(message.seq, "usage", "\n".join(problems)[:PROBLEMS]))
        else:
            count = f"{len(outcomes)} log{'' if len(outcomes) == 1 else 's'}"
            self._send(Done(message.seq, f"{count} opened anew"))

    def _refuse_unknown(self, seq: int, app: str) -> None:
        text = f"there is no application '{app}' in this guest"
        self._send(Refused(seq, "unknown-app", text))


def _texts(message: Logs, text: str, output: Output) -> Iterator[Text]:
    if output.problem:
        remark = f"the log of {message.app} cannot be written: {output.problem}"
        yield Text(message.seq, remark, remark=True)
    if output.elsewhere:
        remark = (
            f"the log of {message.app} goes {output.elsewhere}; this is the end of it, as far as "
        )
        yield Text(message.seq, f"{remark}cmappserver has kept it since it started", remark=True)
    for at in range(0, len(text), PIECE):
        yield Text(message.seq, text[at : at + PIECE])
