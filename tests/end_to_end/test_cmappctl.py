"""cmappctl, the real one, with a real server and without."""

import json
import os
import signal
import subprocess
from pathlib import Path

from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import PATIENCE, PROGRAMS, wait_for


def ctl(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [PROGRAMS / "cmappctl", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_status_table(scene: Scene) -> None:
    guest = scene.guest
    guest.define("db", "/bin/sleep", "600", description="Orders database")
    guest.define("web", "/bin/sleep", "600", restart={"policy": "always"})
    guest.define("bad", "/bin/sleep", "600", comand=[])
    guest.start()
    scene.manager("db").wait_said("running")
    done = guest.ctl("status")
    assert done.returncode == 0
    head, titles, bad, db, web = done.stdout.splitlines()
    assert head.endswith("3 applications")
    assert titles.split() == [
        "NAME", "STATE", "HEALTH", "PID", "SINCE", "OWNER", "RESTARTS", "NOTE",
    ]  # fmt: skip
    assert "unknown key: did you mean 'command'?" in bad
    assert db.split()[:4] == ["db", "running", "-", str(guest.pid_of("db"))]
    assert db.split()[5] == "vmhost1"
    assert web.split() == ["web", "stopped", "-", "-", web.split()[4], "-", "0/3"]
    assert "description: Orders database" in guest.ctl("status", "-v", "db").stdout


def test_the_status_as_json(scene: Scene) -> None:
    scene.guest.define("db", "/bin/sleep", "600")
    scene.guest.start()
    whole = json.loads(scene.guest.ctl("status", "--json").stdout)
    assert {"guest", "software", "boot_id", "epoch", "problems", "apps"} <= whole.keys()
    (status,) = whole["apps"]
    assert (status["app"], status["phase"], status["goal"]) == ("db", "stopped", "down")
    assert status["pid"] is None


def test_start_restart_and_stop_wait_for_it(scene: Scene) -> None:
    guest = scene.guest
    guest.define("db", "/bin/sleep", "600")
    guest.start()
    done = guest.ctl("start", "db")
    first = guest.pid_of("db")
    assert (done.returncode, done.stdout) == (0, f"db is running, pid {first}\n")
    done = guest.ctl("restart", "db")
    second = guest.pid_of("db")
    assert (done.returncode, done.stdout) == (0, f"db is running, pid {second}\n")
    assert guest.pids() == [second] != [first]
    done = guest.ctl("stop", "db")
    assert (done.returncode, done.stdout) == (0, "db is stopped\n")
    assert not guest.pids()
    assert guest.ctl("stop", "db").returncode == 0


def test_a_start_that_fails_says_why(scene: Scene) -> None:
    scene.guest.define("db", "/no/such/program")
    scene.guest.define("web", "/bin/sleep", "600")
    scene.guest.start()
    done = scene.guest.ctl("start", "db", "web")
    assert done.returncode == 1
    assert "cannot execute '/no/such/program': there is no such file" in done.stderr
    assert done.stdout.startswith("web is running")


def test_reload_waits_and_tells_the_outcome(scene: Scene) -> None:
    guest = scene.guest
    guest.define("db", "/bin/sleep", "600")
    guest.start()
    guest.define("web", "/bin/sleep", "600")
    guest.write()
    # The server may have noticed the edit by itself before it is asked.
    assert "added: web\n" in guest.ctl("reload").stdout
    assert guest.status("web")["phase"] == "stopped"
    guest.define("db", "/bin/sleep", "600", healt={"command": ["/bin/true"]})
    guest.write()
    done = guest.ctl("reload")
    assert done.returncode == 1
    assert "cmappserver.toml:" in done.stderr
    assert "apps.db.healt: unknown key: did you mean 'health'?" in done.stderr
    assert "healt" in guest.status("db")["problem"]


def test_logs(scene: Scene) -> None:
    guest = scene.guest
    guest.shell("db", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i; done; exec sleep 600")
    guest.start()
    guest.ctl("start", "db")
    scene.manager("db").wait_said("running")
    wait_for(lambda: "line 12" in guest.app_said("db"))
    lines = [f"line {number}\n" for number in range(1, 13)]
    assert guest.ctl("logs", "db").stdout == "".join(lines[-10:])
    assert guest.ctl("logs", "-n", "2", "db").stdout == "line 11\nline 12\n"
    assert guest.ctl("logs", "-n", "99", "db").stdout == "".join(lines)
    done = guest.ctl("logs", "web")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no application 'web'" in done.stderr


def test_check_finds_mistakes_without_a_server(scene: Scene) -> None:
    scene.guest.define("db", "/bin/sleep", "600")
    scene.guest.write()
    done = ctl("check", str(scene.guest.config))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].endswith(": ok, 1 application")
    scene.guest.define("web", "sleep", "600")
    scene.guest.write()
    done = ctl("check", str(scene.guest.config))
    assert done.returncode == 1
    assert "apps.web.command: must begin with the absolute path of a program" in done.stderr


def test_version_of_both_programs(scene: Scene) -> None:
    scene.guest.start()
    done = scene.guest.ctl("version")
    assert done.returncode == 0
    mine, other = done.stdout.splitlines()
    assert mine.partition(" ")[2] == other.partition(" ")[2]


def test_without_a_server(tmp_path: Path) -> None:
    missing = str(tmp_path / "control.sock")
    for words in (["status"], ["start", "db"], ["reload"], ["logs", "db"]):
        done = ctl("--socket", missing, *words)
        assert (done.returncode, done.stdout) == (4, "")
        assert f"cannot reach cmappserver at {missing}: it is not running" in done.stderr
    assert ctl("--socket", missing, "version").returncode == 0


def test_a_server_that_stands_still_is_not_waited_for_for_ever(scene: Scene) -> None:
    server = scene.guest.start()
    server.signal(signal.SIGSTOP)
    assert scene.guest.ctl("status").returncode == 4


def test_wrong_arguments() -> None:
    assert ctl().returncode == 2
    assert ctl("begin", "db").returncode == 2
    assert ctl("start").returncode == 2
    assert ctl("stop", "db", "--timeout", "soon").returncode == 2


def test_the_pki_serves_both_ends(scene: Scene, tmp_path: Path) -> None:
    """Certificates made by cmappctl, for a guest and a manager that then talk by them."""
    pki = tmp_path / "made"
    assert ctl("pki", "init", "--dir", str(pki)).returncode == 0
    issue = ("pki", "issue")
    address = ("--address", "127.0.0.1")
    assert ctl(*issue, "guest", "guest1", *address, "--dir", str(pki)).returncode == 0
    assert ctl(*issue, "manager", "vmhost1", "--dir", str(pki)).returncode == 0
    assert {path.name for path in pki.iterdir() if path.stat().st_mode & 0o077 == 0} == {
        "ca.key", "guest1.key", "vmhost1.key",
    }  # fmt: skip
    again = ctl(*issue, "manager", "vmhost1", "--dir", str(pki))
    assert again.returncode == 1
    assert "it exists" in again.stderr
    scene.guest.identity = scene.guest.identity._replace(
        certificate=str(pki / "guest1.pem"), key=str(pki / "guest1.key")
    )
    scene.guest.tls["ca"] = str(pki / "ca.pem")
    scene.guest.shell("db", "exit 7")
    scene.guest.start()
    mine = scene.identity._replace(
        certificate=str(pki / "vmhost1.pem"), key=str(pki / "vmhost1.key")
    )
    manager = scene.manager("db", config=scene.host(mine, ca=str(pki / "ca.pem")))
    assert manager.wait() == 7


def test_what_is_piped_to_nobody_is_no_error(scene: Scene) -> None:
    scene.guest.start()
    reader, writer = os.pipe()
    os.close(reader)
    socket = scene.guest.state / "control.sock"
    done = subprocess.run(
        [PROGRAMS / "cmappctl", "--socket", socket, "status"],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_start_that_fails_says_why_and_where_to_look(scene: Scene) -> None:
    scene.guest.define(
        "db",
        "/bin/sleep",
        "600",
        start={"ready": "health", "timeout": "1s"},
        health={"command": ["/bin/sh", "-c", "echo no route; exit 1"], "interval": "200ms"},
    )
    scene.guest.start()
    done = scene.guest.ctl("start", "db")
    assert done.returncode == 1
    first, *more = done.stderr.splitlines()
    assert first.startswith("cmappctl: cannot start db: db did not become ready in time")
    assert more == ["cmappctl: last health output: no route", "cmappctl: see cmappctl logs db"]
