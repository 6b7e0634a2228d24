"""The cgroup (v2) of one run, in which the kernel itself keeps the list of its processes.

A process is born into the cgroup of its parent, and stays there whatever it does to its session
and its environment, and whoever becomes its parent. The limit: root may move it elsewhere, as
pam_systemd(8) does for what su(1) starts. `hierarchy` says where cgroups can be made.

Nothing here waits, but for the kernel: to move a process takes 0.1 ms, after a pause up to 20 ms.

Sources: cgroups(7), and Documentation/admin-guide/cgroup-v2.rst of Linux.
"""

import contextlib
import errno
import os
import re
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from cmappd.errors import CmappdError, ConfigError
from cmappd.system.marks import run_in
from cmappd.system.proc import Identity, children, last_pid, read_stat
from cmappd.system.process import send

# With a "-", which the name of no file of the kernel in a cgroup has before its dot.
KEYS = {"memory": "memory", "cpu": "cpu", "pids": "processes"}  # controllers, and what they limit

_KILL = "cgroup.kill"
_PASSES = 64  # over processes that may fork meanwhile
_CPU_PERIOD = 100_000  # microseconds, the kernel's default
_LEAST_QUOTA = 1_000  # microseconds; the kernel refuses less


class Resources(NamedTuple):
    """``memory`` in bytes, ``cpu`` in processors; ``processes`` counts threads, too.

    None is no limit. What has its memory limited gets no swap: it would crawl, and not end.
    """

    memory: int | None = None
    cpu: float | None = None
    processes: int | None = None

    def settings(self) -> dict[str, str]:
        """What the interface files are to hold; the controller is what precedes the dot."""
        quota = None if self.cpu is None else max(round(self.cpu * _CPU_PERIOD), _LEAST_QUOTA)
        return {
            "memory.swap.max": "max" if self.memory is None else "0",
            "memory.max": "max" if self.memory is None else str(self.memory),
            "cpu.max": "max" if quota is None else f"{quota} {_CPU_PERIOD}",
            "pids.max": "max" if self.processes is None else str(self.processes),
        }

    def controllers(self) -> list[str]:
        """The controllers that it takes."""
        limited = [file for file, value in self.settings().items() if value != "max"]
        return list(dict.fromkeys(file.split(".")[0] for file in limited))


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The cgroup of one run, by its path."""

    path: str

    @property
    def run(self) -> str:
        return run_in(os.path.basename(self.path))

    def add(self, pid: int) -> bool:
        """Move a process here, with all its threads; False if there is none.

        A zombie stays where it was. What a process has forked before stays there, too: see
        `add_tree`. Raises CmappdError.
        """
        try:
            write(f"{self.path}/cgroup.procs", str(pid))
        except ProcessLookupError:
            return False
        except OSError as error:
            raise CmappdError(
                f"cannot move process {pid} into the cgroup {self.path}: {error.strerror}"
            ) from error
        return True

    def add_tree(self, pid: int, waifs: Callable[[], Iterable[int]] = tuple) -> bool:
        """Move a process that was just launched, and all it has forked since; False if it is gone.

        What it forks from then on is born here. ``waifs`` gives, whenever it is asked, who may have
        come from it and has lost its parent, as daemons do. Raises CmappdError.
        """
        there = self.add(pid)
        if last_pid() == pid:  # nobody has forked since, and what it forks now is born here
            return there
        tried, roots = {pid}, {pid}
        for _ in range(_PASSES):  # the kernel's list of children may miss some while others end
            family = {one for root in roots for one in (root, *_descendants(root))}
            # Only then: who loses its parent during the walk is found here, or was found there.
            roots |= set(waifs())
            outside = (family | roots) - set(self.procs()) - tried
            if not outside:
                break
            for one in outside:
                self.add(one)
            tried |= outside
        return there

    def procs(self) -> list[int]:
        """The living processes, those in cgroups that the application has made below included.

        Those that our pid namespace does not show are missing. Raises OSError.
        """
        return sorted({pid for folder in below(self.path) for pid in pids(folder)} - {0})

    def empty(self) -> bool:
        """Whether no process is left here and below: one small read, and exact.

        Zombies do not count. From Linux 6.19 on a process may count for a moment after it was
        waited for: ask again. Raises OSError where cgroups are not to be seen any more.
        """
        try:
            return _unpopulated(read(f"{self.path}/cgroup.events"))
        except FileNotFoundError:
            return not _is_there(self.path)  # it was removed, and only an empty one can be
        except OSError as error:
            if error.errno != errno.ENODEV:  # which is the same, between open and read
                raise
            return True

    def kill(self) -> None:
        """SIGKILL to all, also to what is being forked; they still take a moment to die.

        Before Linux 5.14 one by one: repeat it while `empty` says no. Raises OSError.
        """
        try:
            write(f"{self.path}/{_KILL}", "1")
        except OSError:  # it is not there, neither before 5.14 nor in threaded mode
            self._kill_each()

    def _kill_each(self) -> None:
        killed: set[Identity] = set()
        for _ in range(_PASSES):
            known = [stat.identity for stat in map(read_stat, self.procs()) if stat]
            members = set(self.procs())  # who is in both lists was a member when it was known
            found = {one for one in known if one.pid in members} - killed
            if not found:
                break
            for one in found:
                with contextlib.suppress(PermissionError):
                    send(one, signal.SIGKILL)
            killed |= found

    def remove(self) -> bool:
        """Remove it, with all below it; False if it is in use, or may not be removed."""
        with contextlib.suppress(OSError):  # in use, or others are below it: those go first
            os.rmdir(self.path)
            return True
        with contextlib.suppress(OSError):
            if self.empty():
                for folder in reversed(below(self.path)):
                    with contextlib.suppress(FileNotFoundError):
                        os.rmdir(folder)
                return True
        return False

    def limit(self, resources: Resources) -> None:
        """Set the limits, and lift those that are None; `Hierarchy.enable` comes first.

        More memory in use than that is reclaimed, or killed for, when still more is asked for;
        older kernels do it here, and may take their time. Raises ConfigError.
        """
        for file, value in resources.settings().items():
            try:
                write(f"{self.path}/{file}", value)
            except OSError as error:
                unneeded = value == "max" or file == "memory.swap.max"  # a kernel without swap
                if unneeded and error.errno == errno.ENOENT:
                    continue
                raise ConfigError(
                    f"cannot limit {KEYS[file.split('.')[0]]}: "
                    f"cannot write {self.path}/{file}: {error.strerror}"
                ) from error

    def memory(self) -> int | None:
        """Bytes of memory in use, caches of files included; None where they are not counted."""
        try:
            return int(read(f"{self.path}/memory.current"))
        except OSError:
            return None

    def oom_kills(self) -> int | None:
        """How many processes were killed for memory; None if unknown, as it is after `remove`.

        Also when it was all of the machine that had no memory left.
        """
        try:
            events = read(f"{self.path}/memory.events")
        except OSError:
            return None
        found = re.search(r"^oom_kill (\d+)$", events, re.MULTILINE)
        return int(found[1]) if found else None


# The files of a cgroup ----------------------------------------------------------------


def read(path: str) -> str:
    """The text of a file of the kernel. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return os.fsdecode(file.readall())


def write(path: str, text: str) -> None:
    """Write to a file that is there. Raises OSError.

    Without blocking: a write to memory.max then does not wait for memory to be reclaimed.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def pids(folder: str) -> list[int]:
    """The processes of a cgroup itself, 0 for one of another pid namespace. Raises OSError."""
    try:
        return list(map(int, read(f"{folder}/cgroup.procs").split()))
    except OSError as error:
        # Those of a threaded cgroup are listed by the one above it that is not.
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            raise
        return []


def below(folder: str) -> list[str]:
    """A cgroup and all below it, parents first. Raises OSError."""
    found = [folder]
    for one in found:  # which grows as it is walked
        # One may have been removed meanwhile.
        with contextlib.suppress(FileNotFoundError), os.scandir(one) as entries:
            found.extend(entry.path for entry in entries if entry.is_dir())
    return found


def _is_there(path: str) -> bool:
    """Whether a cgroup is there; FileNotFoundError where it may only be out of our sight."""
    found = path
    while not os.path.exists(found):
        found = os.path.dirname(found)
    if not os.path.exists(f"{found}/cgroup.procs"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return found == path


def _unpopulated(events: str) -> bool:
    return "populated 0" in events.splitlines()


def _descendants(pid: int) -> set[int]:
    found = [pid]
    for one in found:  # which grows as it is walked
        # The list may be out of date, and the pid somebody else's by now.
        stats = map(read_stat, children(one))
        found.extend(stat.pid for stat in stats if stat and stat.ppid == one)
    return {*found} - {pid}
