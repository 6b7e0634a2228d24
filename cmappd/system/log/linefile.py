"""A log file in lines: each with the time at which it was read, as text or as a JSON object.

The lines are made from a spool. The mark in it is the log file and its length after the last lines
that are noted there: what is behind that was written by a server that was killed before it could
note it, and is taken away before the same lines are written anew.
"""

import time
from collections.abc import Callable, Iterator
from datetime import datetime

import msgspec

from cmappd.system.log.file import LogFile
from cmappd.system.log.lines import KEPT, pieces
from cmappd.system.log.pipes import CHUNK
from cmappd.system.log.spool import Spool

LONGEST = 16 * 1024  # bytes of a line; a longer one is cut

# A line without its end, whether it is ended, and the time, as a line of the log.
Form = Callable[[bytes, bool, str], bytes]


def stamped(line: bytes, _ended: bool, now: str) -> bytes:
    """The time, a blank, and the line as it is."""
    return b"%b %b\n" % (now.encode(), line)


def as_json(app: str) -> Form:
    """An object with time, app and message; with partial where the line goes on in the next."""

    def form(line: bytes, ended: bool, now: str) -> bytes:
        made: dict[str, object] = {
            "time": now,
            "app": app,
            "message": line.decode(errors="replace"),
        }
        if not ended:
            made["partial"] = True
        return msgspec.json.encode(made) + b"\n"

    return form


class LineFile:
    """Writes the lines of an application to a log file, each in a form."""

    __slots__ = ("_file", "_form", "_limit", "_spool", "listener")

    pause = 0.0
    elsewhere = ""

    def __init__(self, file: LogFile, limit: int, spool_path: str, form: Form) -> None:
        """Takes the file over. `limit` is its `max_size`."""
        self.listener: Callable[[bytes], None] | None = None
        self._file = file
        self._limit = limit
        self._form = form
        self._spool = Spool(spool_path)
        file.notice_form = lambda line: form(line, True, _now())
        file.cut(self._spool.mark)

    @property
    def problem(self) -> str | None:
        """Why lines cannot be written, or kept."""
        return self._file.problem or self._spool.problem

    @property
    def dropped(self) -> int:
        """Lines that could not be written."""
        return self._file.dropped

    @property
    def untold(self) -> str:
        """What was dropped and the file does not tell of yet."""
        return self._file.untold

    def move(self, pipe: int) -> int:
        """Take what a pipe holds, and write the lines that are whole."""
        taken = self._spool.take(pipe)
        self._write_lines()
        return taken

    def write(self, data: bytes) -> None:
        """Take what came in another way."""
        self._spool.add(data)
        self._write_lines()

    def finish(self) -> None:
        """Write what waits for the end of its line, as a line."""
        rest = self._spool.waiting
        if rest:
            self._emit(len(rest), self._form(rest, True, _now()))

    def reopen(self) -> None:
        """Open the file anew, after somebody moved it away."""
        self._file.reopen()

    def reconfigure(self, path: str, max_size: int, backups: int) -> None:
        """Take new settings of the file."""
        self._limit = max_size
        self._file.reconfigure(path, max_size, backups)

    def tail(self, lines: int, limit: int = KEPT, waiting: bytes = b"") -> str:
        """The last lines of the file."""
        return self._file.tail(lines, limit)

    def close(self) -> None:
        """Close the file; what waits for the end of its line waits for the next server."""
        self._file.close()
        self._spool.close()

    def _write_lines(self) -> None:
        waiting = self._spool.waiting
        if waiting:
            for size, text in self._batches(waiting):
                self._emit(size, text)
        elif self.dropped:  # which the file may be able to tell by now
            self._emit(0, b"")

    def _batches(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Lines in their form, together as many as one file takes at once, and of how much."""
        now, most = _now(), min(CHUNK, self._limit)
        taken = size = 0
        texts: list[bytes] = []
        for line, ended in pieces(data, LONGEST):
            text = self._form(line, ended, now)
            if texts and size + len(text) > most:
                yield taken, b"".join(texts)
                taken = size = 0
                texts = []
            texts.append(text)
            size += len(text)
            taken += len(line) + ended
        if texts:
            yield taken, b"".join(texts)

    def _emit(self, size: int, text: bytes) -> None:
        self._file.make_room(len(text))
        mark = self._file.mark()
        if mark != self._spool.mark:  # another file, or somebody has changed it
            self._spool.give_up(0, mark)
        self._file.write(text)
        self._spool.give_up(size, self._file.mark())
        if self.listener is not None and text:
            self.listener(text)


def _now() -> str:
    """Local time, with its distance from UTC (RFC 3339)."""
    return datetime.fromtimestamp(time.time()).astimezone().isoformat(timespec="milliseconds")
