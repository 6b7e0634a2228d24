"""The guest as it is, read from /proc and from what the processes of the applications have noted.

Nothing here asks cmappd, and nothing uses its code: what it says is held against this.
"""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
# Roles of processes that are not of the application's tree.
BESIDE = frozenset({"health"})
YOUNG = "young"  # it was executed just now, and has not said what it is


class Stat(NamedTuple):
    """A process by proc_pid_stat(5). ``start`` is in clock ticks since boot."""

    pid: int
    start: int
    ppid: int
    state: str

    @property
    def alive(self) -> bool:
        return self.state not in "ZX"


class Process(NamedTuple):
    """A process of an application: whoever has the application's folder in its command line."""

    pid: int
    start: int
    app: str
    role: str
    run: str  # "" while nobody knows

    @property
    def key(self) -> str:
        return f"{self.pid}.{self.start}"


class Birth(NamedTuple):
    """What a process noted when it began to be what it is."""

    at: float
    app: str
    key: str
    role: str
    run: str


class Note(NamedTuple):
    """Another thing that a process noted: "exit", "term" or "double"."""

    at: float
    app: str
    key: str
    event: str
    text: str


class World:
    """The applications whose folders are in ``cast``."""

    def __init__(self, cast: Path) -> None:
        self._cast = f"{cast}/".encode()
        self._journal = cast / "journal"
        self._journal.touch()
        self._read = 0
        self._began = _uptime_ticks()
        self._apps: dict[tuple[int, int], str] = {}
        self._foreign: set[tuple[int, int]] = set()
        self.births: dict[str, Birth] = {}  # by key
        self.latest: dict[str, Birth] = {}  # by application: its last main process
        self.runs: dict[str, list[str]] = {}  # by application, in order
        self.notes: list[Note] = []
        self.zombies: dict[tuple[int, int], float] = {}  # of whom, and since when

    def look(self, server: int | None = None) -> dict[str, list[Process]]:
        """All living processes of the applications, by application.

        ``server`` is the pid whose zombies are noted.
        """
        found: dict[str, list[Process]] = {}
        zombies: dict[tuple[int, int], float] = {}
        now = time.monotonic()
        for name in os.listdir("/proc"):
            stat = read_stat(int(name)) if name.isdigit() else None
            if stat is None:
                continue
            who = (stat.pid, stat.start)
            if not stat.alive:
                if stat.ppid == server:
                    zombies[who] = self.zombies.get(who, now)
                continue
            app = self._app_of(who)
            if app is not None:
                found.setdefault(app, []).append(Process(*who, app, "", ""))
        self.zombies = zombies
        self.read_journal()  # after the look: who was seen and is grown up has noted its birth
        return {app: [self._known(one) for one in each] for app, each in found.items()}

    def _app_of(self, who: tuple[int, int]) -> str | None:
        if who in self._apps:
            return self._apps[who]
        if who in self._foreign:
            return None
        _, _, rest = _read(f"/proc/{who[0]}/cmdline").partition(self._cast)
        if rest:
            self._apps[who] = rest.partition(b"\0")[0].partition(b"/")[0].decode()
            return self._apps[who]
        if who[1] < self._began:
            self._foreign.add(who)
        return None

    def _known(self, process: Process) -> Process:
        birth = self.births.get(process.key)
        if birth is not None:
            return process._replace(role=birth.role, run=base_of(birth.run))
        mark = _environment(process.pid).get("CMAPPD_RUN", "")
        role = "health" if mark.endswith("/health") else YOUNG
        return process._replace(role=role, run=base_of(mark))

    def read_journal(self) -> None:
        """Take in what was noted since the last time."""
        with self._journal.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._read += len(data)
        for line in data.decode().splitlines():
            event, at, app, key, *rest = line.split(" ")
            if event == "born":
                self._take_birth(Birth(float(at), app, key, *rest))
            else:
                self.notes.append(Note(float(at), app, key, event, " ".join(rest)))

    def _take_birth(self, birth: Birth) -> None:
        self.births[birth.key] = birth
        if birth.role == "main":
            self.latest[birth.app] = birth
        run, runs = base_of(birth.run), self.runs.setdefault(birth.app, [])
        if birth.role in ("start", "command", "main") and run not in runs:
            runs.append(run)

    def ended(self, key: str) -> Note | None:
        """How a process says that it ended by its own will."""
        return next((n for n in reversed(self.notes) if n.key == key and n.event != "double"), None)

    def still(self, processes: Iterable[Process]) -> list[Process]:
        """Those of these processes that live now."""
        return [one for one in processes if is_alive(one.pid, one.start)]


def base_of(run: str) -> str:
    """The run, without what is beside it: "db.3f5c01aa.2/after" belongs to "db.3f5c01aa.2"."""
    return run.partition("/")[0]


def standing(pid: int) -> str:
    """What /proc says of it now, for people: state, parent and cgroup."""
    stat, groups = read_stat(pid), _read(f"/proc/{pid}/cgroup").decode(errors="replace").split()
    inside = [line[3:] for line in groups if line.startswith("0::")]
    return "gone" if stat is None else f"{stat.state}, child of {stat.ppid}, in {inside}"


def read_stat(pid: int) -> Stat | None:
    """None if there is no such process."""
    line = _read(f"/proc/{pid}/stat")
    if not line:
        return None
    fields = line.rpartition(b")")[2].split()
    return Stat(pid, int(fields[19]), int(fields[1]), fields[0].decode())


def is_alive(pid: int, start: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.start == start and stat.alive


def is_confined(pid: int, start: int, run: str) -> bool:
    """Whether a process is in the cgroup of this run; also if it has ended meanwhile."""
    with contextlib.suppress(OSError):
        inside = f"/app-{run}" in Path(f"/proc/{pid}/cgroup").read_text()
        return inside or not is_alive(pid, start)
    return True


def identity(key: str) -> tuple[int, int]:
    pid, _, start = key.partition(".")
    return int(pid), int(start)


def identity_of(pid: int) -> tuple[int, int]:
    stat = read_stat(pid)
    assert stat is not None, f"there is no process {pid}"
    return stat.pid, stat.start


def _environment(pid: int) -> dict[str, str]:
    pairs = (one.partition(b"=") for one in _read(f"/proc/{pid}/environ").split(b"\0"))
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError:
        return b""


def _uptime_ticks() -> int:
    return int(float(_read("/proc/uptime").split()[0]) * TICKS)
