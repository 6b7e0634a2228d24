"""Who follows a log: told of all that is written, as far as it reads what it is told."""

import codecs
from collections.abc import Callable

from cmappd.core.messages import Message, Text

PIECE = 8 * 1024  # bytes in one message; in JSON no character takes more than six


class Follower:
    """Tells one peer what comes into a log.

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
