"""No log: what is written is read, and given up but for its end."""

from collections.abc import Callable

from cmappd.system.log.lines import KEPT, Kept
from cmappd.system.log.pipes import take


class NullLog:
    """Takes what an application writes, so that it need not wait, and keeps the end in memory."""

    __slots__ = ("_kept", "listener")

    problem = None
    dropped = 0
    untold = ""
    pause = 0.0
    elsewhere = "nowhere"

    def __init__(self) -> None:
        self.listener: Callable[[bytes], None] | None = None
        self._kept = Kept()

    def move(self, pipe: int) -> int:
        """Take what a non-blocking pipe holds."""
        data = take(pipe)
        if data:
            self.write(data)
        return len(data)

    def write(self, data: bytes) -> None:
        """Keep the end of it."""
        self._kept.add(data)
        if self.listener is not None:
            self.listener(data)

    def finish(self) -> None:
        """Nothing waits."""

    def reopen(self) -> None:
        """Nothing is open."""

    def tail(self, lines: int, limit: int = KEPT, waiting: bytes = b"") -> str:
        """The last lines, as far as they are kept."""
        return self._kept.tail(lines, limit, waiting)

    def close(self) -> None:
        """Nothing is open."""
