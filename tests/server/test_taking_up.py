"""What an earlier cmappserver has left half done, doubled or damaged, and how the next goes on.

Each of these is a moment at which cmappserver was killed.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmappd.core.messages import AppStatus, Done, Poll, Restart, Start, State, Stop
from cmappd.core.state import Cause
from cmappd.system import marks
from tests.server.harness import Guest, alive, refusal, shell, stanza, wait_for
from tests.server.test_survival import SLEEP, TELLS, claimed, crash, exists, record, running

DAEMON = ["/bin/sh", "-c", "setsid sleep 600 & exit 0"]


def waiting_for(path: Path, then: str = "exit 0") -> str:
    """A script that waits for a file."""
    return f"while ! test -e {path}; do sleep 0.02; done; {then}"


# Commands around an application -------------------------------------------------------


def test_a_stop_command_under_way_is_waited_for(tmp_path: Path) -> None:
    go = tmp_path / "go"
    told = tmp_path / "told"
    wait = waiting_for(go, "kill -USR1 $CMAPPD_MAIN_PID; sleep 0.5")
    command = f"touch {told}; {wait}"
    traps = "trap 'echo told; exit 0' USR1; trap 'echo signalled' TERM; echo trapped"
    loop = f"{traps}; while :; do sleep 0.02; done"
    log = tmp_path / "db.log"
    stop = {"command": ["/bin/sh", "-c", command], "timeout": "20s"}
    with Guest(tmp_path, shell("db", loop, autostart=True, stop=stop)).started() as guest:
        before = running(guest)
        wait_for(lambda: log.exists() and log.read_text() == "trapped\n")
        admin = guest.control()
        admin.send(Stop(admin.next(), "db"))
        wait_for(told.exists)
        # Which process it is must be on record: it may run before that is written.
        wait_for(lambda: json.loads(record(guest).read_text()).get("asking"))
        crash(guest)
        time.sleep(0.3)  # in which nothing may happen
        assert guest.control().app("db").phase == "stopping"
        assert alive(before.pid or 0)
        go.touch()
        status = guest.control().wait_app("db", lambda status: status.phase == "stopped")
        assert status.last is not None
        assert status.last.cause is Cause.OPERATOR
        wait_for(lambda: log.read_text() == "trapped\ntold\n")


@pytest.mark.parametrize("noted", [False, True])
def test_the_stop_signal_is_sent_where_nobody_noted_that_it_was(
    noted: bool, tmp_path: Path
) -> None:
    """Its time to end was over while no cmappserver was there."""
    traps = "trap 'echo told; exit 3' TERM; echo trapped"
    script = f"{traps}; while :; do sleep 0.02; done"
    log = tmp_path / "db.log"
    with Guest(tmp_path, shell("db", script, autostart=True)).started() as guest:
        running(guest)
        wait_for(lambda: log.exists() and log.read_text() == "trapped\n")
        guest.kill()
        kept = json.loads(record(guest).read_text())
        kept["run"] |= {"ending": "operator", "asked": noted}
        kept |= {"goal": "down", "phase": "stopping", "deadline": time.monotonic()}
        record(guest).write_text(json.dumps(kept))
        guest.start()
        guest.control().wait_app("db", lambda status: status.phase == "stopped")
        wait_for(lambda: log.read_text() == ("trapped\n" if noted else "trapped\ntold\n"))


def test_a_stop_command_that_has_ended_meanwhile_is_followed_by_the_signal(tmp_path: Path) -> None:
    go = tmp_path / "go"
    stop = {"command": ["/bin/sh", "-c", waiting_for(go)], "timeout": "20s"}
    with Guest(tmp_path, shell("db", "exec sleep 600", autostart=True, stop=stop)).started() as (
        guest
    ):
        (main,) = wait_for(guest.app_pids)
        admin = guest.control()
        admin.send(Stop(admin.next(), "db"))
        asking = wait_for(lambda: {*guest.app_pids()} - {main})
        guest.kill()
        go.touch()
        wait_for(lambda: not any(map(exists, asking | {*guest.app_pids()} - {main})))
        guest.start()
        guest.control().wait_app("db", lambda status: status.phase == "stopped", 5.0)
        assert not alive(main)


def test_a_launcher_whose_end_nobody_saw_has_done_its_work_where_something_runs(
    tmp_path: Path,
) -> None:
    go = tmp_path / "go"
    launcher = waiting_for(go, "setsid sleep 600 & exit 0")
    with Guest(tmp_path, shell("db", launcher, autostart=True, type="forking")).started() as guest:
        pid = wait_for(guest.app_pids)[0]
        guest.kill()
        go.touch()
        wait_for(lambda: not alive(pid))
        guest.start()
        after = running(guest)
        assert [after.pid] == guest.app_pids()


def test_a_start_command_whose_end_nobody_saw_is_run_once_more(tmp_path: Path) -> None:
    go = tmp_path / "go"
    start = {"command": ["/bin/sh", "-c", "echo prepared; " + waiting_for(go)]}
    with Guest(tmp_path, shell("db", "exec sleep 600", autostart=True, start=start)).started() as (
        guest
    ):
        guest.control().wait_app("db", lambda status: status.phase == "starting")
        pids = wait_for(guest.app_pids)
        wait_for(lambda: "prepared" in (tmp_path / "db.log").read_text())
        guest.kill()
        go.touch()
        wait_for(lambda: not any(map(exists, {*pids, *guest.app_pids()})))
        guest.start()
        assert [running(guest).pid] == guest.app_pids()
        wait_for(lambda: (tmp_path / "db.log").read_text() == "prepared\nprepared\n")


@pytest.mark.skipif(not TELLS, reason="needs Linux 6.15 to tell how a launcher ended")
def test_a_start_command_that_goes_on_is_waited_for(tmp_path: Path) -> None:
    go = tmp_path / "go"
    start = {"command": ["/bin/sh", "-c", waiting_for(go, "exit 3")]}
    with Guest(tmp_path, shell("db", "sleep 600", autostart=True, start=start)).started() as guest:
        wait_for(guest.app_pids)
        crash(guest)
        go.touch()
        status = guest.control().wait_app("db", lambda status: status.phase == "failed")
        assert status.last is not None
        assert status.last.detail == "start.command ended with exit code 3"


def test_a_stop_after_that_was_not_launched_any_more_is_launched_then(tmp_path: Path) -> None:
    """As when the server is killed between the record and the launch, and comes back late."""
    stop = {"after": ["/bin/sh", "-c", "echo cleaned"]}
    text = shell("db", "exec sleep 600", autostart=True, stop=stop)
    with Guest(tmp_path, text).started() as guest:
        before = running(guest)
        guest.kill()
        os.kill(before.pid or 0, signal.SIGKILL)
        wait_for(lambda: not exists(before.pid or 0))
        content = json.loads(record(guest).read_text())
        content |= {"goal": "down", "phase": "stopping", "deadline": time.monotonic()}
        content["run"] |= {"part": "stop.after", "ending": "operator"}
        record(guest).write_text(json.dumps(content))
        guest.start()
        guest.control().wait_app("db", lambda status: status.phase == "stopped")
        assert (tmp_path / "db.log").read_text() == "cleaned\n"
        assert "stop.after ended with" not in guest.log()


def test_a_stop_after_whose_end_nobody_saw_is_run_once_more(tmp_path: Path) -> None:
    go = tmp_path / "go"
    stop = {"after": ["/bin/sh", "-c", "echo cleaned; " + waiting_for(go)], "timeout": "20s"}
    text = shell("db", "exec sleep 600", autostart=True, stop=stop)
    with Guest(tmp_path, text).started() as guest:
        running(guest)
        admin = guest.control()
        admin.send(Stop(admin.next(), "db"))
        wait_for(lambda: "cleaned" in (tmp_path / "db.log").read_text())
        guest.kill()
        go.touch()
        wait_for(lambda: not guest.app_pids())
        guest.start()
        guest.control().wait_app("db", lambda status: status.phase == "stopped")
        assert (tmp_path / "db.log").read_text() == "cleaned\n" * 2
        assert "stop.after is run once more" in guest.log()


def test_a_check_that_cannot_be_made_any_more_ends_nothing(tmp_path: Path) -> None:
    """What it was launched with is not known any more, and its environment_file is damaged."""
    file = tmp_path / "environment"
    file.write_text("A=1\n")
    health = {"command": ["/bin/true"], "interval": "50ms", "failures": 1}
    keys = {"autostart": True, "environment_file": str(file), "health": health}
    with Guest(tmp_path, stanza("db", "/bin/sleep", "600", **keys)).started() as guest:
        before = running(guest)
        guest.kill()
        file.write_text("no variable\n")
        guest.start()
        status = guest.control().wait_app("db", lambda status: "checked" in status.problem)
        assert (status.phase, status.pid) == ("running", before.pid)
        file.write_text("A=1\n")
        guest.control().wait_app("db", lambda status: not status.problem)


def test_no_dead_process_is_shown_while_stop_after_runs(tmp_path: Path) -> None:
    go = tmp_path / "go"
    stop = {"after": ["/bin/sh", "-c", waiting_for(go)], "timeout": "20s"}
    with Guest(tmp_path, shell("db", "exec sleep 600", autostart=True, stop=stop)).started() as (
        guest
    ):
        running(guest)
        admin = guest.control()
        admin.send(Stop(admin.next(), "db"))
        wait_for(lambda: any("after" in mark for mark in marks.marked()))
        status = guest.control().app("db")
        assert (status.phase, status.pid) == ("stopping", None)
        go.touch()
        guest.control().wait_app("db", lambda status: status.phase == "stopped")


# Runs without a record ----------------------------------------------------------------


def found_again(guest: Guest) -> AppStatus:
    """The application when the server was killed, and its record is gone."""
    guest.kill()
    record(guest).unlink()
    guest.start()
    return running(guest)


def test_a_daemon_without_a_record_is_a_daemon(tmp_path: Path) -> None:
    apps = stanza("db", *DAEMON, autostart=True, type="forking")
    with Guest(tmp_path, apps).started() as guest:
        before = running(guest)
        after = found_again(guest)
        assert (after.run, after.pid) == (before.run, before.pid)
        os.kill(after.pid or 0, signal.SIGKILL)
        guest.control().wait_app("db", lambda status: status.phase == "failed")


def test_what_a_oneshot_has_left_is_no_main_process(tmp_path: Path) -> None:
    apps = stanza("db", *DAEMON, autostart=True, type="oneshot").replace('ready = "0s"', "")
    with Guest(tmp_path, apps).started() as guest:
        before = running(guest)
        (left,) = guest.app_pids()
        after = found_again(guest)
        assert (after.run, after.pid) == (before.run, None)
        assert guest.app_pids() == [left]
        admin = guest.control()
        assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
        assert not alive(left)


def test_two_runs_are_said_and_no_third_is_started(tmp_path: Path) -> None:
    """It cannot be; but should it be, nobody is to be left guessing."""
    # What writes to the FIFO of the application is stopped with any run of it.
    apps = shell("db", "exec sleep 600 >/dev/null 2>&1", autostart=True)
    with Guest(tmp_path, apps).started() as guest:
        before = running(guest)
        (epoch,) = (guest.state / "epochs").read_text().split()
        guest.kill()
        environment = {"CMAPPD_APP": "db", "CMAPPD_RUN": f"db.{epoch}.7"}
        subprocess.run(["/bin/sh", "-c", "sleep 600 &"], env=environment, check=True)
        (other,) = wait_for(lambda: {*guest.app_pids()} - {before.pid})
        guest.start()
        admin = guest.control()
        status = running(guest)
        # Not the newer one: anybody can mark a process, and make it look like a run.
        assert (status.run, status.pid) == (before.run, before.pid)
        assert f"(pid {other})" in status.problem
        assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
        assert f"end them: kill {other}" in admin.app("db").problem
        assert refusal(admin.ask(Start(admin.next(), "db"))) == "not-started"
        assert guest.app_pids() == [other]
        os.kill(other, signal.SIGTERM)
        wait_for(lambda: not guest.app_pids())
        assert admin.app("db").problem == ""
        assert isinstance(admin.ask(Start(admin.next(), "db")), Done)


def test_a_record_that_cannot_be_read_stops_no_other(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP + stanza("web", "/bin/sleep", "600")).started() as guest:
        before = running(guest)
        guest.kill()
        record(guest).unlink()
        record(guest).mkdir()
        guest.start()
        after = running(guest)
        assert (after.run, after.pid) == (before.run, before.pid)
        assert "it cannot be read: Is a directory" in after.problem
        assert guest.control().app("web").problem == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 99}, "a newer cmappserver wrote it"),
        ({"version": "x"}, "damaged"),
        ({"definition": {"comand": []}}, "comand: unknown key: did you mean 'command'?"),
    ],
)
def test_a_refused_record_is_shown_where_people_look(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        guest.kill()
        content = json.loads(record(guest).read_text()) | change
        record(guest).write_text(json.dumps(content))
        guest.start()
        after = running(guest)
        assert after.pid == before.pid
        assert said in after.problem
        assert "db.json.refused" in after.problem


def test_a_refused_record_of_what_was_stopped_is_kept_and_shown_although_it_is_started(
    tmp_path: Path,
) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        claimed(guest)
        admin = guest.control()
        assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
        guest.kill()
        content = json.loads(record(guest).read_text())
        content["definition"]["another"] = "key"
        record(guest).write_text(json.dumps(content))
        guest.start()
        assert "another: unknown key" in running(guest).problem
        kept = json.loads(record(guest).with_name("db.json.refused").read_text())
        assert kept["undelivered"]["outcome"]["run"] == before.run
        admin = guest.control()
        assert isinstance(admin.ask(Restart(admin.next(), "db")), Done)
        assert running(guest).problem == ""


# What is left of what was removed -----------------------------------------------------


def test_the_fifo_of_what_was_removed_meanwhile_goes(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        guest.kill()
        guest.write("")
        os.kill(before.pid or 0, signal.SIGKILL)
        wait_for(lambda: not alive(before.pid or 0))
        guest.start()
        wait_for(lambda: not guest.control().statuses())
        wait_for(lambda: not list(guest.state.glob("*.fifo")))
        # And of one of which there is no record.
        guest.write(SLEEP)
        wait_for(lambda: "db" in guest.control().statuses())
        running(guest)
        guest.kill()
        for pid in guest.app_pids():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not guest.app_pids())
        record(guest).unlink()
        guest.write("")
        guest.start()
        assert not list(guest.state.glob("*.fifo"))


# Managers -----------------------------------------------------------------------------


def test_a_lease_that_is_over_when_the_server_comes_back_ends_it(tmp_path: Path) -> None:
    apps = stanza("db", "/bin/sleep", "600", manager={"on_lost": "stop", "lease": "5s"})
    with Guest(tmp_path, apps).started() as guest:
        manager = claimed(guest)
        pid = manager.hear_state(lambda status: status.phase == "running").status.pid
        assert isinstance(manager.ask(Poll(manager.next())), State)
        heard = time.monotonic()
        manager.close()  # both are killed
        guest.kill()
        wait_for(lambda: time.monotonic() > heard + 5.2)
        assert alive(pid or 0)
        guest.start()
        wait_for(lambda: not alive(pid or 0), 1.0)
        last = guest.control().wait_app("db", lambda status: status.phase == "stopped").last
        assert last is not None
        assert last.cause is Cause.LEASE


@pytest.mark.parametrize("comes_back", [False, True])
def test_what_is_found_without_a_record_has_a_lease_from_then_on(
    tmp_path: Path, comes_back: bool
) -> None:
    apps = stanza("db", "/bin/sleep", "600", manager={"on_lost": "stop", "lease": "5s"})
    with Guest(tmp_path, apps).started() as guest:
        manager = claimed(guest)
        pid = manager.hear_state(lambda status: status.phase == "running").status.pid
        manager.close()
        guest.kill()
        record(guest).unlink()
        guest.start()
        found = guest.control().app("db")
        assert (found.pid, found.owner) == (pid, None)
        assert found.owner_silent_for is not None
        if comes_back:
            claimed(guest)
            assert guest.control().app("db").owner == "vmhost1"
            assert alive(pid or 0)
            return
        last = guest.control().wait_app("db", lambda status: status.phase == "stopped").last
        assert last is not None
        assert last.cause is Cause.LEASE


def test_with_keep_people_see_since_when_nobody_owns_it(tmp_path: Path) -> None:
    apps = stanza("db", "/bin/sleep", "600", manager={"lease": "5s"})
    with Guest(tmp_path, apps).started() as guest:
        claimed(guest).close()
        silent = guest.control().wait_app("db", lambda status: status.owner_silent_for is not None)
        assert not silent.lease_over
        guest.control().wait_app("db", lambda status: status.lease_over)
        command = "from cmappd.client.control import main; main()"
        words = [sys.executable, "-c", command, "--socket", str(guest.control_path), "status"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
        assert "nobody (for 5s, vmhost1)" in done.stdout
