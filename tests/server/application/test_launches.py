"""What an application is launched with, and how it is checked, as its definition says."""

import contextlib
import grp
import os
import pwd
import resource
import socket
from pathlib import Path
from typing import Any

import pytest

from cmappd.core.messages import Done, Refused
from cmappd.core.state import Cause, Health, Phase
from cmappd.server.application.supervisor import Supervisor
from tests.server.application.test_commands import sh, shell, start, stop
from tests.server.ground import Ground, Recorder, play, until
from tests.system.services import Service, answer, page


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def shown(db: Supervisor, path: Path) -> str:
    """What the application has written there, once it is all."""
    answer = await start(db)
    assert isinstance(answer, Done), answer
    return await until(lambda: text(path) if text(path).endswith("\n.\n") else "")


def shows(folder: Path, command: str, **keys: Any) -> str:
    out = folder / "shown"
    return shell(f"{command} > {out}; echo >> {out}; echo . >> {out}; sleep 600", **keys)


# With what ---------------------------------------------------------------------------


def test_what_was_never_launched_has_left_no_line_in_the_log(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text("A=1\n")

    async def scene(_: Ground, db: Supervisor) -> None:
        manager = Recorder("vmhost1")
        await manager.claim(db)
        ended = await until(lambda: db.custody.undelivered)
        assert ended is not None
        assert ended.log_tail == "evidence\n"
        file.write_text("no variable\n")
        assert isinstance(await start(db), Refused)
        ended = await until(lambda: db.custody.undelivered)
        assert ended is not None
        assert (ended.outcome.cause, ended.log_tail) == (Cause.NOT_STARTED, "")

    play(tmp_path, shell("echo evidence; exit 3", environment_file=str(file)), scene)


def test_limits_hold_from_the_beginning(tmp_path: Path) -> None:
    apps = shows(
        tmp_path, "(ulimit -n; ulimit -Hn; ulimit -c)", limits={"nofile": [100, 200], "core": 0}
    )

    async def scene(ground: Ground, db: Supervisor) -> None:
        assert (await shown(db, tmp_path / "shown")).split() == ["100", "200", "0", "."]

    play(tmp_path, apps, scene)


def test_nice_and_no_new_privileges(tmp_path: Path) -> None:
    command = "(nice; grep NoNewPrivs /proc/self/status)"
    apps = shows(tmp_path, command, nice=os.nice(0) + 3, no_new_privileges=True)

    async def scene(ground: Ground, db: Supervisor) -> None:
        said = (await shown(db, tmp_path / "shown")).split()
        assert said == [str(os.nice(0) + 3), "NoNewPrivs:", "1", "."]

    play(tmp_path, apps, scene)


def test_an_environment_file_wins_over_the_stanza(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text("# of this machine\nA='from the file'\n")
    apps = shows(
        tmp_path, 'echo "$A $B"', environment={"A": "a", "B": "b"}, environment_file=str(file)
    )

    async def scene(ground: Ground, db: Supervisor) -> None:
        assert (await shown(db, tmp_path / "shown")).startswith("from the file b\n")

    play(tmp_path, apps, scene)


@pytest.mark.parametrize(
    ("content", "said"),
    [("A\n", "environment: line 1"), ("CMAPPD_RUN=x\n", "CMAPPD_RUN"), (None, "No such file")],
)
def test_an_environment_file_of_no_use_fails_the_start(
    tmp_path: Path, content: str | None, said: str
) -> None:
    file = tmp_path / "environment"
    if content is not None:
        file.write_text(content)
    apps = shell("sleep 600", environment_file=str(file))

    async def scene(ground: Ground, db: Supervisor) -> None:
        answer = await start(db)
        assert isinstance(answer, Refused)
        assert said in answer.text

    play(tmp_path, apps, scene)


# How it is checked -------------------------------------------------------------------


def test_a_tcp_check(tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        server.close()
        await until(lambda: db.app.phase is Phase.FAILED)
        assert db.app.last is not None
        assert f"was refused by 127.0.0.1:{port}" in db.app.last.detail

    server = socket.create_server(("127.0.0.1", 0))
    with server:
        port = server.getsockname()[1]
        health = {"tcp": f"127.0.0.1:{port}", "interval": "20ms", "failures": 1}
        play(tmp_path, shell("sleep 600", health=health, start={"ready": "health"}), scene)


@pytest.mark.parametrize(
    ("keys", "seen"),
    [
        ({"http_status": [302]}, "gone"),
        ({"http_redirects": True}, "here"),
        ({"http_redirects": True, "http_body": "her"}, "here"),
    ],
)
def test_what_an_http_check_is_told(keys: dict[str, Any], seen: str, tmp_path: Path) -> None:
    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        assert db.runner.checks.output == seen

    def serve(connection: socket.socket) -> None:
        asked = connection.recv(65536).split()[1]
        away = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 4\r\n\r\ngone"
        here = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere"
        connection.sendall(here if asked == b"/there" else away)

    with Service(serve) as service:
        health = {"http": service.url, "interval": "20ms", **keys}
        play(tmp_path, shell("sleep 600", health=health, start={"ready": "health"}), scene)


@pytest.mark.parametrize("way", ["command", "tcp"])
def test_a_check_that_we_cannot_make_says_nothing_of_the_application(
    way: str, tmp_path: Path
) -> None:
    """There is no free descriptor: no check counts, and they go on when there are some again."""

    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        held = [os.dup(0)]
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1, before[1]))

        def starved() -> bool:
            with contextlib.suppress(OSError):  # what a check that was under way has given back
                while True:
                    held.append(os.dup(0))
            return "cannot be checked: Too many" in db.runner.checks.output

        try:
            await until(starved)
            db.runner.checks.output = ""
            await until(starved)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            for fd in held:
                os.close(fd)
        await until(lambda: "cannot be checked" not in db.runner.checks.output)
        assert (db.app.phase, db.status().health) == (Phase.RUNNING, Health.HEALTHY)
        assert len([line for line in ground.lines if "cannot be checked" in line]) == 1

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        asked = {"command": ["/bin/true"], "tcp": address}[way]
        health = {way: asked, "interval": "20ms", "failures": 1}
        play(tmp_path, shell("sleep 600", health=health, start={"ready": "health"}), scene)


def test_a_check_that_cannot_be_launched_says_nothing_of_the_application(tmp_path: Path) -> None:
    check, away = tmp_path / "check", tmp_path / "away"
    check.write_text("#!/bin/sh\n")
    check.chmod(0o755)
    why = f"its health cannot be checked: cannot execute '{check}': there is no such file"

    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        for _ in range(2):
            check.rename(away)
            await until(lambda: db.status().problem == why)
            db.runner.checks.output = ""
            await until(lambda: db.runner.checks.output == why)
            away.rename(check)
            await until(lambda: db.status().problem == "")
            await until(lambda: db.runner.checks.output == "")
        assert (db.app.phase, db.status().health) == (Phase.RUNNING, Health.HEALTHY)
        assert len([line for line in ground.lines if why in line]) == 2

    health = {"command": [str(check)], "interval": "20ms", "failures": 1}
    play(tmp_path, shell("sleep 600", health=health, start={"ready": "health"}), scene)


def test_what_runs_takes_no_more_account_and_no_more_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checks, and what ends it, have what it was launched with."""
    file, seen = tmp_path / "environment", tmp_path / "seen"
    file.write_text(f"SEEN={seen}\n")

    def gone(_: str) -> None:
        raise KeyError

    async def scene(_: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        with monkeypatch.context() as patch:
            patch.setattr(pwd, "getpwnam", gone)
            file.write_text("no variable\n")
            seen.unlink()
            await until(lambda: text(seen).count("check") >= 3)
            assert (db.status().health, db.status().problem) == (Health.HEALTHY, "")
            await stop(db)
        assert text(seen).split()[-2:] == ["ask", "clean"]

    health = {"command": sh("echo check >>$SEEN"), "interval": "20ms", "failures": 1}
    ends = {
        "command": sh("echo ask >>$SEEN; kill $CMAPPD_MAIN_PID"),
        "after": sh("echo clean >>$SEEN"),
    }
    keys = {"user": pwd.getpwuid(os.getuid()).pw_name, "environment_file": str(file)}
    apps = shell("exec sleep 600", health=health, stop=ends, start={"ready": "health"}, **keys)
    play(tmp_path, apps, scene)


def test_a_launch_looks_its_account_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory service may take its time, and nothing else is done meanwhile."""
    asked: list[str] = []
    look_up = pwd.getpwnam

    def noted(name: str) -> pwd.struct_passwd:
        asked.append(name)
        return look_up(name)

    async def scene(_: Ground, db: Supervisor) -> None:
        monkeypatch.setattr(pwd, "getpwnam", noted)
        assert isinstance(await start(db), Done)
        assert asked == [user]

    user = pwd.getpwuid(os.getuid()).pw_name
    play(tmp_path, shell("exec sleep 600", user=user, health={"watchdog": "1h"}), scene)


def test_an_http_check(tmp_path: Path) -> None:
    body = {"is": b"all is well"}

    async def scene(ground: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        assert db.runner.checks.output == "all is well"
        body["is"] = b"not today"
        await until(lambda: db.app.phase is Phase.FAILED)
        assert db.app.last is not None
        assert "answered 200 OK without the text 'well'" in db.app.last.detail

    def serve(connection: socket.socket) -> None:
        answer(page(body["is"]))(connection)

    with Service(serve) as service:
        health = {"http": service.url, "http_body": "well", "interval": "20ms", "failures": 1}
        play(tmp_path, shell("sleep 600", health=health, start={"ready": "health"}), scene)


def status_of(pid: int) -> dict[str, str]:
    """/proc/PID/status, by the names of its lines."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def running(db: Supervisor) -> int:
    answer = await start(db)
    assert isinstance(answer, Done), answer
    assert db.app.run is not None
    assert db.app.run.pid is not None
    return db.app.run.pid


def test_the_kernel_says_so_of_a_process(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("FROM_FILE=yes\n")
    keys = {"umask": "0027", "nice": 3, "no_new_privileges": True, "environment_file": str(file)}

    async def scene(_: Ground, db: Supervisor) -> None:
        pid = await running(db)
        # It runs as soon as what sets its privileges does, which becomes the shell by exec.
        await until(lambda: b"sleep\x00600" in Path(f"/proc/{pid}/cmdline").read_bytes())
        found = status_of(pid)
        assert (found["Umask"], found["NoNewPrivs"]) == ("0027", "1")
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.nice(0) + 3
        assert b"FROM_FILE=yes" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")

    play(tmp_path, shell("exec sleep 600", **keys), scene)


@pytest.mark.root
@pytest.mark.parametrize("chosen", [None, ["daemon", "7"]])
def test_the_kernel_says_so_of_its_groups(chosen: list[str] | None, tmp_path: Path) -> None:
    user = pwd.getpwnam("nobody")
    usual = os.getgrouplist(user.pw_name, user.pw_gid)
    wanted = usual if chosen is None else [grp.getgrnam("daemon").gr_gid, 7]
    keys = {} if chosen is None else {"supplementary_groups": chosen}

    async def scene(_: Ground, db: Supervisor) -> None:
        found = status_of(await running(db))
        assert found["Uid"].split() == [str(user.pw_uid)] * 4
        assert found["Gid"].split() == [str(user.pw_gid)] * 4
        assert set(map(int, found["Groups"].split())) == {*wanted}

    play(tmp_path, shell("exec sleep 600", user="nobody", **keys), scene)
