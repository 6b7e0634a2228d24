"""What the administrator asks about logs: to read one, to follow it, to have them opened anew."""

import codecs
from collections.abc import Callable, Iterator

from cmappd.core.messages import Done, Logs, Message, Refused, Reopen, Text
from cmappd.errors import CmappdError
from cmappd.server.application.output import Output
from cmappd.server.registry import Registry

LOG_SIZE = 1024 * 1024  # bytes of a log that are read at once, at the most
PROBLEMS = 8 * 1024  # characters
PIECE = 8 * 1024  # bytes in one message; in JSON no character takes more than six


class Reader:
    """One peer that reads logs, of which it may follow one."""

    __slots__ = ("_follower", "_output", "_registry", "_send")

    def __init__(self, registry: Registry, send: Callable[..., None]) -> None:
        """``send`` takes any number of messages."""
        self._registry = registry
        self._send = send
        self._follower: LogFollower | None = None
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

        self._follower, self._output = LogFollower(message.seq, self._send), output
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


class LogFollower:
    """Tells one peer what comes into a log, as far as it reads what it is told.

    A peer that does not read it in time is not waited for: what comes meanwhile is skipped and
    counted, and it goes on with the next whole line.
    """

    __slots__ = ("_decoder", "_in_line", "_send", "_seq", "_skipped", "paused")

    def __init__(self, seq: int, send: Callable[[Message], None]) -> None:
        self.paused = False  # the peer has much to read
        self._seq = seq
        self._send = send
        self._skipped = 0  # lines
        self._in_line = False  # what was skipped last does not end with a line
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def hear(self, data: bytes) -> None:
        """Something was written."""
        for at in range(0, len(data), PIECE):
            self._hear(data[at : at + PIECE])

    def _hear(self, piece: bytes) -> None:
        if self.paused:
            self._skip(piece)
            return
        if self._in_line:
            end = piece.find(b"\n") + 1 or len(piece)
            self._skip(piece[:end])
            piece = piece[end:]
        if self._skipped and not self._in_line:
            self._tell()
        if text := self._decoder.decode(piece):
            self._send(Text(self._seq, text))

    def _skip(self, data: bytes) -> None:
        if data:
            self._skipped += data.count(b"\n")
            self._in_line = not data.endswith(b"\n")
            self._decoder.reset()

    def _tell(self) -> None:
        skipped, self._skipped = self._skipped, 0
        text = f"{skipped} lines were skipped: they came faster than they were read"
        self._send(Text(self._seq, text, remark=True))

    def resume(self) -> None:
        """The peer has read what it was told."""
        self.paused = False
        if self._skipped and not self._in_line:
            self._tell()
