"""The real programs as processes, with their logs in files; every wait has a deadline."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

PATIENCE = 30.0  # seconds in which what must happen happens, on a busy machine too
PROGRAMS = Path(sys.executable).parent

Table = dict[str, Any]
Found = TypeVar("Found")


def wait_for(
    condition: Callable[[], Found], what: str = "a condition", seconds: float = PATIENCE
) -> Found:
    """The first true value of the condition; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


def processes_in(folder: Path) -> list[psutil.Process]:
    """All processes whose working directory this is, from /proc."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder):
                found.append(process)
    return found


class Program:
    """One of the programs while it runs; what it says goes on in a file.

    ``prefix`` is a command that ends by executing the words after it.
    """

    def __init__(
        self, name: str, *arguments: str, folder: Path, log: Path, prefix: Sequence[str] = ()
    ) -> None:
        self.log = log
        self._seen = len(self.said())
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [*prefix, str(PROGRAMS / name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=folder,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        """All that is in its log, of processes before it too."""
        return self.log.read_text() if self.log.exists() else ""

    def wait_said(self, text: str, times: int = 1) -> None:
        """Wait until this process has said that, so many times."""

        def found() -> bool:
            ended = not self.running  # before its last words are read
            if self.said()[self._seen :].count(text) >= times:
                return True
            assert not ended, f"{self.process.args!r} has ended without a word of {text!r}"
            return False

        wait_for(found, repr(text))

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """kill -9, also of what is stopped."""
        self.process.kill()
        self.wait()


class Manager(Program):
    """A cmappmgr with ``--report``."""

    def __init__(self, report: Path, *arguments: str, **options: Any) -> None:
        super().__init__("cmappmgr", "--report", str(report), *arguments, **options)
        self._report = report

    def report(self) -> Table:
        """What it has written about its end; nothing while it has not."""
        if not self._report.exists():
            return {}
        told = json.loads(self._report.read_text())
        assert isinstance(told, dict)
        return told
