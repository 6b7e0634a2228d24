"""kill -9 of cmappserver at any moment: while it starts, launches, stops or takes up.

The moments are chosen by a seed, which is shown when a check fails, and are exact: Python tells of
most system calls before they are made (PEP 578), and at the n-th of them the process kills itself.
What must hold is read from /proc and from files that the application writes itself:

never_two      its command holds a lock that the kernel gives once
never_lies     what is running has a process, what is at rest has none
nothing_lost   what lives is supervised; each launch stands in the log, once
never_blames   what ends only when it is told to has not ended by itself
asks_first     what ends when it is told to was told, and not just killed
"""

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from cmappd.core.messages import AppStatus, Message, Restart, Start, Stop
from cmappd.core.state import Cause
from tests.server.harness import PATIENCE, Cut, Guest, shell, wait_for

ROUNDS = 25  # of each kind of application
SEED = 20261125
LONGEST_DELAY = 0.02  # seconds, where it is not killed by itself
SETTLED = {"stopped", "failed", "running"}
KILLER = """
import os, sys
EVENTS = {"open", "os.rename", "os.remove", "os.listdir", "os.kill", "subprocess.Popen"}
left = int(os.environ.get("KILL_AT", "0"))
def count(event, _):
    global left
    if event in EVENTS and "cmappd.server.main" in sys.modules and os.path.exists("armed"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)
if left:
    sys.addaudithook(count)
"""
ONE = (
    "exec 9>lock; flock -n 9 || echo two >>broken; "
    'echo $CMAPPD_RUN >>begun; echo "begin $CMAPPD_RUN"'
)
IDLE = "mkfifo idle; exec 8<>idle; while :; do read -r _ <&8; done"  # without a child
KINDS = {
    "simple": shell(
        "db", f"{ONE}; exec sleep 600", directory=".",
        start={"command": ["/bin/true"]}, stop={"command": ["/bin/true"], "after": ["/bin/true"]},
    ),
    "asked": shell(
        "db", f"trap 'echo $CMAPPD_RUN >>asked; exit 0' TERM; {ONE}; {IDLE}", directory=".",
    ),
    "forking": shell("db", f"{ONE}; setsid sleep 600 & exit 0", type="forking"),
}  # fmt: skip


class Victim:
    """A guest whose server is killed again and again."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.guest = Guest(folder, KINDS[kind], tls=False, managers="")
        (folder / "killer").mkdir()
        (folder / "killer" / "sitecustomize.py").write_text(KILLER)
        self.guest.environment["PYTHONPATH"] = str(folder / "killer")

    def start(self, kill_at: int, *, armed: bool) -> None:
        """Start it, to be killed at that event, counted from now or from ``strike`` on."""
        self.guest.environment["KILL_AT"] = str(kill_at)
        (self.folder / "armed").unlink(missing_ok=True)
        if armed:
            (self.folder / "armed").touch()
        seen = len(self.guest.log())
        process = self.guest.launch()
        wait_for(lambda: "is ready" in self.guest.log()[seen:] or process.poll() is not None)

    @property
    def lives(self) -> bool:
        return self.guest.process is not None and self.guest.process.poll() is None

    def strike(self, request: type[Start | Stop | Restart], delay: float) -> None:
        """Ask for something; the server is killed during that, or by us a while after."""
        (self.folder / "armed").touch()
        try:
            admin = self.guest.control()
            message: Message = request(admin.next(), "db")
            admin.send(message)
            admin.answer(message.seq, 5.0)
        except (Cut, OSError, AssertionError):
            pass
        time.sleep(delay)
        self.guest.signal(signal.SIGKILL)
        self.guest.wait()
        self.guest.hang_up()

    def settled(self) -> AppStatus:
        return self.guest.control().wait_app("db", lambda status: status.phase in SETTLED)

    def sleepers(self) -> list[int]:
        """Whoever holds the lock: from /proc."""
        found = []
        for pid in self.guest.app_pids():
            try:
                files = [os.readlink(f"/proc/{pid}/fd/9")]
            except OSError:
                continue
            if files == [str(self.folder / "lock")]:
                found.append(pid)
        return found

    def check(self) -> None:
        status = self.settled()
        if status.phase == "running":  # it may not have got to its lock yet, or be forking
            wait_for(lambda: self.sleepers() == [status.pid])  # never_lies, nothing_lost
        else:
            assert self.guest.app_pids() == [], "never_lies, nothing_lost"
        assert not (self.folder / "broken").exists(), "never_two"
        assert status.last is None or status.last.cause is not Cause.EXIT, "never_blames"
        if self.kind == "asked":
            ended = {*self.noted("begun")} - ({status.run} if status.phase == "running" else set())
            assert ended <= {*self.noted("asked")}, "asks_first"

    def noted(self, name: str) -> list[str]:
        """The runs that have written themselves down there."""
        path = self.folder / name
        return path.read_text().split() if path.exists() else []

    def logged(self) -> list[str]:
        path = self.folder / "db.log"
        return re.findall("^begin (.*)$", path.read_text(), re.M) if path.exists() else []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_killed_anywhere(tmp_path: Path, kind: str) -> None:
    victim, dice = Victim(tmp_path, kind), random.Random(f"{SEED} {kind}")
    killed = 0
    try:
        for turn in range(ROUNDS):
            while_starting = turn % 3 == 2
            kill_at = dice.randint(1, 400 if while_starting else 60)
            request = dice.choice((Start, Stop, Restart))
            if kind == "asked" and not while_starting:  # about when the stop signal is sent
                request, kill_at = (Restart, dice.randint(2, 4)) if turn % 3 else (Start, 60)
            about = f"seed {SEED}, round {turn}: {request.__name__}, kill at {kill_at}"
            print(about, "of the start" if while_starting else "")
            victim.start(kill_at, armed=while_starting)
            killed += not victim.lives
            if not victim.lives:
                continue
            (tmp_path / "armed").unlink(missing_ok=True)
            victim.check()
            victim.strike(request, dice.uniform(0, LONGEST_DELAY))
        victim.start(0, armed=False)
        victim.check()
        admin = victim.guest.control()
        for last in (Restart(admin.next(), "db"), Stop(admin.next(), "db")):
            admin.ask(last, PATIENCE)
        victim.check()
        begun = victim.noted("begun")
        assert len(begun) > ROUNDS / 10  # or nothing has been tried; fewer begin on a busy machine
        assert len(set(begun)) == len(begun)
        wait_for(lambda: victim.logged() == begun)
        assert victim.guest.stop() == 0
    finally:
        victim.guest.close()
    assert killed
    assert "Traceback" not in victim.guest.log()
