"""The agent for Pacemaker, run as Pacemaker does, without a cluster around it."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import PATIENCE, PROGRAMS, wait_for

AGENT = Path(__file__).parents[3] / "cluster" / "pacemaker" / "app"
LIBRARY = Path("/usr/lib/ocf/lib/heartbeat/ocf-shellfuncs")
TESTER = Path("/usr/sbin/ocf-tester")
SCHEMA = Path("/usr/share/pcs/data/ocf-1.1.rng")

OK, GENERIC, ARGS, UNIMPLEMENTED, PERM, INSTALLED, CONFIGURED, NOT_RUNNING = range(8)

# What each of these tests needs.
NEEDS = [
    pytest.mark.root,  # as it runs in a cluster
    pytest.mark.skipif(not LIBRARY.exists(), reason="needs resource-agents"),
]

Result = tuple[int, str]  # the exit code, and all that was said


class Agent:
    """A resource: the agent with its parameters, and where it keeps what it knows."""

    def __init__(
        self, scene: Scene, app: str = "db", node: str = "node1", **parameters: str
    ) -> None:
        self.folder = scene.folder / node
        self.folder.mkdir(exist_ok=True)
        self.script = AGENT
        self.log = scene.folder / f"{node}-{app}.log"
        self.state = self.folder / f"cmappd-{app}"  # what the agent keeps
        given = {
            "app": app,
            "program": str(PROGRAMS / "cmappmgr"),
            "log": str(self.log),
            "answer_timeout": "2",
            **parameters,
        }
        given.setdefault("config", scene.host())
        self.parameters = {key: value for key, value in given.items() if value}
        self.environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "OCF_ROOT": "/usr/lib/ocf",
            "OCF_RESOURCE_INSTANCE": app,
            "HA_RSCTMP": str(self.folder),
            **{f"OCF_RESKEY_{key}": value for key, value in self.parameters.items()},
        }

    def begin(
        self, action: str, interval: float = 0, timeout: float = 20, level: int = 0
    ) -> "subprocess.Popen[str]":
        """Begin an action; times are in seconds."""
        return subprocess.Popen(
            [self.script, action],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            env={
                **self.environment,
                "OCF_RESKEY_CRM_meta_interval": f"{interval * 1000:.0f}",
                "OCF_RESKEY_CRM_meta_timeout": f"{timeout * 1000:.0f}",
                **({"OCF_CHECK_LEVEL": str(level)} if level else {}),
            },
        )

    def __call__(self, action: str, **circumstances: float) -> Result:
        """Run an action to its end, and to that of whatever holds its output."""
        process = self.begin(action, **circumstances)  # type: ignore[arg-type]
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return process.returncode, said

    def code(self, action: str, **circumstances: float) -> int:
        """Only the exit code."""
        return self(action, **circumstances)[0]

    @property
    def manager(self) -> int:
        """The pid of its manager."""
        return int((self.state / "pid").read_text())

    @property
    def watched(self) -> Path:
        """Where it keeps when a monitor was last over."""
        return self.state / "watched"

    @property
    def asked(self) -> Path:
        """Where it keeps when the last monitor of level 10 began."""
        return self.state / "asked"

    def begin_waiting(self) -> "subprocess.Popen[str]":
        """A monitor that waits for the end of the manager, which is not the first one."""
        waiting = self.begin("monitor", interval=1, timeout=60)
        below = psutil.Process(waiting.pid)
        wait_for(
            lambda: "flock" in [each.name() for each in below.children() if each.is_running()],
            "the monitor to wait",
        )
        return waiting

    def kill_manager(self) -> None:
        """kill -9, and wait until it is seen."""
        os.kill(self.manager, signal.SIGKILL)
        wait_for(lambda: self.code("monitor") == 1, "the end of the manager")

    def close(self) -> None:
        """End what it has left running."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if str(self.folder).encode() in Path(f"/proc/{self.manager}/cmdline").read_bytes():
                os.kill(self.manager, signal.SIGKILL)


Make = Callable[..., Agent]  # given parameters


def program(scene: Scene, *lines: str) -> str:
    """Something in the place of cmappmgr; its path."""
    path = scene.folder / "program"
    path.write_text("\n".join([*lines, ""]))
    path.chmod(0o755)
    return str(path)


def freeze(scene: Scene) -> None:
    """Have the guest not answer."""
    assert scene.guest.server is not None
    scene.guest.server.signal(signal.SIGSTOP)


def kill(scene: Scene) -> None:
    """Have nothing there that could answer."""
    assert scene.guest.server is not None
    scene.guest.server.kill()
