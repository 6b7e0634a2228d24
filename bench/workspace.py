"""A folder for one figure, and everything that was started for it: nothing is left behind."""

import contextlib
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cmappd
from bench import processes
from bench.series import BenchError
from cmappd.errors import ConfigError
from cmappd.system import hierarchy

PYTHON = sys.executable
HERE = Path(__file__).parent
SLEEP = shutil.which("sleep") or "/bin/sleep"
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
TIMEOUT = 60.0  # seconds for anything that must happen
LOOK = 0.5e-3  # seconds between two looks at a growing file
ROOM = 4 * 10**9  # bytes that must be free in memory for the folder to be there


class Workspace:
    """One folder, in memory where possible, as the state directory is in production.

    A random number marks whatever is started here: it is in the folder's name, in the
    environment, and in the commands of the applications. At the end all that carry it are killed.
    """

    def __init__(self) -> None:
        self.token = str(random.randrange(10**8, 10**9))
        self.folder = Path(_base(), f"cmappd-bench-{self.token}")
        self._children: list[subprocess.Popen[bytes]] = []
        self._followed: list[Lines] = []

    def __enter__(self) -> "Workspace":
        self.folder.mkdir(mode=0o700)
        (self.folder / "out").mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Neither a second Ctrl-C nor the end of the time may keep us from cleaning up.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTIONS)
        try:
            self.sweep()
        finally:
            for lines in self._followed:
                lines.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def sleeper(self, kind: int = 0) -> tuple[str, ...]:
        """The command of an application that does nothing; each ``kind`` differs."""
        return (SLEEP, self.token, str(kind))

    def log(self, name: str) -> Path:
        """Where the output of a program goes that was started under this name."""
        return self.folder / "out" / name

    def follow(self, name: str) -> "Lines":
        """The lines of that output, from its beginning on."""
        lines = Lines(self.log(name))
        self._followed.append(lines)
        return lines

    def start(self, command: Sequence[str], name: str) -> subprocess.Popen[bytes]:
        """Start a program, which is out of reach of the terminal's Ctrl-C."""
        with open(self.log(name), "wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(),
                cwd=self.folder,
                start_new_session=True,
            )
        self._children.append(process)
        return process

    def _environment(self) -> dict[str, str]:
        own = {
            "CMAPPD_BENCH": self.token,
            "PYTHONPATH": str(Path(cmappd.__file__).parents[1]),
            "XDG_RUNTIME_DIR": str(self.folder),
            "XDG_STATE_HOME": str(self.folder),
        }
        return os.environ | own

    def sweep(self) -> None:
        """Kill everything that was started here, and wait until it is gone."""
        deadline = time.monotonic() + TIMEOUT
        while left := self._left():
            if time.monotonic() > deadline:
                raise BenchError(f"processes are left behind: {left}")
            for pid in left:
                processes.kill(pid)
            for child in self._children:
                child.poll()
            time.sleep(0.02)
        for child in self._children:
            child.wait(TIMEOUT)
        self._children.clear()
        self._remove_cgroups()

    def _remove_cgroups(self) -> None:
        """Of each cmappserver that was here: one that is killed leaves them to the next."""
        for lock in self.folder.rglob("lock"):
            with contextlib.suppress(ConfigError):
                hierarchy.open_hierarchy(hierarchy.name_of(str(lock.parent))).remove()

    def _left(self) -> list[int]:
        known = [child.pid for child in self._children if child.poll() is None]
        return sorted({*known, *processes.marked(self.token)})


def _base() -> str:
    shared = "/dev/shm"
    if "TMPDIR" not in os.environ and os.access(shared, os.W_OK):
        found = os.statvfs(shared)
        if found.f_bavail * found.f_frsize > ROOM:
            return shared
    return tempfile.gettempdir()


class Lines:
    """The lines of a growing file, each given once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  closed by close()
        self._partial = b""
        self._lines: list[str] = []

    def close(self) -> None:
        """Read no more."""
        self._file.close()

    def wait(self, pattern: str, timeout: float = TIMEOUT) -> re.Match[str]:
        """The next line in which the pattern is found; lines before it are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            while self._lines:
                if found := re.search(pattern, self._lines.pop(0)):
                    return found
            if time.monotonic() > deadline:
                raise BenchError(f"{self._path.name} says nothing of '{pattern}'{self._end()}")
            if not self._read():
                time.sleep(LOOK)

    def _read(self) -> bool:
        data = self._file.read()
        if not data:
            return False
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._lines += [line.decode(errors="replace") for line in lines]
        return True

    def _end(self) -> str:
        text = self._path.read_text(errors="replace").strip()
        return f", its last line is: {text.splitlines()[-1][:200]}" if text else ""


def wait_for_line(path: Path, pattern: str, timeout: float = TIMEOUT) -> re.Match[str]:
    """The first line of a file in which the pattern is found."""
    lines = Lines(path)
    try:
        return lines.wait(pattern, timeout)
    finally:
        lines.close()


def reap(process: subprocess.Popen[bytes], timeout: float = TIMEOUT) -> int:
    """Wait for a child, and no longer than this: Popen.wait with a timeout would poll."""
    pidfd = os.pidfd_open(process.pid)
    try:
        if not select.select([pidfd], [], [], timeout)[0]:
            raise BenchError(f"process {process.pid} does not end")
    finally:
        os.close(pidfd)
    return process.wait()


def run(workspace: Workspace, command: Sequence[str], name: str) -> float:
    """Seconds that a program takes from its start until it is reaped. It must succeed."""
    began = time.perf_counter()
    code = reap(workspace.start(command, name))
    took = time.perf_counter() - began
    if code != 0:
        text = workspace.log(name).read_text(errors="replace").strip()[-200:]
        raise BenchError(f"{Path(command[0]).name} exits with {code}: {text}")
    return took
