"""Applications that speak for themselves by sd_notify(3): real processes, and who is believed."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmappd.core.messages import Done, Refused, Restart, Start
from cmappd.core.state import Announced, Cause, Health, Phase
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.shared.items import Said
from cmappd.system.proc import read_stat
from tests.server.application.test_commands import start, stop
from tests.server.application.test_starved import descriptors
from tests.server.ground import Ground, Recorder, play, until
from tests.server.harness import stanza

# Does what it is told, by lines of Python in a FIFO that it holds open itself.
PUPPET = """
import os, socket, sys, time
def say(text, to=os.environ.get("NOTIFY_SOCKET")):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), to)
def try_to_say(text):
    try:
        say(text)
    except OSError:
        pass
def gone(text):
    if os.fork() == 0:
        say(text)
        os._exit(0)
def hand_over():
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    say(f"MAINPID={pid}")
    return pid
DAEMON = "daemon" in sys.argv
if DAEMON and (os.fork() or (os.setsid(), os.fork())[1]):
    os._exit(0)
for line in os.fdopen(os.open(sys.argv[1], os.O_RDWR)):
    exec(line)
"""


class Puppet:
    """The application "db", and the strings it hangs on."""

    def __init__(self, folder: Path) -> None:
        self.fifo = folder / "orders"
        os.mkfifo(self.fifo)
        self._orders = os.open(self.fifo, os.O_RDWR)

    def stanza(self, *words: str, **keys: Any) -> str:
        return stanza("db", sys.executable, "-c", PUPPET, str(self.fifo), *words, **keys)

    def do(self, line: str) -> None:
        os.write(self._orders, f"{line}\n".encode())

    def say(self, text: str) -> None:
        self.do(f"say({text!r})")

    def close(self) -> None:
        os.close(self._orders)


@pytest.fixture
def puppet(tmp_path: Path) -> Iterator[Puppet]:
    made = Puppet(tmp_path)
    yield made
    made.close()


NOTIFY = {"ready": "notify", "timeout": "1m"}


async def ready(puppet: Puppet, db: Supervisor) -> int:
    """It has started, and said that it is ready; its pid."""
    puppet.say("READY=1")
    assert isinstance(await start(db), Done)
    assert db.app.run is not None
    assert db.app.run.pid is not None
    return db.app.run.pid


def announced(db: Supervisor) -> Announced:
    return db.status().announced


# Readiness ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["simple", "forking"])
def test_it_runs_when_it_says_so(kind: str, puppet: Puppet, tmp_path: Path) -> None:
    words = ["daemon"] if kind == "forking" else []

    async def scene(ground: Ground, db: Supervisor) -> None:
        puppet.say("STATUS=still loading")
        puppet.do("gone('STATUS=from a child')")
        task = asyncio.create_task(start(db))
        await until(lambda: db.status().status_text == "from a child")
        assert db.app.phase is Phase.STARTING
        puppet.say("READY=1\nSTATUS=ready for you")
        assert isinstance(await task, Done)
        assert (announced(db), db.status().status_text) == (Announced.READY, "ready for you")
        puppet.say("RELOADING=1")
        await until(lambda: announced(db) is Announced.RELOADING)
        puppet.say("READY=1")
        await until(lambda: announced(db) is Announced.READY)
        await stop(db)

    play(tmp_path, puppet.stanza(*words, type=kind, start=NOTIFY), scene)


def test_it_is_not_ready_if_it_does_not_say_so(puppet: Puppet, tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        answer = await start(db)
        assert isinstance(answer, Refused)
        assert "did not become ready in time" in answer.text

    play(tmp_path, puppet.stanza(start={"ready": "notify", "timeout": "300ms"}), scene)


def test_more_time_is_given_to_who_asks_for_it(puppet: Puppet, tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        puppet.do("say('EXTEND_TIMEOUT_USEC=60000000'); time.sleep(0.8); say('READY=1')")
        assert isinstance(await start(db), Done)

    play(tmp_path, puppet.stanza(start={"ready": "notify", "timeout": "600ms"}), scene)


def test_systemd_notify_is_heard(tmp_path: Path) -> None:
    """Below a shell, which is the main process; as root it sends under the name of that."""
    script = "systemd-notify --ready --status=up; exec sleep 600"
    apps = stanza("db", "/bin/sh", "-c", script, start=NOTIFY)

    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        assert db.status().status_text == "up"

    play(tmp_path, apps, scene)


def test_who_is_not_of_the_tree_is_not_heeded(puppet: Puppet, tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        task = asyncio.create_task(start(db))
        address = str(tmp_path / "state-notify" / "db")
        await until(lambda: os.path.exists(address))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"READY=1", address)
        await until(lambda: [line for line in ground.lines if "not heeded" in line])
        assert db.app.phase is Phase.STARTING
        puppet.say("READY=1")
        assert isinstance(await task, Done)

    play(tmp_path, puppet.stanza(start=NOTIFY), scene)


def test_the_last_words_are_heard_before_the_end(puppet: Puppet, tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        await ready(puppet, db)
        puppet.do("say('STOPPING=1'); os._exit(3)")
        await until(lambda: db.app.phase is Phase.FAILED)
        assert db.app.last is not None
        assert (db.app.last.cause, db.app.last.status.code) == (Cause.EXIT, 3)
        assert [line for line in ground.lines if "it says that it is stopping" in line]

    play(tmp_path, puppet.stanza(start=NOTIFY), scene)


# The socket, and the environment -----------------------------------------------------


def environment(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


def test_the_socket_is_there_while_it_runs_and_for_nobody_else(
    puppet: Puppet, tmp_path: Path
) -> None:
    folder = tmp_path / "state-notify"

    async def scene(ground: Ground, db: Supervisor) -> None:
        variables = environment(await ready(puppet, db))
        assert variables["NOTIFY_SOCKET"] == str(folder / "db")
        assert "WATCHDOG_USEC" not in variables
        assert stat.S_IMODE(folder.stat().st_mode) == 0o711
        assert stat.S_IMODE((folder / "db").stat().st_mode) == 0o600
        await stop(db)
        assert not folder.exists()

    play(tmp_path, puppet.stanza(start=NOTIFY), scene)


def test_who_does_not_use_it_gets_none(puppet: Puppet, tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        assert db.app.run is not None
        assert db.app.run.pid is not None
        assert "NOTIFY_SOCKET" not in environment(db.app.run.pid)
        assert not (tmp_path / "state-notify").exists()

    play(tmp_path, puppet.stanza(start={"ready": "0s"}), scene)


def test_a_place_that_cannot_be_had_fails_the_start(puppet: Puppet, tmp_path: Path) -> None:
    (tmp_path / "state-notify").write_text("")

    async def scene(ground: Ground, db: Supervisor) -> None:
        answer = await start(db)
        assert isinstance(answer, Refused)
        assert f"{tmp_path}/state-notify: not a directory; remove it" in answer.text

    play(tmp_path, puppet.stanza(start=NOTIFY), scene)


def test_each_run_has_a_socket_of_its_own(puppet: Puppet, tmp_path: Path) -> None:
    """What is open afterwards, the test of open files would show."""

    async def scene(ground: Ground, db: Supervisor) -> None:
        first = await ready(puppet, db)
        admin = Recorder("uid 0", administrator=True)
        task = asyncio.create_task(admin.ask(db, Restart(admin.next(), "db")))
        await until(lambda: db.status().pid not in (first, None))
        puppet.say("READY=1")
        assert isinstance(await task, Done)
        await stop(db)

    play(tmp_path, puppet.stanza(start=NOTIFY), scene)


# Another main process ----------------------------------------------------------------


def test_another_main_process_is_followed(puppet: Puppet, tmp_path: Path) -> None:
    """The first one ends, and that is no end; then the other one does, and it is."""

    async def scene(ground: Ground, db: Supervisor) -> None:
        first = await ready(puppet, db)
        puppet.do("hand_over()")
        second = await until(lambda: db.status().pid != first and db.status().pid)
        puppet.do("os._exit(0)")
        await until(lambda: read_stat(first) is None)
        assert db.app.phase is Phase.RUNNING
        assert isinstance(second, int)
        os.kill(second, signal.SIGKILL)
        await until(lambda: db.app.phase is Phase.FAILED)
        assert db.app.last is not None
        assert db.app.last.status.signal == signal.SIGKILL

    play(tmp_path, puppet.stanza(start=NOTIFY), scene)


def test_it_may_hand_over_with_its_last_words_and_take_back(puppet: Puppet, tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        first = await ready(puppet, db)
        puppet.do("hand_over()")
        await until(lambda: db.status().pid != first)
        puppet.do("say(f'MAINPID={os.getpid()}')")
        await until(lambda: db.status().pid == first)
        puppet.do("hand_over(); os._exit(0)")
        await until(lambda: read_stat(first) is None)
        await until(lambda: db.status().pid != first)
        assert db.app.phase is Phase.RUNNING
        await stop(db)

    play(tmp_path, puppet.stanza(start=NOTIFY), scene)


def test_a_main_process_of_others_is_not_heeded(puppet: Puppet, tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        pid = await ready(puppet, db)
        for text in ("mine", "mine again"):
            puppet.say(f"MAINPID={os.getpid()}\nSTATUS={text}")
            await until(lambda text=text: db.status().status_text == text)  # type: ignore[misc]
        assert db.status().pid == pid
        assert len([line for line in ground.lines if "not heeded: MAINPID" in line]) == 1
        puppet.do("os._exit(7)")
        await until(lambda: db.app.phase is Phase.FAILED)

    play(tmp_path, puppet.stanza(start=NOTIFY), scene)


# The watchdog ------------------------------------------------------------------------


def test_the_watchdog_is_told_as_systemd_tells_it(puppet: Puppet, tmp_path: Path) -> None:
    health = {"watchdog": "1m", "action": "report"}

    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        assert db.app.run is not None
        pid = db.app.run.pid
        assert pid is not None
        assert db.status().health is Health.UNKNOWN
        puppet.say("WATCHDOG=1")
        await until(lambda: db.status().health is Health.HEALTHY)
        variables = environment(pid)
        assert (variables["WATCHDOG_USEC"], variables["WATCHDOG_PID"]) == ("60000000", str(pid))
        assert "PWD" not in variables
        puppet.say("WATCHDOG=trigger")
        await until(lambda: db.status().health is Health.UNHEALTHY)
        assert db.app.phase is Phase.RUNNING
        puppet.say("WATCHDOG=1")
        await until(lambda: db.status().health is Health.HEALTHY)
        puppet.say("WATCHDOG_USEC=50000")
        await until(lambda: db.status().health is Health.UNHEALTHY)

    play(tmp_path, puppet.stanza(start={"ready": "0s"}, health=health), scene)


def test_a_missed_ping_ends_it(puppet: Puppet, tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        pid = await ready(puppet, db)
        for _ in range(4):
            puppet.do("time.sleep(0.2); say('WATCHDOG=1')")
        puppet.do("say('STATUS=no more')")
        await until(lambda: db.status().status_text == "no more")
        assert db.app.phase is Phase.RUNNING
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: db.app.phase is Phase.FAILED)
        assert db.app.last is not None
        assert db.app.last.cause is Cause.UNHEALTHY
        assert db.app.last.detail == "unhealthy: no ping of its watchdog within 0.5 s"

    play(tmp_path, puppet.stanza(start=NOTIFY, health={"watchdog": "500ms"}), scene)


def test_words_that_wait_to_be_read_are_heard_before_the_time_is_over(
    puppet: Puppet, tmp_path: Path
) -> None:
    """The server is held up for longer than the interval; the application is not."""

    async def scene(ground: Ground, db: Supervisor) -> None:
        await ready(puppet, db)
        puppet.do("time.sleep(0.2); say('STATUS=slept'); say('WATCHDOG=1')")
        puppet.do("[(time.sleep(0.05), say('WATCHDOG=1')) for _ in range(40)]")
        subprocess.run(["/bin/sleep", "0.8"], check=True)  # nothing is heard meanwhile
        puppet.say("STATUS=through")
        await until(lambda: db.status().status_text == "through")
        assert db.app.phase is Phase.RUNNING

    play(tmp_path, puppet.stanza(start=NOTIFY, health={"watchdog": "300ms"}), scene)


@pytest.mark.parametrize("free", [0, 1])
def test_a_child_is_heard_and_followed_though_nobody_can_be_looked_at(
    free: int, puppet: Puppet, tmp_path: Path
) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        admin = Recorder("uid 0", administrator=True)
        db.post(Said(admin, Start(admin.next(), "db")))
        await until(lambda: db.app.run is not None and db.app.run.pid)
        assert db.app.run is not None
        first = db.app.run.pid
        with descriptors(free):
            puppet.do("os.fork() or (say('READY=1'), time.sleep(600))")
            await until(lambda: db.app.phase is Phase.RUNNING)
            puppet.do("child = hand_over(); say('STATUS=handed over')")
            await until(lambda: db.status().status_text == "handed over")
        await until(lambda: db.app.run is not None and db.app.run.pid != first)
        assert db.app.run is not None
        stat = read_stat(db.app.run.pid or 0)
        assert stat is not None
        assert stat.ppid == first

    play(tmp_path, puppet.stanza(start={"ready": "notify"}), scene)
