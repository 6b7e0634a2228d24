"""The server is killed, ends without its applications, or finds records that it cannot use.

What must hold: an application goes on as the same run with the same processes, is never launched a
second time, and what is known of it, and owed to its manager, is known and owed afterwards.
"""

import contextlib
import json
import os
import platform
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cmappd.core.messages import (
    Ack,
    AppStatus,
    Claim,
    Done,
    Ended,
    Maintain,
    Poll,
    Refused,
    Restart,
    Start,
    State,
    Stop,
)
from cmappd.core.state import Cause, ExitStatus
from cmappd.system import marks, proc
from tests.server.harness import (
    Client,
    Cut,
    Guest,
    alive,
    refusal,
    replace_file,
    shell,
    stanza,
    wait_for,
)

SLEEP = stanza("db", "/bin/sleep", "600", autostart=True)
KERNEL = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))
# Of a process that is not our child, older kernels do not tell how it ended.
TELLS = KERNEL >= (6, 15)


def running(guest: Guest) -> AppStatus:
    """The status of the application, once it runs."""
    return guest.control().wait_app("db", lambda status: status.phase == "running")


def crash(guest: Guest) -> Guest:
    """kill -9 of the server, and its next start."""
    guest.kill()
    return guest.start()


def record(guest: Guest) -> Path:
    return guest.state / "apps" / "db.json"


def claimed(guest: Guest, run: str | None = None) -> Client:
    manager = guest.manager()
    assert isinstance(manager.claim("db", run=run), State)
    return manager


# The same run ------------------------------------------------------------------------


def test_after_kill_9_it_is_the_same_run(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        for _ in range(3):
            crash(guest)
            after = running(guest)
            assert (after.run, after.pid, after.since) == (before.run, before.pid, before.since)
            assert after.started == before.started
            assert guest.app_pids() == [before.pid]
        assert guest.stop() == 0
        assert guest.app_pids() == []


def test_a_start_of_what_was_taken_up_attaches_to_it(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        admin = crash(guest).control()
        reply = admin.ask(Start(admin.next(), "db"))
        assert isinstance(reply, Done)
        assert guest.app_pids() == [before.pid]


def test_how_it_ends_after_that_is_known_where_the_kernel_tells(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        crash(guest)
        manager = claimed(guest, before.run)
        assert before.pid is not None
        os.kill(before.pid, signal.SIGKILL)
        outcome = manager.hear(Ended).outcome
        assert outcome.run == before.run
        assert outcome.status == (ExitStatus(signal=9) if TELLS else ExitStatus())
        assert outcome.cause is (Cause.EXIT if TELLS else Cause.UNKNOWN)


def test_an_end_that_nobody_saw_is_told_as_far_as_it_is_known(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        assert before.pid is not None
        guest.kill()
        os.kill(before.pid, signal.SIGKILL)
        wait_for(lambda: not exists(before.pid))
        manager = guest.start().manager()
        ended = manager.claim("db", run=before.run)
        assert isinstance(ended, Ended)
        assert (ended.outcome.run, ended.outcome.cause) == (before.run, Cause.UNKNOWN)
        assert guest.app_pids() == []


def exists(pid: int | None) -> bool:
    """Whether there is such a process, be it one that init has not waited for yet."""
    return pid is not None and proc.read_stat(pid) is not None


def test_what_is_left_of_it_is_ended_before_anything_is_launched(tmp_path: Path) -> None:
    """The main process ends while no server is there; its child lives on."""
    go = tmp_path / "go"
    script = f"while ! test -e {go}; do sleep 0.02; done; sleep 600 & exit 0"
    restart = {"policy": "always", "delay": "0s"}
    apps = shell("db", script, autostart=True, restart=restart)
    with Guest(tmp_path, apps).started() as guest:
        before = running(guest)
        guest.kill()
        go.touch()
        wait_for(lambda: not alive(before.pid or 0))
        (child,) = wait_for(guest.app_pids)
        go.unlink()
        guest.start()
        after = guest.control().wait_app(
            "db", lambda status: status.phase == "running" and status.run != before.run
        )
        assert not alive(child)
        assert after.restarts == 1
        assert after.pid in guest.app_pids()


def test_a_stop_goes_on(tmp_path: Path) -> None:
    """Killed while it waits for an application that takes its time, and then for the rest of it."""
    apps = shell(
        "db", 'trap "" TERM; sleep 600 & wait; wait; sleep 600', autostart=True,
        stop={"timeout": "2s"},
    )  # fmt: skip
    with Guest(tmp_path, apps).started() as guest:
        running(guest)
        admin = guest.control()
        admin.send(Stop(admin.next(), "db"))
        admin.wait_app("db", lambda status: status.phase == "stopping")
        crash(guest)
        status = guest.control().wait_app("db", lambda status: status.phase == "stopped")
        assert status.last is not None
        assert status.last.cause is Cause.OPERATOR
        assert guest.app_pids() == []


def test_the_log_goes_on(tmp_path: Path) -> None:
    script = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.005; done"
    with Guest(tmp_path, shell("db", script, autostart=True)).started() as guest:
        running(guest)
        log = tmp_path / "db.log"
        for lines in (20, 100, 200):
            wait_for(lambda lines=lines: log.read_text().count("\n") > lines)  # type: ignore[misc]
            crash(guest)
        wait_for(lambda: log.read_text().count("\n") > 300)
        numbers = [int(line) for line in log.read_text().splitlines()]
        assert numbers == list(range(1, len(numbers) + 1))


def test_of_an_application_that_dies_meanwhile_no_more_than_its_fifo_is_lost(
    tmp_path: Path,
) -> None:
    count, log = tmp_path / "count", tmp_path / "db.log"
    script = f"n=0; while :; do n=$((n + 1)); echo $n; echo $n >> {count}; done"
    with Guest(tmp_path, shell("db", script, autostart=True)).started() as guest:
        pid = running(guest).pid
        assert pid is not None
        wait_for(lambda: log.exists() and log.read_text().count("\n") > 20)
        guest.kill()
        written = log.read_text()
        wait_for(lambda: count.read_text().count("\n") > written.count("\n") + 20)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid))
        guest.start()
        guest.control().wait_app("db", lambda status: status.phase == "failed")
        assert log.read_text() == written, "what the FIFO held is lost"
        numbers = [int(line) for line in written.splitlines()]
        assert numbers == list(range(1, len(numbers) + 1)), "and nothing else"


# What is known and owed --------------------------------------------------------------


def test_an_owner_stays_the_owner_and_a_result_is_owed(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        claimed(guest)
        crash(guest)
        status = guest.control().app("db")
        assert status.owner == "vmhost1"
        assert status.owner_silent_for is not None
        assert before.pid is not None
        os.kill(before.pid, signal.SIGKILL)
        guest.control().wait_app("db", lambda status: status.phase == "failed")
        crash(guest)
        manager = guest.manager()
        ended = manager.ask(Claim(manager.next(), "db"))
        assert isinstance(ended, Ended)
        assert ended.outcome.run == before.run
        assert isinstance(manager.ask(Ack(manager.next(), before.run or "")), Done)
        crash(guest)
        assert isinstance(guest.manager().claim("db"), State)
        assert running(guest).run != before.run


def test_what_is_owed_after_a_restart_is_told_to_a_manager_that_names_the_run_before_it(
    tmp_path: Path,
) -> None:
    restart = {"policy": "always", "delay": "0s", "limit": 1}
    text = shell("db", "echo evidence; exec sleep 600", autostart=True, restart=restart)
    with Guest(tmp_path, text).started() as guest:
        log = tmp_path / "db.log"
        followed = last = running(guest)
        manager = claimed(guest)
        manager.close()
        guest.control().wait_app("db", lambda status: status.owner_silent_for is not None)
        for count in (1, 2):
            wait_for(lambda count=count: log.read_text() == "evidence\n" * count)  # type: ignore[misc]
            last = running(guest)
            os.kill(last.pid or 0, signal.SIGKILL)
        guest.control().wait_app("db", lambda status: status.phase == "failed")
        for run in (followed.run, None):  # the first one dies before it has acknowledged it
            manager = guest.manager(instance=manager.instance if run else None)
            ended = manager.claim("db", run=run)
            assert isinstance(ended, Ended)
            assert (ended.outcome.run, ended.log_tail) == (last.run, "evidence\n" * 2)
            crash(guest)
        manager = guest.manager()
        assert isinstance(manager.claim("db"), Ended)
        assert isinstance(manager.ask(Ack(manager.next(), last.run or "")), Done)
        assert isinstance(guest.manager().claim("db"), State)


def test_the_budget_is_what_it_was(tmp_path: Path) -> None:
    restart = {"policy": "always", "delay": "0s", "limit": 3}
    with Guest(tmp_path, shell("db", "sleep 600", autostart=True, restart=restart)).started() as (
        guest
    ):
        for spent in (1, 2):
            before = running(guest)
            assert before.pid is not None
            os.kill(before.pid, signal.SIGKILL)
            wait_for(lambda gone=before.pid: running(guest).pid not in (None, gone))  # type: ignore[misc]
            crash(guest)
            assert running(guest).restarts == spent


def test_what_was_stopped_stays_stopped(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        running(guest)
        admin = guest.control()
        assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
        crash(guest)
        assert guest.control().app("db").phase == "stopped"
        assert guest.stop() == 0
        guest.start()
        assert guest.control().app("db").phase == "stopped"


def test_what_was_stopped_with_the_server_is_started_with_it(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        assert guest.stop() == 0
        guest.start()
        assert running(guest).run != before.run


def test_what_waited_for_the_end_of_maintenance_is_started_also_if_nobody_saw_that(
    tmp_path: Path,
) -> None:
    with Guest(tmp_path, stanza("db", "/bin/sleep", "600")).started() as guest:
        admin = guest.control()
        over = time.monotonic() + 8.0
        assert isinstance(admin.ask(Maintain(admin.next(), "db", 8.0)), Done)
        guest.kill()
        guest.write(SLEEP)
        guest.start()  # as after a reboot: it is held back
        assert guest.control().app("db").phase == "stopped"
        guest.kill()
        time.sleep(max(0.0, over - time.monotonic()))
        guest.start()
        running(guest)


def test_a_result_that_was_held_back_is_owed_with_its_evidence_after_a_crash(
    tmp_path: Path,
) -> None:
    script = "echo the evidence; exec sleep 600"
    with Guest(tmp_path, shell("db", script, autostart=True)).started() as guest:
        before = running(guest)
        manager, admin = claimed(guest), guest.control()
        assert isinstance(admin.ask(Maintain(admin.next(), "db", 60.0)), Done)
        os.kill(before.pid or 0, signal.SIGKILL)
        admin.wait_app("db", lambda status: status.phase == "failed")
        assert isinstance(admin.ask(Maintain(admin.next(), "db")), Done)
        manager.hear(Ended)
        crash(guest)
        answer = guest.manager().claim("db", run=before.run)
        assert isinstance(answer, Ended)
        assert answer.log_tail == "the evidence\n"


def test_the_lease_counts_from_the_last_word_before_the_crash(tmp_path: Path) -> None:
    apps = stanza("db", "/bin/sleep", "600", manager={"on_lost": "stop", "lease": "5s"})
    with Guest(tmp_path, apps).started() as guest:
        manager = claimed(guest)
        manager.hear_state(lambda status: status.phase == "running")
        time.sleep(1.5)  # a word that came later than the last change of state
        heard = time.monotonic()
        for _ in range(2):  # the second proves that the answer to the first has come
            assert isinstance(manager.ask(Poll(manager.next())), State)
        guest.kill()
        time.sleep(1.0)
        guest.start()
        guest.control().wait_app("db", lambda status: status.goal == "down")
        lease = time.monotonic() - heard
        assert lease >= 4.9  # 5 s, but for the time of the word on its way
        status = guest.control().wait_app("db", lambda status: status.phase == "stopped")
        assert status.last is not None
        assert status.last.cause is Cause.LEASE


# Other files -------------------------------------------------------------------------


def test_edits_while_no_server_is_there_apply(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        guest.kill()
        guest.write(stanza("db", "/bin/sleep", "601", autostart=True, description="new"))
        guest.start()
        status = guest.control().wait_app("db", lambda status: status.description == "new")
        assert (status.pid, status.restart_pending) == (before.pid, True)


def test_a_bad_stanza_leaves_the_last_good_definition_in_force(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        guest.kill()
        guest.write(SLEEP.replace("autostart = true", "autostart = 7"))
        guest.start()
        status = running(guest)
        assert status.pid == before.pid
        assert "autostart" in status.problem
        admin = guest.control()
        assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
        assert isinstance(admin.ask(Start(admin.next(), "db")), Done)


def test_a_file_that_is_no_toml_removes_none_of_its_applications(tmp_path: Path) -> None:
    """One that runs and one that does not: where they were defined, nobody knows any more."""
    guest = Guest(tmp_path, "")
    path = guest.include("more.toml", SLEEP + stanza("web", "/bin/sleep", "600"))
    with guest.started():
        before = running(guest)
        guest.kill()
        replace_file(path, "[apps")
        guest.start()
        admin = guest.control()
        for app in ("db", "web"):
            status = admin.app(app)
            assert not status.removed
            assert "cannot read this as TOML" in status.problem
            assert isinstance(admin.ask(Restart(admin.next(), app)), Done)
        replace_file(path, SLEEP)
        assert admin.wait_app("web", lambda status: status.removed).phase == "running"
        assert admin.wait_app("db", lambda status: not status.problem).run != before.run


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("[server]", "[server", "cannot read this as TOML"),
        ("on_shutdown", "on_shutdwn", "server.on_shutdwn: unknown key"),
        ("[tls]", "[tsl]", "tsl: unknown key"),
    ],
)
def test_a_wrong_main_file_leaves_what_was_good_of_it_in_force(
    tmp_path: Path, right: str, wrong: str, said: str
) -> None:
    guest = Guest(tmp_path, SLEEP, server='on_shutdown = "keep"')
    guest.include("web.toml", stanza("web", "/bin/sleep", "600"))
    with guest.started():
        before = running(guest)
        manager = claimed(guest, before.run)
        good = guest.config.read_text()
        replace_file(guest.config, good.replace(right, wrong, 1))
        guest.wait_log(rf"error configuration: .*{re.escape(said)}")
        for _ in range(2):  # what was kept is kept on
            crash(guest)
            assert running(guest).pid == before.pid
        assert len(re.findall(rf"error configuration: .*{re.escape(said)}", guest.log())) >= 3
        manager = guest.manager()
        assert isinstance(manager.claim("db", run=before.run), State)
        assert "web" in guest.control().statuses()
        replace_file(guest.config, good)
        guest.wait_log("all problems are mended")
        assert manager.app("db").pid == before.pid
        replace_file(guest.config, good.replace(right, wrong, 1))
        guest.wait_log(rf"error configuration: .*{re.escape(said)}", times=4)
        assert guest.stop() == 0
        assert exists(before.pid)  # as on_shutdown was


@pytest.mark.skipif(os.geteuid() == 0, reason="root's usual directory is not for tests")
def test_a_missing_main_file_leaves_what_was_good_of_it_in_force(tmp_path: Path) -> None:
    guest = Guest(tmp_path, SLEEP)
    guest.environment["XDG_RUNTIME_DIR"] = str(tmp_path / "run")
    guest.state = tmp_path / "run" / "cmappd"  # which is the usual one
    guest.control_path = guest.state / "control.sock"
    guest.write(SLEEP)
    with guest.started():
        before = running(guest)
        guest.config.rename(tmp_path / "moved")
        guest.wait_log("error configuration: .*No such file")
        crash(guest)
        assert running(guest).pid == before.pid
        assert isinstance(claimed(guest, before.run), Client)


def test_where_nothing_runs_a_wrong_main_file_must_be_mended_first(tmp_path: Path) -> None:
    guest = Guest(tmp_path, SLEEP)
    with guest.started():
        running(guest)
        replace_file(guest.config, guest.config.read_text().replace("[server]", "[sever]"))
        guest.wait_log("error configuration: .*sever: unknown key")
        assert guest.stop() == 0
        guest.launch()
        assert guest.wait() == 78


def test_what_is_in_force_of_the_main_file_follows_its_edits(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        guest.managers = '[managers.vmhost2]\napps = ["*"]\n'
        guest.write(SLEEP)
        guest.wait_log(r"configuration reloaded: \[managers\] changed")
        replace_file(guest.config, guest.config.read_text().replace("[server]", "[sever]"))
        crash(guest)
        assert refusal(guest.manager("vmhost1").claim("db", run=before.run)) == "denied"
        assert isinstance(guest.manager("vmhost2").claim("db", run=before.run), State)


def test_one_that_is_removed_runs_on_and_leaves_when_it_ends(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        guest.kill()
        guest.write("")
        guest.start()
        admin = guest.control()
        status = admin.wait_app("db", lambda status: status.removed)
        assert (status.pid, status.phase) == (before.pid, "running")
        assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
        wait_for(lambda: not record(guest).exists())
        crash(guest)
        assert "db" not in guest.control().statuses()


# Records -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "it is damaged"),
        (lambda text: "", "it is damaged"),
        (lambda text: json.dumps(json.loads(text) | {"version": 99}), "a newer cmappserver"),
        (lambda text: json.dumps(json.loads(text) | {"phase": "tired"}), "it is damaged"),
        (lambda text: json.dumps(json.loads(text) | {"name": "other"}), "it speaks of 'other'"),
        (
            lambda text: text.replace('"stop":{', '"stop":{"grace":"3s",'),
            "its definition cannot be used: stop.grace: unknown key\n",
        ),
        (
            lambda text: json.dumps(json.loads(text) | {"definition": []}),
            "its definition cannot be used: must be a table\n",
        ),
    ],
    ids=["cut", "empty", "newer", "nonsense", "another", "another key", "no definition"],
)
def test_a_record_of_no_use_is_put_aside_and_nothing_is_doubled(
    tmp_path: Path, damage: Callable[[str], str], said: str
) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        guest.kill()
        record(guest).write_text(damage(record(guest).read_text()))
        guest.start()
        after = running(guest)
        assert (after.run, after.pid) == (before.run, before.pid)
        assert guest.app_pids() == [before.pid]
        assert said in guest.log()
        assert list(record(guest).parent.glob("*.refused"))


def test_a_run_of_which_there_is_no_record_is_found(tmp_path: Path) -> None:
    """As when the server is killed between the launch and the record of it."""
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        guest.kill()
        record(guest).unlink()
        guest.start()
        after = running(guest)
        assert (after.run, after.pid) == (before.run, before.pid)
        assert guest.app_pids() == [before.pid]


def test_a_record_of_another_boot_is_none(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        assert guest.stop() == 0
        content = json.loads(record(guest).read_text())
        record(guest).write_text(json.dumps(content | {"boot_id": "of yesterday"}))
        guest.start()
        assert running(guest).run != before.run
        assert "refused" not in guest.log()


# keep --------------------------------------------------------------------------------


def test_with_keep_sigterm_leaves_the_applications_alone(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP, server='on_shutdown = "keep"').started() as guest:
        before = running(guest)
        manager = claimed(guest)
        assert guest.stop() == 0
        assert not [one for one in manager.wait_cut() if isinstance(one, Refused | Ended)]
        assert before.pid is not None
        assert alive(before.pid)
        guest.start()
        assert running(guest).run == before.run
        assert guest.control().app("db").owner == "vmhost1"


def test_with_keep_a_manager_that_comes_back_at_once_is_refused_nothing(tmp_path: Path) -> None:
    """It would exit, and say that its application was stopped, which runs on."""
    apps = "".join(stanza(f"db{n}", "/bin/sleep", "600", autostart=True) for n in range(40))
    with Guest(tmp_path, apps, server='on_shutdown = "keep"').started() as guest:
        guest.control().wait_app("db39", lambda status: status.phase == "running")
        guest.manager_identity("vmhost1")  # which takes its time to make
        guest.signal(signal.SIGTERM)
        replies: list[object] = []
        with contextlib.suppress(OSError, Cut):
            while True:
                replies.append(guest.manager().claim("db0"))
        assert guest.wait() == 0
        refused = [reply.reason for reply in replies if isinstance(reply, Refused)]
        assert set(refused) <= {"busy"}  # by the one that came before it


# Killed at the worst moment -----------------------------------------------------------


def test_a_launch_that_could_not_be_noted_is_not_repeated(tmp_path: Path) -> None:
    """As when the server is killed between a launch and its record, after an earlier run."""
    with Guest(tmp_path, SLEEP).started() as guest:
        first = running(guest)
        admin = guest.control()
        assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
        before = record(guest).read_text()
        assert isinstance(admin.ask(Start(admin.next(), "db")), Done)
        second = running(guest)
        guest.kill()
        record(guest).write_text(before)
        guest.start()
        after = running(guest)
        assert (after.run, after.pid) == (second.run, second.pid) != (first.run, first.pid)
        assert guest.app_pids() == [second.pid]


def test_a_launch_whose_answer_was_not_noted_is_known_by_its_mark(tmp_path: Path) -> None:
    with Guest(tmp_path, SLEEP).started() as guest:
        before = running(guest)
        guest.kill()
        content = json.loads(record(guest).read_text())
        content |= {"phase": "starting", "deadline": time.monotonic() + 60, "main": None}
        content["run"] |= {"pid": None, "launched": False}
        record(guest).write_text(json.dumps(content))
        guest.start()
        assert running(guest).pid == before.pid
        assert guest.app_pids() == [before.pid]


def test_stop_after_is_watched_to_its_end(tmp_path: Path) -> None:
    go, told = tmp_path / "go", tmp_path / "told"
    after = f"while ! test -e {go}; do sleep 0.02; done; echo after >> {told}"
    stop = {"after": ["/bin/sh", "-c", after], "timeout": "20s"}
    with Guest(tmp_path, shell("db", "exec sleep 600", autostart=True, stop=stop)).started() as (
        guest
    ):
        running(guest)
        admin = guest.control()
        admin.send(Stop(admin.next(), "db"))
        wait_for(lambda: any("after" in mark for mark in marks.marked()))
        crash(guest)
        assert guest.control().app("db").phase == "stopping"
        go.touch()
        guest.control().wait_app("db", lambda status: status.phase == "stopped")
        assert told.read_text() == "after\n"


def test_an_operators_stop_under_way_is_not_undone(tmp_path: Path) -> None:
    """The run before was stopped with the server; this one by the administrator."""
    trap = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.02; done"
    with Guest(tmp_path, shell("db", trap, autostart=True)).started() as guest:
        running(guest)
        assert guest.stop() == 0
        guest.start()
        running(guest)
        admin = guest.control()
        admin.send(Stop(admin.next(), "db"))
        admin.wait_app("db", lambda status: status.phase == "stopping")
        crash(guest)
        status = guest.control().wait_app("db", lambda status: status.phase == "stopped")
        assert status.goal == "down"
        assert not guest.app_pids()


@pytest.mark.parametrize("noted", [True, False])
def test_an_owner_keeps_its_lease_over_the_crash(tmp_path: Path, noted: bool) -> None:
    """Also where there was no time to note the last launch."""
    apps = stanza("db", "/bin/sleep", "600", manager={"lease": "5s"})
    with Guest(tmp_path, apps).started() as guest:
        owner = claimed(guest)
        deadline = time.monotonic() + 5.5
        while time.monotonic() < deadline:
            assert isinstance(owner.ask(Poll(owner.next())), State)
            time.sleep(0.3)
        guest.kill()
        if not noted:
            waits = {
                "phase": "backoff",
                "deadline": time.monotonic() + 60,
                "serial": 0,
                "run": None,
            }
            content = json.loads(record(guest).read_text()) | waits | {"main": None}
            record(guest).write_text(json.dumps(content))
        guest.start()
        assert refusal(guest.manager("vmhost2").claim("db")) == "busy"


def test_a_lease_that_nobody_renews_runs_on_over_the_crash(tmp_path: Path) -> None:
    apps = stanza("db", "/bin/sleep", "600", manager={"lease": "5s"})
    with Guest(tmp_path, apps).started() as guest:
        before = claimed(guest).hear_state(lambda status: status.phase == "running").status
        guest.hang_up()
        guest.control().wait_app("db", lambda status: status.lease_over)
        crash(guest)
        after = guest.control().app("db")
        assert (after.owner, after.lease_over) == ("vmhost1", True)
        assert isinstance(guest.manager("vmhost2").claim("db"), State)
        assert running(guest).run == before.run


def test_a_result_is_owed_of_what_waited_and_was_removed(tmp_path: Path) -> None:
    restart = {"policy": "always", "delay": "30s"}
    with Guest(tmp_path, shell("db", "sleep 600", restart=restart)).started() as guest:
        manager = claimed(guest)
        state = manager.hear_state(lambda status: status.phase == "running")
        os.kill(state.status.pid or 0, signal.SIGKILL)
        guest.control().wait_app("db", lambda status: status.phase == "backoff")
        guest.kill()
        guest.write("")
        guest.start()
        ended = guest.manager().claim("db", run=state.status.run)
        assert isinstance(ended, Ended), ended
