"""What the system says of processes: who runs, since when, with how much memory and time."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
LOOK = 100e-6  # seconds between two looks for a new process


def pids() -> Iterator[int]:
    """All processes that we may see."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _read(path: str) -> bytes:
    """A file of /proc; empty where the process has ended."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError:
        return b""


def arguments(pid: int) -> tuple[str, ...]:
    """The command line; empty for a zombie."""
    return tuple(os.fsdecode(word) for word in _read(f"/proc/{pid}/cmdline").split(b"\0")[:-1])


def running(command: tuple[str, ...]) -> list[int]:
    """The processes that run exactly this command."""
    return [pid for pid in pids() if arguments(pid) == command]


def marked(token: str) -> list[int]:
    """The processes that carry a token in their command line or environment, this one excepted."""
    mark = token.encode()
    return [pid for pid in pids() if pid != os.getpid() and _carries(pid, mark)]


def _carries(pid: int, mark: bytes) -> bool:
    return mark in _read(f"/proc/{pid}/cmdline") or mark in _read(f"/proc/{pid}/environ")


def kill(pid: int) -> None:
    """SIGKILL, if it still runs."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def since_boot() -> float:
    """Seconds on the clock of ``started``."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def started(pid: int) -> float:
    """When a process began, in seconds since the boot, to a hundredth (proc_pid_stat(5))."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[19]) / TICKS


def pss(pid: int) -> int:
    """Bytes of memory, what is shared divided by its users (proc_pid_smaps(5))."""
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss")


def anonymous(pid: int) -> int:
    """Resident bytes that are nobody else's (proc_pid_status(5), RssAnon)."""
    return _kilobytes(Path(f"/proc/{pid}/status").read_text(), "RssAnon")


def _kilobytes(text: str, key: str) -> int:
    (line,) = (line for line in text.splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def processor_time(pid: int) -> float:
    """Seconds that all live threads have run, to the nanosecond: /proc/PID/task/TID/schedstat."""
    threads = os.listdir(f"/proc/{pid}/task")
    stats = (_read(f"/proc/{pid}/task/{thread}/schedstat").split() for thread in threads)
    return sum(int(fields[0]) for fields in stats if fields) / 1e9


class Newcomers:
    """Notices a new process that runs some command, at the cost of one small read a look.

    /proc/loadavg ends with the pid that was given out last, so only pids after the last one
    known need a closer look; and again until they have executed their program.
    """

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command
        self._last = _last_pid()
        self._candidates: set[int] = set()

    def wait(self, timeout: float) -> int | None:
        """The pid of the next one; None when there is none in time (seconds)."""
        deadline = time.perf_counter() + timeout
        while time.perf_counter() < deadline:
            last = _last_pid()
            if last != self._last:
                first = self._last + 1 if last > self._last else 1  # the numbers begin anew
                self._candidates.update(range(first, last + 1))
                self._last = last
            for pid in self._candidates:
                if arguments(pid) == self._command:
                    return pid
            time.sleep(LOOK)
        return None


def _last_pid() -> int:
    return int(_read("/proc/loadavg").split()[-1])
