"""One application with real processes, and the peers that talk to it."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Literal

from cmappd.core.config import Application, Ownership
from cmappd.core.events import Define
from cmappd.core.messages import (
    Ack,
    Done,
    Ended,
    Refused,
    Release,
    Restart,
    Start,
    State,
    Stop,
)
from cmappd.core.state import Cause, Goal, Health, Phase
from cmappd.server.application.checks import SUMMARY
from cmappd.server.application.runner import MOST_SURVIVORS
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.application.waiting import MAX_WAITING
from cmappd.server.shared.items import Parted, Said
from tests.server.ground import Ground, Recorder, play, until
from tests.server.harness import alive, shell, stanza, survives

SLEEP = stanza("db", "/bin/sleep", "600")
STUBBORN = 'trap "" TERM; while :; do sleep 0.05; done'


async def running(db: Supervisor) -> int:
    """The pid of the application, once it runs."""
    await until(lambda: db.app.phase is Phase.RUNNING)
    assert db.app.run is not None
    assert db.app.run.pid is not None
    return db.app.run.pid


async def owned(db: Supervisor, name: str = "vmhost1") -> Recorder:
    """A manager that has claimed the application, which runs."""
    manager = Recorder(name)
    answer = await manager.claim(db)
    assert isinstance(answer, State), answer
    await running(db)
    return manager


async def result(manager: Recorder) -> Ended:
    (ended,) = await until(lambda: manager.heard(Ended))
    return ended


def leased(db: Supervisor, on_lost: Literal["keep", "stop"], lease: float) -> Define:
    """The definition with a lease shorter than a file may have."""
    rule = Ownership.model_construct(on_lost=on_lost, lease=lease)
    changed: Application = db.app.definition.model_copy(update={"manager": rule})
    return Define(changed)


# A claim, and what follows ------------------------------------------------------------


def test_a_claim_starts_and_every_change_is_pushed(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = Recorder("vmhost1")
        first = await manager.claim(db)
        assert isinstance(first, State)
        assert first.status.goal is Goal.UP
        assert first.status.owner == "vmhost1"
        pid = await running(db)
        await until(lambda: manager.heard(State)[-1].status.phase == "running")
        last = manager.heard(State)[-1]
        assert (last.seq, last.status.pid, last.status.run) == (
            0,
            pid,
            db.app.run and db.app.run.id,
        )

    play(tmp_path, SLEEP, scene)


def test_a_claim_of_what_runs_attaches_to_it(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        pid = await running(db)
        answer = await Recorder("vmhost1").claim(db)
        assert isinstance(answer, State)
        assert answer.status.pid == pid

    play(tmp_path, stanza("db", "/bin/sleep", "600", autostart=True), scene)


def test_the_result_carries_the_exit_code_and_the_end_of_the_log(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = Recorder("vmhost1")
        await manager.claim(db)
        ended = await result(manager)
        assert ended.outcome.cause is Cause.EXIT
        assert ended.outcome.status.code == 7
        assert not ended.outcome.success
        assert ended.log_tail.splitlines() == [f"line {n}" for n in range(31, 50)] + ["the end"]
        await until(lambda: manager.heard(State)[-1].status.phase is Phase.FAILED)
        # What is said after the result is never older than it.
        assert manager.told.index(ended) < manager.told.index(manager.heard(State)[-1])

    script = 'for n in $(seq 49); do echo "line $n"; done; echo the end; exit 7'
    play(tmp_path, shell("db", script), scene)


def test_a_killed_application_is_reported_with_its_signal(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        os.kill(await running(db), signal.SIGKILL)
        ended = await result(manager)
        assert (ended.outcome.cause, ended.outcome.status.signal) == (Cause.EXIT, signal.SIGKILL)

    play(tmp_path, SLEEP, scene)


def test_the_result_comes_only_when_nothing_is_left_of_the_tree(tmp_path: Path) -> None:
    child = tmp_path / "child"

    async def scene(_: Ground, db: Supervisor) -> None:
        manager = Recorder("vmhost1")
        await manager.claim(db)
        ended = await result(manager)
        assert ended.outcome.status.code == 3
        assert not alive(int(child.read_text()))

    script = f"(trap '' TERM; while :; do sleep 0.05; done) & echo $! > {child}; sleep 0.1; exit 3"
    play(tmp_path, shell("db", script, stop={"timeout": "200ms"}), scene)


# Ownership ---------------------------------------------------------------------------


def test_an_acknowledged_result_ends_the_ownership_and_is_not_given_again(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = Recorder("vmhost1")
        await manager.claim(db)
        ended = await result(manager)
        assert isinstance(await manager.ask(db, Ack(manager.next(), ended.outcome.run)), Done)
        assert db.status().owner is None
        again = Recorder("vmhost1")
        assert isinstance(await again.claim(db), State)

    play(tmp_path, shell("db", "exit 1"), scene)


def test_release_gives_up_the_ownership_and_the_application_runs_on(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        pid = await running(db)
        assert isinstance(await manager.ask(db, Release(manager.next())), Done)
        told = len(manager.told)
        other = await owned(db, "vmhost2")
        assert await running(db) == pid
        assert other.heard(Ended) == []
        assert len(manager.told) == told  # nothing more is pushed to who has released it

    play(tmp_path, SLEEP, scene)


def test_a_result_without_a_manager_is_delivered_to_the_next_of_that_name_once(
    tmp_path: Path,
) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        db.post(Parted(manager))
        os.kill(await running(db), signal.SIGKILL)
        await until(lambda: db.app.phase is Phase.FAILED)
        next_one = Recorder("vmhost1")
        answer = await next_one.claim(db)
        assert isinstance(answer, Ended)
        assert answer.outcome.status.signal == signal.SIGKILL
        assert db.app.phase is Phase.FAILED  # and nothing was started by that claim
        await next_one.ask(db, Ack(next_one.next(), answer.outcome.run))
        db.post(Parted(next_one))
        await owned(db)

    play(tmp_path, SLEEP, scene)


def test_the_same_instance_attaches_again_to_the_same_run(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        pid = await running(db)
        assert db.app.run is not None
        # The server has not noticed yet that the old link is broken.
        back = Recorder("vmhost1", instance=manager.instance)
        answer = await back.claim(db, db.app.run.id)
        assert isinstance(answer, State)
        assert answer.status.pid == pid
        assert manager.hung_up
        assert not manager.heard(Refused)

    play(tmp_path, SLEEP, scene)


def test_a_new_instance_of_the_owner_attaches_once_the_old_link_has_ended(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        pid = await running(db)
        successor = Recorder("vmhost1")
        answer = await successor.claim(db)
        assert isinstance(answer, Refused)
        assert answer.reason == "busy"
        db.post(Parted(manager))
        answer = await successor.claim(db)
        assert isinstance(answer, State)
        assert answer.status.pid == pid

    play(tmp_path, SLEEP, scene)


def test_a_returning_instance_learns_what_ended_meanwhile(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        assert db.app.run is not None
        run = db.app.run.id
        db.post(Parted(manager))
        os.kill(await running(db), signal.SIGTERM)
        await until(lambda: db.at_rest)
        back = Recorder("vmhost1", instance=manager.instance)
        answer = await back.claim(db, run)
        assert isinstance(answer, Ended)
        assert answer.outcome.run == run

    play(tmp_path, SLEEP, scene)


def test_a_takeover_moves_the_ownership_and_touches_nothing_else(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        old, pid = await owned(db), await running(db)
        new = Recorder("vmhost2")
        assert isinstance(await new.claim(db, takeover=True), State)
        assert (db.status().owner, await running(db)) == ("vmhost2", pid)
        assert old.heard(Refused)[0].reason == "busy"
        assert old.hung_up
        db.post(Parted(old))
        assert db.status().owner_silent_for is None

    play(tmp_path, SLEEP, scene)


# The lease ---------------------------------------------------------------------------


def test_an_expired_lease_stops_the_application_where_it_shall(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        db.post(leased(db, "stop", 0.2))
        manager = await owned(db)
        await until(lambda: db.app.phase is Phase.STOPPED)
        assert db.app.last is not None
        assert db.app.last.cause is Cause.LEASE
        assert db.status().owner is None
        # It follows nothing any more, should it be there again; and may claim what it followed.
        assert manager.hung_up
        back = Recorder("vmhost1", instance=manager.instance)
        ended = await back.claim(db, db.app.last.run)
        assert isinstance(ended, Ended)
        assert ended.outcome.cause is Cause.LEASE

    lines = play(tmp_path, SLEEP, scene)
    assert any("lease" in line for line in lines)


def test_an_expired_lease_keeps_the_application_where_it_shall(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        db.post(leased(db, "keep", 0.05))
        manager = await owned(db)
        pid = await running(db)
        db.post(Parted(manager))
        await until(lambda: (db.status().owner_silent_for or 0) > 0.1)
        await owned(db, "vmhost2")
        assert await running(db) == pid

    play(tmp_path, SLEEP, scene)


def test_polls_renew_the_lease(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        db.post(leased(db, "stop", 0.6))
        manager = await owned(db)
        started = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < started + 1.5:
            manager.last_there = time.monotonic()
            await asyncio.sleep(0.05)
        assert db.app.phase is Phase.RUNNING
        await until(lambda: db.app.phase is Phase.STOPPED)

    play(tmp_path, SLEEP, scene)


# Stops -------------------------------------------------------------------------------


def test_a_stop_of_the_owner_is_answered_when_the_tree_is_gone(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager, pid = await owned(db), await running(db)
        answer = await manager.ask(db, Stop(manager.next(), "db"))
        assert isinstance(answer, Done)
        assert not alive(pid)
        ended = await result(manager)
        assert ended.outcome.cause is Cause.MANAGER
        assert manager.told.index(ended) < manager.told.index(answer)

    play(tmp_path, SLEEP, scene)


def test_a_second_stop_that_kills_ends_what_ignores_the_first(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        pid = await running(db)
        await until(lambda: survives(signal.SIGTERM, pid))
        first = manager.next()
        db.post(Said(manager, Stop(first, "db")))
        await until(lambda: db.app.phase is Phase.STOPPING)
        answer = await manager.ask(db, Stop(manager.next(), "db", kill=True))
        assert isinstance(answer, Done)
        assert isinstance(manager.answer(first), Done)
        ended = await result(manager)
        assert ended.outcome.status.signal == signal.SIGKILL
        assert ended.outcome.cause is Cause.MANAGER

    play(tmp_path, shell("db", STUBBORN, stop={"timeout": "60s"}), scene)


def test_the_administrators_stop_is_told_to_the_owner_as_such(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        administrator = Recorder("uid 0", administrator=True)
        assert isinstance(await administrator.ask(db, Stop(1, "db")), Done)
        assert (await result(manager)).outcome.cause is Cause.OPERATOR

    play(tmp_path, SLEEP, scene)


def test_another_manager_may_not_stop_what_is_owned(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        await owned(db)
        other = Recorder("vmhost2")
        answer = await other.ask(db, Stop(other.next(), "db"))
        assert isinstance(answer, Refused)
        assert answer.reason == "busy"
        assert "vmhost1" in answer.text
        assert db.app.phase is Phase.RUNNING

    play(tmp_path, SLEEP, scene)


def test_a_stop_of_what_does_not_run_is_done_at_once(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        assert isinstance(await Recorder("vmhost1").ask(db, Stop(1, "db")), Done)

    play(tmp_path, SLEEP, scene)


# The administrator -------------------------------------------------------------------


def test_start_is_answered_when_it_is_ready(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        answer = await Recorder("uid 0", administrator=True).ask(db, Start(1, "db"))
        assert isinstance(answer, Done)
        assert f"pid {await running(db)}" in answer.text

    play(tmp_path, stanza("db", "/bin/sleep", "600", start={"ready": "100ms"}), scene)


def test_start_is_refused_with_what_it_ended_of(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        answer = await Recorder("uid 0", administrator=True).ask(db, Start(1, "db"))
        assert isinstance(answer, Refused)
        assert answer.reason == "app"
        assert "9" in answer.text

    play(tmp_path, shell("db", "exit 9", start={"ready": "5s"}), scene)


def test_restart_gives_a_new_run_to_the_same_owner(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager, pid = await owned(db), await running(db)
        answer = await Recorder("uid 0", administrator=True).ask(db, Restart(1, "db"))
        assert isinstance(answer, Done)
        now = await running(db)
        assert now != pid
        assert manager.heard(Ended) == []
        await until(lambda: manager.heard(State)[-1].status.pid == now)
        assert db.status().owner == "vmhost1"

    play(tmp_path, SLEEP, scene)


def test_requests_that_wait_are_bounded(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        pid = await running(db)
        await until(lambda: survives(signal.SIGTERM, pid))
        seqs = [manager.next() for _ in range(MAX_WAITING + 1)]
        for seq in seqs:
            db.post(Said(manager, Stop(seq, "db")))
        await until(lambda: manager.answer(seqs[-1]))
        assert isinstance(manager.answer(seqs[-1]), Refused)
        db.post(Parted(manager))  # whoever is gone waits no more
        await until(lambda: db.status().owner_silent_for is not None)
        answer = await Recorder("uid 0", administrator=True).ask(db, Stop(1, "db", kill=True))
        assert isinstance(answer, Done)

    play(tmp_path, shell("db", STUBBORN, stop={"timeout": "60s"}), scene)


# How it can fail ---------------------------------------------------------------------


def test_the_result_comes_only_when_the_budget_is_spent(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = Recorder("vmhost1")
        await manager.claim(db)
        ended = await result(manager)
        assert ended.outcome.run == f"db.{db.app.epoch}.3"
        assert ended.outcome.status.code == 4
        assert (tmp_path / "runs").read_text() == "run\n" * 3
        runs = {state.status.run for state in manager.heard(State)}
        assert len(runs) == 3

    restart = {"policy": "on-failure", "limit": 2, "delay": "20ms"}
    play(tmp_path, shell("db", f"echo run >> {tmp_path}/runs; exit 4", restart=restart), scene)


def test_a_stop_between_two_runs_ends_it(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = Recorder("vmhost1")
        await manager.claim(db)
        await until(lambda: db.app.phase is Phase.BACKOFF)
        assert isinstance(await manager.ask(db, Stop(manager.next(), "db")), Done)
        assert (await result(manager)).outcome.cause is Cause.MANAGER

    restart = {"policy": "always", "limit": 9, "delay": "30s"}
    play(tmp_path, shell("db", "exit 0", restart=restart), scene)


def test_failed_health_checks_end_it_with_their_output(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = await owned(db)
        await until(lambda: db.status().health is Health.HEALTHY)
        (tmp_path / "sick").touch()
        ended = await result(manager)
        assert ended.outcome.cause is Cause.UNHEALTHY
        assert ended.health_output == "no answer\n"
        states = [state.status.health for state in manager.heard(State)]
        assert Health.HEALTHY in states

    check = f"if test -e {tmp_path}/sick; then echo no answer; exit 1; fi"
    health = {"command": ["/bin/sh", "-c", check], "interval": "50ms", "failures": 2}
    play(tmp_path, stanza("db", "/bin/sleep", "600", health=health), scene)


def test_the_log_says_in_a_line_what_the_failed_check_said(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        await owned(db)
        await until(lambda: db.status().health is Health.UNHEALTHY)

    check = f"seq {SUMMARY}; printf 'no \\033[31mspace\\n'; exit 3"
    health = {"command": ["/bin/sh", "-c", check], "interval": "50ms", "action": "report"}
    log = play(tmp_path, stanza("db", "/bin/sleep", "600", health=health), scene)
    (line,) = [line for line in log if "unhealthy" in line]
    head, end = line.split("ended with exit code 3: ...")
    assert head.endswith("unhealthy: its health check ")
    assert end.endswith(r"199 200 no \x1b[31mspace")
    assert len(end.replace(r"\x1b", "\x1b")) == SUMMARY


def test_what_does_not_become_ready_in_time_is_ended(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        manager = Recorder("vmhost1")
        await manager.claim(db)
        ended = await result(manager)
        assert ended.outcome.cause is Cause.NOT_READY
        assert "300" in ended.outcome.detail or "0.3" in ended.outcome.detail

    health = {"command": ["/bin/false"], "interval": "50ms"}
    start = {"ready": "health", "timeout": "300ms"}
    play(tmp_path, stanza("db", "/bin/sleep", "600", health=health, start=start), scene)


def test_what_cannot_be_executed_was_not_started(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        for changes in ({}, {"command": ("/bin/sleep", "600"), "user": "nobody-of-this-name"}):
            db.post(Define(db.app.definition.model_copy(update=changes)))
            manager = Recorder("vmhost1")
            assert isinstance(await manager.claim(db), State)
            ended = await result(manager)
            assert ended.outcome.cause is Cause.NOT_STARTED
            assert "nobody-of-this-name" in ended.outcome.detail or "/no/such" in (
                ended.outcome.detail
            )
            await manager.ask(db, Ack(manager.next(), ended.outcome.run))

    play(tmp_path, stanza("db", "/no/such/program"), scene)


def test_a_log_directory_that_cannot_be_used_leaves_the_application_supervised(
    tmp_path: Path,
) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        await owned(db)
        assert "/no/such/folder" in db.status().problem

    play(tmp_path, stanza("db", "/bin/sleep", "9", log={"path": "/no/such/folder/log"}), scene)


def test_of_very_many_processes_the_first_are_named(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        pid = await running(db)
        assert db.app.run is not None
        run = db.app.run.id
        await until(lambda: len(db.runner.world.forest.members(run)) == MOST_SURVIVORS + 21)
        named = db.runner.survivors(run)
        assert len(named) == MOST_SURVIVORS
        assert pid in named

    many = "for number in $(seq 120); do sleep 600 & done; wait"
    play(tmp_path, shell("db", many, autostart=True), scene)
