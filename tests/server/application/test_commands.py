"""The commands around an application, and applications that are no one process: with real ones."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from cmappd.core.messages import Done, Ended, Refused, Start, Stop
from cmappd.core.state import Cause, Phase
from cmappd.server.application.supervisor import Supervisor
from cmappd.system.proc import read_stat
from tests.server.ground import Ground, Recorder, play, until
from tests.server.harness import alive, stanza
from tests.system.wood import strays

# It daemonises as daemon(7) says: another session, a double fork, the first process ends.
DAEMON = """
import os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
if len(sys.argv) > 1:
    time.sleep(0.1)
    with open(sys.argv[1], "w") as file:
        file.write(f"{os.getpid()}\\n")
time.sleep(600)
"""


def shell(script: str, **keys: Any) -> str:
    return stanza("db", "/bin/sh", "-c", script, **keys)


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


async def start(db: Supervisor) -> Done | Refused:
    admin = Recorder("uid 0", administrator=True)
    answer = await admin.ask(db, Start(admin.next(), "db"))
    assert isinstance(answer, Done | Refused)
    return answer


async def stop(db: Supervisor) -> None:
    admin = Recorder("uid 0", administrator=True)
    assert isinstance(await admin.ask(db, Stop(admin.next(), "db")), Done)
    assert db.app.phase is Phase.STOPPED


def told(folder: Path) -> list[str]:
    path = folder / "told"
    return path.read_text().split() if path.exists() else []


# Before and after --------------------------------------------------------------------


def test_the_commands_run_in_their_order(tmp_path: Path) -> None:
    tell = f">> {tmp_path}/told"
    apps = shell(
        f"trap 'echo end {tell}; exit 0' TERM; echo main {tell}; while :; do sleep 0.01; done",
        start={"command": sh(f"sleep 0.05; echo before {tell}")},
        stop={"after": sh(f"echo after {tell}")},
    )

    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        await until(lambda: "main" in told(tmp_path))
        await stop(db)
        assert told(tmp_path) == ["before", "main", "end", "after"]

    play(tmp_path, apps, scene)


def test_a_start_command_that_fails_fails_the_start(tmp_path: Path) -> None:
    apps = shell("sleep 600", start={"command": sh("sleep 600 & exit 3")})

    async def scene(ground: Ground, db: Supervisor) -> None:
        answer = await start(db)
        assert isinstance(answer, Refused)
        assert answer.reason == "not-started"
        assert "start.command ended with exit code 3" in answer.text
        assert not strays(ground.world.forest)  # what it had left is gone

    play(tmp_path, apps, scene)


def test_a_start_command_has_the_time_limit_of_the_start(tmp_path: Path) -> None:
    apps = shell("sleep 600", start={"command": sh("sleep 600"), "timeout": "300ms"})

    async def scene(ground: Ground, db: Supervisor) -> None:
        answer = await start(db)
        assert isinstance(answer, Refused)
        assert "start.command did not end within 0.3 s" in answer.text

    play(tmp_path, apps, scene)


def test_one_that_is_missing_is_named(tmp_path: Path) -> None:
    apps = shell("sleep 600", start={"command": ["/no/such/program"]})

    async def scene(ground: Ground, db: Supervisor) -> None:
        answer = await start(db)
        assert isinstance(answer, Refused)
        assert "/no/such/program" in answer.text

    play(tmp_path, apps, scene)


def test_stop_after_runs_after_a_crash_too_and_before_the_next_launch(tmp_path: Path) -> None:
    tell = f">> {tmp_path}/told"
    apps = shell(
        f"echo main {tell}; sleep 600",
        stop={"after": sh(f"sleep 0.05; echo after {tell}")},
        restart={"policy": "always", "delay": "0s"},
    )

    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        await until(lambda: told(tmp_path) == ["main"])
        assert db.app.run is not None
        assert db.app.run.pid is not None
        os.kill(db.app.run.pid, signal.SIGKILL)
        await until(lambda: told(tmp_path) == ["main", "after", "main"])

    play(tmp_path, apps, scene)


def test_stop_after_is_killed_at_its_time_limit(tmp_path: Path) -> None:
    apps = shell("exec sleep 600", stop={"after": sh("sleep 600 & sleep 600"), "timeout": "300ms"})

    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        await stop(db)
        assert not strays(ground.world.forest)

    log = play(tmp_path, apps, scene)
    assert any("stop.after ended with SIGKILL" in line for line in log)


# stop.command ------------------------------------------------------------------------


def test_stop_command_takes_the_place_of_the_signal(tmp_path: Path) -> None:
    apps = shell(
        f"trap 'echo signal >> {tmp_path}/told' TERM; while ! test -e {tmp_path}/end; do "
        "sleep 0.01; done",
        stop={"command": sh(f"echo $CMAPPD_MAIN_PID >> {tmp_path}/told; touch {tmp_path}/end")},
    )

    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        assert db.app.run is not None
        pid = db.app.run.pid
        await asyncio.sleep(0.05)
        await stop(db)
        assert told(tmp_path) == [str(pid)]
        assert db.app.last is not None
        assert db.app.last.cause is Cause.OPERATOR

    play(tmp_path, apps, scene)


def test_the_signal_follows_a_stop_command_that_fails(tmp_path: Path) -> None:
    for command in (sh("exit 1"), ["/no/such/program"]):
        apps = shell("exec sleep 600", stop={"command": command, "timeout": "20s"})

        async def scene(ground: Ground, db: Supervisor) -> None:
            assert isinstance(await start(db), Done)
            await stop(db)
            assert db.app.last is not None
            assert db.app.last.status.signal == signal.SIGTERM

        play(tmp_path, apps, scene)


def test_a_stop_command_that_hangs_is_killed_with_the_rest(tmp_path: Path) -> None:
    apps = shell("exec sleep 600", stop={"command": sh("sleep 600"), "timeout": "300ms"})

    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        await stop(db)
        assert db.app.last is not None
        assert db.app.last.status.signal == signal.SIGKILL
        assert not strays(ground.world.forest)

    play(tmp_path, apps, scene)


# Daemons -----------------------------------------------------------------------------


def daemon(folder: Path, *arguments: str, **keys: Any) -> str:
    script = folder / "daemon.py"
    script.write_text(DAEMON)
    return stanza("db", "/usr/bin/env", "python3", str(script), *arguments, type="forking", **keys)


async def daemonised(db: Supervisor) -> int:
    assert isinstance(await start(db), Done)
    assert db.app.run is not None
    assert db.app.run.pid is not None
    stat = read_stat(db.app.run.pid)
    assert stat is not None
    assert stat.ppid == os.getpid()
    return stat.pid


def test_what_a_daemon_leaves_behind_is_the_application(tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        pid = await daemonised(db)
        await stop(db)
        assert not alive(pid)

    play(tmp_path, daemon(tmp_path), scene)


def test_the_end_of_a_daemon_is_noticed_with_its_status(tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        manager = Recorder("vmhost1")
        await manager.claim(db)
        await until(lambda: db.app.phase is Phase.RUNNING)
        assert db.app.run is not None
        assert db.app.run.pid is not None
        os.kill(db.app.run.pid, signal.SIGKILL)
        (ended,) = await until(lambda: manager.heard(Ended))
        assert (ended.outcome.cause, ended.outcome.status.signal) == (Cause.EXIT, 9)

    play(tmp_path, daemon(tmp_path), scene)


def test_a_pid_file_names_the_main_process(tmp_path: Path) -> None:
    pid_file = tmp_path / "db.pid"

    async def scene(ground: Ground, db: Supervisor) -> None:
        pid = await daemonised(db)
        assert pid_file.read_text() == f"{pid}\n"

    play(tmp_path, daemon(tmp_path, str(pid_file), pid_file=str(pid_file)), scene)


def test_a_pid_file_that_names_somebody_else_is_not_believed(tmp_path: Path) -> None:
    pid_file = tmp_path / "db.pid"
    pid_file.write_text(f"{os.getpid()}\n")
    start_keys = {"timeout": "500ms"}

    async def scene(ground: Ground, db: Supervisor) -> None:
        answer = await start(db)
        assert isinstance(answer, Refused)
        assert answer.reason == "not-ready"
        assert not strays(ground.world.forest)

    play(tmp_path, daemon(tmp_path, pid_file=str(pid_file), start=start_keys), scene)


def test_a_command_that_leaves_nothing_behind_was_not_started(tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        answer = await start(db)
        assert isinstance(answer, Refused)
        assert "left no process behind" in answer.text

    play(tmp_path, stanza("db", "/bin/true", type="forking"), scene)


def test_a_daemon_whose_command_fails_has_failed_with_its_code(tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Refused)
        assert db.app.last is not None
        assert db.app.last.status.code == 4

    play(tmp_path, stanza("db", *sh("sleep 600 & exit 4"), type="forking"), scene)


# One shot ----------------------------------------------------------------------------


def oneshot(script: str, **keys: Any) -> str:
    return shell(script, type="oneshot", **keys).replace('ready = "0s"\n', "")


def test_the_success_of_a_oneshot_counts_as_up(tmp_path: Path) -> None:
    apps = oneshot(
        f"echo up >> {tmp_path}/told",
        stop={"command": sh(f"echo down >> {tmp_path}/told")},
    )

    async def scene(ground: Ground, db: Supervisor) -> None:
        answer = await start(db)
        assert isinstance(answer, Done)
        assert (db.app.phase, told(tmp_path)) == (Phase.RUNNING, ["up"])
        await stop(db)
        assert told(tmp_path) == ["up", "down"]

    play(tmp_path, apps, scene)


def test_a_oneshot_that_fails_has_failed(tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Refused)
        assert db.app.phase is Phase.FAILED
        assert db.app.last is not None
        assert db.app.last.status.code == 5

    play(tmp_path, oneshot("exit 5"), scene)


def test_what_a_oneshot_leaves_running_ends_with_it(tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        assert db.app.run is not None
        (left,) = ground.world.forest.alive(db.app.run.id)
        await stop(db)
        assert not alive(left.pid)

    play(tmp_path, oneshot("sleep 600 & exit 0"), scene)


def test_a_oneshot_is_checked_while_it_is_up(tmp_path: Path) -> None:
    well = tmp_path / "well"
    well.touch()
    check = {"command": sh(f"test -e {well}"), "interval": "20ms", "failures": 1}

    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        well.unlink()
        await until(lambda: db.app.phase is Phase.FAILED)
        assert db.app.last is not None
        assert db.app.last.cause is Cause.UNHEALTHY

    play(tmp_path, oneshot("exit 0", health=check), scene)
