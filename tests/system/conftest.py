"""Real processes for the tests of the process side, and the proof that none is left."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cmappd.system.log import file as logfile
from cmappd.system.proc import children, read_stat
from cmappd.system.process import Launch, become_supervisor


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for a condition; fail when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def open_files() -> set[tuple[str, str]]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
        except FileNotFoundError:  # the one that listdir itself had open
            continue
    return found


@pytest.fixture
def family() -> Iterator[None]:
    """Makes this process the subreaper; afterwards no child and no descriptor may be left."""
    before = open_files()
    become_supervisor()
    yield
    left = [read_stat(pid) for pid in children(os.getpid())]
    for stat in left:
        if stat is not None:
            os.kill(stat.pid, signal.SIGKILL)
            os.waitpid(stat.pid, 0)
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)
    assert left == []
    assert open_files() == before


class Scripts:
    """Writes scripts, and makes the `Launch` that executes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = os.open("/dev/null", os.O_WRONLY)

    def launch(self, *command: str, run: str = "", **changes: object) -> Launch:
        environment = {"PATH": os.environ["PATH"]} | ({"CMAPPD_RUN": run} if run else {})
        plain: dict[str, object] = {
            "command": command,
            "directory": None,
            "environment": environment,
            "uid": None,
            "gid": None,
            "groups": None,
            "umask": None,
            "output": self.output,
        }
        return Launch(**(plain | changes))  # type: ignore[arg-type]

    def sh(self, text: str, run: str = "", **changes: object) -> Launch:
        return self.launch("/bin/sh", "-c", text, run=run, **changes)

    def python(self, text: str, run: str = "", **changes: object) -> Launch:
        path = self.folder / f"script{len(list(self.folder.iterdir()))}.py"
        path.write_text(text)
        return self.launch(sys.executable, "-S", "-E", str(path), run=run, **changes)


@pytest.fixture
def scripts(family: None, tmp_path: Path) -> Iterator[Scripts]:
    made = Scripts(tmp_path)
    yield made
    os.close(made.output)


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try a broken disk again with every write."""
    monkeypatch.setattr(logfile, "RETRY_DELAY", 0.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
