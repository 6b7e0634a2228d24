"""cmappserver is replaced by the version on disk.

What must hold: nothing is stopped, lost or doubled; the process, its children and its sockets stay;
and where the version on disk is of no use, nothing has changed.
"""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import cmappd
from cmappd.core.messages import Done, Ended, Refused, Start, State, Stop, Upgrade
from cmappd.core.state import Cause, ExitStatus
from cmappd.system import proc
from tests.ports import free_port
from tests.server.harness import (
    PATIENCE,
    Cut,
    Guest,
    alive,
    replace_file,
    shell,
    stanza,
    wait_for,
)

SLEEP = stanza("db", "/bin/sleep", "600", autostart=True)
LONG = "        __import__('time').sleep(60)\n        if options.rehearse:"
CTL = "from cmappd.client.control import main; main()"


class Disk:
    """The program on the disk: a copy of ours, that can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "lib"
        shutil.copytree(Path(cmappd.__file__).parent, self.folder / "cmappd")

    def change(self, file: str, old: str, new: str) -> None:
        path = self.folder / "cmappd" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        # Python compares the time and the size of a source with those it has compiled.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()

    def set_version(self, version: str) -> None:
        self.change("__init__.py", cmappd.__version__, version)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def guest_of(disk: Disk, tmp_path: Path, apps: str = SLEEP) -> Guest:
    guest = Guest(tmp_path, apps)
    guest.environment["PYTHONPATH"] = str(disk.folder)
    return guest


def upgrade(guest: Guest, *words: str) -> "subprocess.CompletedProcess[str]":
    """``cmappctl upgrade``, to its end."""
    return subprocess.run(
        [sys.executable, "-c", CTL, "--socket", str(guest.control_path), "upgrade", *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def upgraded(guest: Guest) -> None:
    """Replace the server by itself."""
    done = upgrade(guest)
    assert done.returncode == 0, done.stderr + guest.log()


# What stays ---------------------------------------------------------------------------


def test_its_state_directory_stays_its_own(tmp_path: Path, disk: Disk) -> None:
    with guest_of(disk, tmp_path).started() as guest:
        for _ in range(2):
            upgraded(guest)
        first = guest.process
        (guest.state / "lock").unlink()
        assert guest.launch().wait(PATIENCE) == 1
        assert f"another process holds a lock on {guest.state}, " in guest.log()
        guest.process = first


def test_the_same_run_the_same_process_another_version(tmp_path: Path, disk: Disk) -> None:
    with guest_of(disk, tmp_path).started() as guest:
        before = guest.control().wait_app("db", lambda status: status.phase == "running")
        disk.set_version("9.1")
        done = upgrade(guest)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"cmappserver {cmappd.__version__} is replaced by 9.1\n"
        after = guest.control().app("db")
        assert (after.run, after.pid, after.since) == (before.run, before.pid, before.since)
        assert guest.app_pids() == [before.pid]
        assert guest.process is not None
        assert guest.process.poll() is None  # it has kept its pid
        assert guest.stop() == 0
        assert guest.app_pids() == []


def test_it_stays_a_child_and_what_is_launched_then_is_clean(tmp_path: Path, disk: Disk) -> None:
    apps = SLEEP + stanza("web", "/bin/sleep", "600")
    with guest_of(disk, tmp_path, apps).started() as guest:
        db = guest.control().wait_app("db", lambda status: status.phase == "running").pid or 0
        upgraded(guest)
        files = len(os.listdir(f"/proc/{guest.pid}/fd"))
        for _ in range(3):
            upgraded(guest)
        wait_for(lambda: len(os.listdir(f"/proc/{guest.pid}/fd")) <= files)
        stat = proc.read_stat(db)
        assert stat is not None
        assert stat.ppid == guest.pid
        admin = guest.control()
        assert isinstance(admin.ask(Start(admin.next(), "web")), Done)
        web = admin.app("web").pid
        assert "SigBlk:\t0000000000000000" in Path(f"/proc/{web}/status").read_text()
        assert sorted(os.listdir(f"/proc/{web}/fd")) == ["0", "1", "2"]
        assert "CMAPPD_HANDOVER" not in Path(f"/proc/{web}/environ").read_text()


def test_what_is_launched_then_has_the_limit_of_open_files_of_the_first_start(
    tmp_path: Path, disk: Disk
) -> None:
    guest = guest_of(disk, tmp_path, SLEEP + stanza("web", "/bin/sleep", "600"))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
        try:
            stack.enter_context(guest.started())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for _ in range(2):
            upgraded(guest)
        admin = guest.control()
        assert isinstance(admin.ask(Start(admin.next(), "web")), Done)
        found = {name: psutil.Process(admin.app(name).pid) for name in ("db", "web")}
        soft = {name: one.rlimit(psutil.RLIMIT_NOFILE)[0] for name, one in found.items()}
        assert soft == {"db": 1000, "web": 1000}
        assert psutil.Process(guest.pid).rlimit(psutil.RLIMIT_NOFILE) == (before[1], before[1])


@pytest.mark.parametrize("form", ["raw", "timestamps"])
def test_no_line_of_its_log_is_lost_or_doubled(tmp_path: Path, disk: Disk, form: str) -> None:
    script = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.002; done"
    with guest_of(
        disk, tmp_path, shell("db", script, autostart=True, log={"format": form})
    ).started() as guest:
        log = tmp_path / "db.log"
        for lines in (20, 100, 200):
            wait_for(lambda lines=lines: log.read_text().count("\n") > lines)  # type: ignore[misc]
            upgraded(guest)
        wait_for(lambda: log.read_text().count("\n") > 500)
        numbers = [int(line.split()[-1]) for line in log.read_text().splitlines()]
        assert numbers == list(range(1, len(numbers) + 1))


def test_a_result_is_owed_across_an_upgrade_a_crash_and_both_in_a_row(
    tmp_path: Path, disk: Disk
) -> None:
    with guest_of(disk, tmp_path).started() as guest:
        run = guest.control().wait_app("db", lambda status: status.phase == "running").run
        manager = guest.manager()
        assert isinstance(manager.claim("db"), State)
        manager.close()
        guest.control().wait_app("db", lambda status: status.owner_silent_for is not None)
        os.kill(guest.control().app("db").pid or 0, signal.SIGKILL)
        guest.control().wait_app("db", lambda status: status.phase == "failed")
        upgraded(guest)
        guest.kill()
        guest.start()
        upgraded(guest)
        ended = guest.manager().claim("db")
        assert isinstance(ended, Ended)
        assert (ended.outcome.run, ended.outcome.status) == (run, ExitStatus(signal=9))


# While the new program starts ---------------------------------------------------------


@contextlib.contextmanager
def starting(guest: Guest, disk: Disk) -> Iterator[None]:
    """Within the block the new program has been executed, and has not begun to do anything."""
    wait = "while 'CMAPPD_HANDOVER' in os.environ and not os.path.exists('go'): time.sleep(0.01)"
    disk.change("server/main.py", "    given = receive()", f"    {wait}\n    given = receive()")
    disk.change("server/main.py", "import sys\n", "import sys\nimport time\n")
    epoch = guest.control().greeted.epoch
    admin = guest.control()
    reply = admin.ask(Upgrade(admin.next()), 30.0)
    assert isinstance(reply, Done), reply
    admin.wait_cut()  # by the exec, which closes what is not passed on
    yield
    (guest.folder / "go").touch()
    wait_for(lambda: guest.control().greeted.epoch != epoch)


def test_nothing_is_looked_after_while_it_is_given_away(tmp_path: Path, disk: Disk) -> None:
    """Whoever would be started, noted or let in then would be unknown to the new program."""
    look = "            connections.sweep()\n"
    slow = "    await watcher.close()\n"
    disk.change("server/main.py", "SWEEP_INTERVAL = 2.0", "SWEEP_INTERVAL = 0.01")
    disk.change("server/main.py", look, f"            office.world.log.info('a look')\n{look}")
    pause = "    await __import__('asyncio').sleep(1)\n"  # a hundred looks
    disk.change("server/succession.py", slow, slow + pause)
    with guest_of(disk, tmp_path).started() as guest:
        guest.wait_log("info a look")
        upgraded(guest)
        given_away = guest.log().partition("is replaced by")[2].partition(" is ready, ")[0]
        assert given_away.count("a look") <= 1


def test_what_ends_meanwhile_is_told_with_its_status(tmp_path: Path, disk: Disk) -> None:
    with guest_of(disk, tmp_path, SLEEP).started() as guest:
        before = guest.control().wait_app("db", lambda status: status.phase == "running")
        with starting(guest, disk):
            os.kill(before.pid or 0, signal.SIGKILL)
            wait_for(lambda: not alive(before.pid or 0))
        last = guest.control().wait_app("db", lambda status: status.phase == "failed").last
        assert last is not None
        assert (last.run, last.cause, last.status) == (before.run, Cause.EXIT, ExitStatus(signal=9))


def test_a_stop_after_that_ends_meanwhile_is_not_run_again(tmp_path: Path, disk: Disk) -> None:
    runs, end = tmp_path / "runs", tmp_path / "end"
    script = f"echo $$ >>{runs}; until [ -e {end} ]; do sleep 0.01; done; exit 3"
    stop = {"after": ["/bin/sh", "-c", script], "timeout": "60s"}
    apps = shell("db", "exec sleep 600", autostart=True, stop=stop)
    with guest_of(disk, tmp_path, apps).started() as guest:
        guest.control().wait_app("db", lambda status: status.phase == "running")
        admin = guest.control()
        admin.send(Stop(admin.next(), "db"))
        pid = int(wait_for(lambda: runs.exists() and runs.read_text()))
        with starting(guest, disk):
            end.touch()
            wait_for(lambda: not alive(pid))
        guest.control().wait_app("db", lambda status: status.phase == "stopped")
        assert runs.read_text() == f"{pid}\n"
        assert "stop.after ended with exit code 3" in guest.log()


def test_the_last_lines_of_what_ends_meanwhile_are_in_its_log(tmp_path: Path, disk: Disk) -> None:
    """The kernel forgets what is in a FIFO that nobody has open."""
    script = "trap 'echo last; exit' USR1; echo first; while :; do sleep 0.01; done"
    apps = shell("db", script, autostart=True)
    with guest_of(disk, tmp_path, apps).started() as guest:
        pid = guest.control().wait_app("db", lambda status: status.phase == "running").pid
        assert pid is not None
        log = guest.folder / "db.log"
        wait_for(lambda: log.exists() and log.read_text() == "first\n")
        with starting(guest, disk):
            os.kill(pid, signal.SIGUSR1)
            wait_for(lambda: not alive(pid))
        guest.control().wait_app("db", lambda status: status.phase == "stopped")
        assert log.read_text() == "first\nlast\n"


def test_no_signal_is_lost_and_none_kills(tmp_path: Path, disk: Disk) -> None:
    with guest_of(disk, tmp_path).started() as guest:
        pid = guest.control().wait_app("db", lambda status: status.phase == "running").pid or 0
        with contextlib.suppress(ConnectionError, FileNotFoundError, Cut), starting(guest, disk):
            guest.signal(signal.SIGHUP)
            guest.signal(signal.SIGTERM)
            time.sleep(0.2)
            assert alive(guest.pid)
        assert guest.wait() == 0
        assert not alive(pid)
        assert "because cmappserver was told to end" in guest.log()


def test_who_connects_waits_and_is_not_refused(tmp_path: Path, disk: Disk) -> None:
    with guest_of(disk, tmp_path).started() as guest:
        before = guest.control().wait_app("db", lambda status: status.phase == "running")
        manager = guest.manager()
        assert isinstance(manager.claim("db"), State)
        with starting(guest, disk):
            manager.wait_cut()  # in order: its link has ended, and nothing was said
            assert not [one for one in manager.unasked if isinstance(one, Refused | Ended)]
            connecting = [guest.raw() for _ in range(20)]
            admin = socket.socket(socket.AF_UNIX)
            admin.connect(str(guest.control_path))
        assert isinstance(guest.manager().claim("db", run=before.run), State)
        assert guest.control().app("db").owner == "vmhost1"
        for sock in (*connecting, admin):
            sock.close()


def test_requests_that_wait_are_told_to_ask_again(tmp_path: Path, disk: Disk) -> None:
    apps = stanza("db", "/bin/sleep", "600", start={"ready": "1h", "timeout": "1h"})
    with guest_of(disk, tmp_path, apps).started() as guest:
        admin = guest.control()
        start = Start(admin.next(), "db")
        admin.send(start)
        pid = guest.control().wait_app("db", lambda status: status.phase == "starting").pid
        upgraded(guest)
        reply = admin.answer(start.seq)
        assert isinstance(reply, Refused)
        assert reply.text == "cmappserver is being replaced by another version; ask again"
        assert guest.control().app("db").pid == pid


def test_sockets_follow_the_configuration(tmp_path: Path, disk: Disk) -> None:
    with guest_of(disk, tmp_path).started() as guest, guest.raw():
        old, guest.port = guest.port, free_port()
        with starting(guest, disk):
            guest.write(SLEEP)
        guest.manager()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", old))


def test_the_service_manager_is_told(tmp_path: Path, disk: Disk) -> None:
    guest = guest_of(disk, tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(PATIENCE)
        guest.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        with guest.started():
            assert notify.recv(100) == b"READY=1"
            upgraded(guest)
            reloading, when = notify.recv(100).split(b"\n")
            assert reloading == b"RELOADING=1"
            assert 0 < int(when.removeprefix(b"MONOTONIC_USEC=")) < time.monotonic() * 1e6
            assert notify.recv(100) == b"READY=1"


# Where it cannot be -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("server/application/custody.py", "class Custody", "clas Custody", "SyntaxError"),
        ("server/main.py", "REHEARSE, action", "'--other', action", "unrecognized arguments"),
        ("server/rehearsal.py", "answer.decode()", "'yes'", "it says 'yes"),
        ("server/shared/store.py", "VERSION = 1", "VERSION = 0", "a newer cmappserver wrote it"),
        ("core/config/schema.py", "autostart: bool", "at_boot: bool", "autostart: unknown key"),
        ("server/main.py", "        if options.rehearse:", LONG, "gave no answer within"),
    ],
    ids=["broken", "too old", "another", "older records", "other keys", "hangs"],
)
def test_a_program_of_no_use_changes_nothing(
    tmp_path: Path, disk: Disk, file: str, old: str, new: str, said: str
) -> None:
    disk.change("server/upgrade.py", "REHEARSAL_LIMIT = 30.0", "REHEARSAL_LIMIT = 5.0")
    with guest_of(disk, tmp_path).started() as guest:
        before = guest.control().wait_app("db", lambda status: status.phase == "running")
        manager, epoch = guest.manager(), guest.control().greeted.epoch
        disk.change(file, old, new)
        done = upgrade(guest)
        assert (done.returncode, done.stdout) == (1, "")
        assert "cannot upgrade, nothing has changed: " in done.stderr
        assert said in done.stderr
        assert isinstance(manager.claim("db"), State)
        assert guest.control().greeted.epoch == epoch
        assert guest.control().app("db").pid == before.pid


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\non_shutdwn = 1\n", "cmappserver.toml:2: server.on_shutdwn: unknown key"),
        ('[server]\nstate_directory = "other"\n', "now names another state directory"),
    ],
    ids=["bad", "another state"],
)
def test_a_configuration_of_no_use_changes_nothing(
    tmp_path: Path, disk: Disk, text: str, said: str
) -> None:
    with guest_of(disk, tmp_path).started() as guest:
        before = guest.control().wait_app("db", lambda status: status.phase == "running")
        replace_file(guest.config, text)
        done = upgrade(guest)
        assert done.returncode == 1
        assert not (tmp_path / "other").exists()
        assert said in done.stderr
        assert guest.control().app("db").pid == before.pid


def test_one_that_cannot_be_started_ends_as_in_a_crash(tmp_path: Path, disk: Disk) -> None:
    """The applications live on, and the next start takes them up."""
    guest = guest_of(disk, tmp_path)
    with guest.started():
        before = guest.control().wait_app("db", lambda status: status.phase == "running")
        broken = '    raise CmappdError("of no use")'
        disk.change(
            "server/main.py", "    logger = log.set_up", f"{broken}\n    logger = log.set_up"
        )
        done = upgrade(guest, "--timeout", "2s")
        assert done.returncode == 4
        assert "cmappserver was not replaced in time" in done.stderr
        assert guest.wait() == 1
        assert "cmappserver: of no use" in guest.log()
        disk.change("server/main.py", broken, "")
        guest.start()
        after = guest.control().app("db")
        assert (after.run, after.pid) == (before.run, before.pid)


def test_an_exec_that_fails_ends_as_a_crash(tmp_path: Path, disk: Disk) -> None:
    interpreter = tmp_path / "python"
    interpreter.symlink_to(sys.executable)
    guest = guest_of(disk, tmp_path)
    guest.environment["PYTHONPATH"] += f":{sysconfig.get_path('purelib')}"
    guest.interpreter = str(interpreter)
    with guest.started():
        before = guest.control().wait_app("db", lambda status: status.phase == "running")
        disk.change(
            "server/rehearsal.py",
            "    answer =",
            "    __import__('os').unlink(sys.executable)\n    answer =",
        )
        assert upgrade(guest, "--timeout", "6s").returncode == 4
        assert guest.wait() == 1
        assert "cannot execute the new cmappserver: " in guest.log()
        interpreter.symlink_to(sys.executable)
        guest.start()
        assert guest.control().app("db").pid == before.pid
