"""The logs of the applications against what their processes say they have written."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.chaos import actor
from tests.chaos.world import identity, is_alive

DROPPED = re.compile(rb"cmappd: (\d+) lines \((\d+) bytes\) were dropped: ")
UNTOLD = re.compile(r" warning (\w+): its log could not tell that (\d+) lines ")
STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d ")


def _stamped(line: bytes) -> bytes:
    if STAMP.match(line) is None:
        raise ValueError(line)
    return line.partition(b" ")[2]


# From a line of the log to what the application has written.
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda line: line,
    "timestamps": _stamped,
    "json": lambda line: str(json.loads(line)["message"]).encode(),
}


class AppLog:
    """The log of one application, with all its rotated files, read once from one end to the other.

    Each writer numbers its lines. ``seen`` is the last number of each; ``wrong`` says what is.
    """

    def __init__(self, app: str, path: Path, folder: Path, form: str) -> None:
        self._app = app
        self._path = path
        self._bare = FORMS[form]
        # Of others cmappserver may take back the last lines at its start, and write them again.
        self.settles = form != "raw"
        self._folder = folder  # of the application, where writers note what they have written
        self._inode = 0  # of the file that was read last
        self._offset = 0
        self._rest = b""  # a line that is not finished
        self.seen: dict[str, int] = {}
        self.wrong: list[str] = []
        self.missing = 0  # lines between those that are there
        self.told = 0  # lines that the log itself says were dropped
        self.told_elsewhere = 0  # and the log of cmappserver, at its end
        self.drops_allowed = False  # its disk is full from time to time
        self.full_until = 0.0
        self.counts = True  # no cmappserver has died that knew of drops and had not told of them
        self.forgiven: set[str] = set()  # writers whose last lines may be missing, and why not

    def read(self) -> None:
        """Go on to the present end."""
        for fd, inode in self._open_new():
            with os.fdopen(fd, "rb", buffering=0) as file:
                if inode == self._inode:
                    file.seek(self._offset)
                data = file.readall()
                if inode != self._inode:
                    self._inode, self._offset = inode, 0
                    # The unfinished end of a full file goes to the next one, and is cut off then.
                    if data.startswith(self._rest):
                        self._rest = b""
                self._offset += len(data)
            self._take(self._rest + data)

    def _open_new(self) -> list[tuple[int, int]]:
        """The files from the one that was read last on, the oldest first."""
        found: list[tuple[int, int]] = []
        number = -1
        while number < 0 or os.path.exists(f"{self._path}.{number + 1}"):
            number += 1
            path = f"{self._path}.{number}" if number else str(self._path)
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY)
                inode = os.fstat(fd).st_ino
                if inode in [each for _, each in found]:  # it was renamed meanwhile
                    os.close(fd)
                    continue
                found.append((fd, inode))
                if inode == self._inode:
                    break
        return found[::-1]

    def _take(self, data: bytes) -> None:
        *lines, self._rest = data.split(b"\n")
        for line in lines:
            try:
                self._line(self._bare(line))
            except ValueError:
                self.wrong.append(f"not of its form: {line[:200]!r}")

    def _line(self, line: bytes) -> None:
        drop = DROPPED.match(line)
        if drop is not None:
            self.told += int(drop[1])
            return
        try:
            app, key, number = line.split(b" ")[:3]
            expected = actor.line_of(self._app, key.decode(), int(number))
            good = line + b"\n" == expected and app.decode() == self._app
        except ValueError:
            good = False
        if good:
            self._numbered(key.decode(), int(number))
        elif not self.drops_allowed:
            self.wrong.append(f"not a line of it: {line[:200]!r}")

    def _numbered(self, key: str, number: int) -> None:
        last = self.seen.get(key, 0)
        if number <= last:
            self.wrong.append(f"line {number} of {key} comes again after line {last}")
            return
        if number > last + 1:
            self.missing += number - last - 1
            if not self.drops_allowed:
                self.wrong.append(f"lines {last + 1} to {number - 1} of {key} are missing")
        self.seen[key] = number

    # What the writers say ----------------------------------------------------------------

    def written(self) -> dict[str, tuple[int, int]]:
        """By writer: the lines that it has begun to write, and those that it has written."""
        return {
            path.name.removeprefix("said."): actor.SAID.unpack(path.read_bytes())
            for path in self._folder.glob("said.*")
            if path.stat().st_size == actor.SAID.size
        }

    def behind(self, written: dict[str, tuple[int, int]]) -> list[str]:
        """What is not as the writers said, before the log was read last."""
        found = []
        for key, (_, done) in written.items():
            seen = self.seen.get(key, 0)
            if seen < done and not self.drops_allowed and key not in self.forgiven:
                found.append(f"{key} has written {done} lines, and the log has {seen}")
        if self.drops_allowed:
            found += self._miscounted(written)
        return found

    def _miscounted(self, written: dict[str, tuple[int, int]]) -> Iterator[str]:
        """Whether as many lines were dropped as the log says."""
        ended = {key: counts for key, counts in written.items() if not is_alive(*identity(key))}
        least = self.missing
        least += sum(max(0, done - self.seen.get(key, 0)) for key, (_, done) in ended.items())
        # Of the last line of a writer that was killed nobody knows whether it was written.
        most = least + sum(begun - done for begun, done in ended.values())
        told = self.told + self.told_elsewhere
        if told > most or (told < least and self.counts and not self.forgiven):
            yield f"{least} to {most} lines were lost, and the logs tell of {told}"

    def invented(self) -> list[str]:
        """What the log has and nobody has written."""
        written = self.written()
        return [
            f"the log has {seen} lines of {key}, which has written {written.get(key, (0, 0))}"
            for key, seen in self.seen.items()
            if seen > written.get(key, (0, 0))[0]
        ]

    def forgive(self) -> None:
        """The last lines of all who have written so far may be missing."""
        self.forgiven |= self.written().keys()
