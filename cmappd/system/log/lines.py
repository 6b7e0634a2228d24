"""What the destinations of a log share: lines that are cut, counted as lost, or kept for people."""

from collections.abc import Iterator

# Bytes of the end of a log that are kept in memory where it cannot be read back.
KEPT = 16 * 1024


class Losses:
    """Lines that could not be written, until there is room to tell of them.

    A line of which a part was lost counts as lost, and `in_line` is true until it has ended.
    `total` is the number of lines lost since the log was opened.
    """

    __slots__ = ("_bytes", "_lines", "_told", "in_line")

    def __init__(self) -> None:
        self._bytes = 0
        self._lines = 0
        self._told = 0
        self.in_line = False

    def __bool__(self) -> bool:
        """Whether there is something to tell."""
        return self._bytes > 0

    @property
    def total(self) -> int:
        """Lines lost, told or not."""
        return self._told + self._lines + self.in_line

    def add(self, data: bytes) -> None:
        """Count what is lost."""
        if data:
            self._bytes += len(data)
            self._lines += data.count(b"\n")
            self.in_line = not data.endswith(b"\n")

    def finish_line(self, data: bytes) -> bytes:
        """Lose the rest of a line that is lost in part; what is left of `data`."""
        if not self.in_line:
            return data
        end = data.find(b"\n") + 1 or len(data)
        self.add(data[:end])
        return data[end:]

    def end_line(self) -> None:
        """Nothing more comes of a line that is lost in part."""
        self._lines += self.in_line
        self.in_line = False

    def notice(self, reason: str) -> str:
        """The line that tells of them."""
        return f"cmappd: {self.untold(reason)}"

    def untold(self, reason: str) -> str:
        """What there is to tell; empty if nothing."""
        lost = f"{self._lines + self.in_line} lines ({self._bytes} bytes)"
        return f"{lost} were dropped: {reason}" if self else ""

    def told(self) -> None:
        """They have been told of."""
        self._told = self.total
        self._bytes = self._lines = 0
        self.in_line = False


class Kept:
    """The end of what was written, in memory."""

    __slots__ = ("_end",)

    def __init__(self) -> None:
        self._end = b""

    def add(self, data: bytes) -> None:
        """Keep the last 16 KiB."""
        self._end = data[-KEPT:] if len(data) >= KEPT else (self._end + data)[-KEPT:]

    def tail(self, lines: int, limit: int = KEPT, waiting: bytes = b"") -> str:
        """The last lines, at most `limit` bytes, with what has not got here yet."""
        return last_lines((self._end + waiting)[-limit:], lines)


def last_lines(text: bytes, count: int) -> str:
    """The last lines of a text, each ended; bytes that are not UTF-8 are replaced."""
    found = text.removesuffix(b"\n").split(b"\n") if text else []
    wanted = found[-count:] if count > 0 else []
    return "".join(line.decode(errors="replace") + "\n" for line in wanted)


def pieces(data: bytes, longest: int) -> Iterator[tuple[bytes, bool]]:
    """The lines of a text without their ends, cut where they are longer than `longest` bytes.

    True goes with the end of a line, False with a piece that another one follows. A last line that
    is not ended, nor too long, is left out: it waits for its end. No character of UTF-8 is cut.
    """
    start = 0
    while start < len(data):
        end = data.find(b"\n", start, start + longest + 1)
        if end >= 0:
            yield data[start:end], True
            start = end + 1
        elif len(data) - start > longest:
            end = start + longest
            while data[end] & 0xC0 == 0x80 and end > start + longest - 3:
                end -= 1
            yield data[start:end], False
            start = end
        else:
            return
