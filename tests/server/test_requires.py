"""Applications that require each other, with a real server: what is started and stopped, and when.

The order of words in every case is walked in test_dependencies; here are the processes, the clock,
and a server that dies in between.
"""

import os
import signal
import time
from pathlib import Path

import pytest

from cmappd.core.messages import Done, Refused, Start, Stop
from cmappd.core.state import Cause, Health
from tests.server.harness import Client, Guest, alive, shell, stanza, wait_for

# Obeys SIGTERM as soon as there is a file "go".
RELUCTANT = (
    "trap 'while [ ! -e {go} ]; do sleep 0.05; done; exit 0' TERM; while :; do sleep 0.05; done"
)


def gated(name: str, gate: Path, **keys: object) -> str:
    """An application that is ready when the file is there."""
    start = {"ready": "health", **keys.pop("start", {})}  # type: ignore[dict-item]
    health = {"command": ["/usr/bin/test", "-e", str(gate)], "interval": "100ms"}
    return stanza(name, "/bin/sleep", "600", start=start, health=health, **keys)


def up(name: str, *requires: str, **keys: object) -> str:
    return stanza(name, "/bin/sleep", "600", requires=list(requires), **keys)


def reluctant(name: str, go: Path, *requires: str) -> str:
    stop = {"timeout": "60s"}
    return shell(name, RELUCTANT.format(go=go), requires=list(requires), stop=stop, autostart=True)


def wait_phase(client: Client, name: str, phase: str) -> int:
    """Its main process, when it is in that phase."""
    return client.wait_app(name, lambda status: status.phase == phase).pid or 0


def test_nothing_runs_until_it_is_ready_and_a_new_server_asks_again(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    apps = gated("db", gate) + up("web", "db", autostart=True)
    with Guest(tmp_path, apps, tls=False).started() as guest:
        before = guest.control().wait_app("web", lambda one: one.waits_for == "db (starting)")
        assert (before.phase, before.pid, before.requires) == ("waiting", None, ("db",))
        db = guest.control().app("db")
        guest.kill()
        guest.start()
        again = guest.control().wait_app("web", lambda one: one.waits_for == "db (starting)")
        assert (again.phase, again.run) == ("waiting", before.run)
        assert guest.control().app("db").pid == db.pid
        gate.touch()
        assert wait_phase(guest.control(), "web", "running")
        assert guest.control().app("web").run == before.run


def test_a_stop_waits_for_those_that_require_it_also_under_a_new_server(tmp_path: Path) -> None:
    go = tmp_path / "go"
    apps = up("db") + reluctant("web", go, "db")
    with Guest(tmp_path, apps, tls=False).started() as guest:
        control = guest.control()
        web, db = wait_phase(control, "web", "running"), control.app("db").pid
        assert db
        control.send(Stop(control.next(), "db"))
        stopping = control.wait_app("db", lambda one: one.waits_for == "the end of web")
        assert (stopping.phase, stopping.pid) == ("stopping", db)
        guest.kill()
        guest.start()
        control = guest.control()
        control.wait_app("db", lambda one: one.waits_for == "the end of web")
        assert alive(web)
        assert alive(db)
        go.touch()
        wait_phase(control, "db", "stopped")
        ended = control.app("web").last
        assert ended is not None
        assert ended.cause is Cause.REQUIRED
        assert ended.detail == "'db' was stopped in the guest by its administrator"
        log = guest.log()
        told = "db: stopping in the guest by its administrator (run"
        assert log.index("web: stopped") < log.index(told)


def test_a_kill_waits_for_nobody(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Guest(tmp_path, up("db") + reluctant("web", go, "db"), tls=False).started() as guest:
        control = guest.control()
        web = wait_phase(control, "web", "running")
        assert isinstance(control.ask(Stop(control.next(), "db", kill=True)), Done)
        assert alive(web)
        assert control.app("web").phase == "stopping"
        go.touch()
        wait_phase(control, "web", "stopped")


def test_a_lease_waits_for_nobody(tmp_path: Path) -> None:
    go = tmp_path / "go"
    rule = {"on_lost": "stop", "lease": "5s"}
    apps = up("db", manager=rule) + reluctant("web", go, "db")
    with Guest(tmp_path, apps).started() as guest:
        control = guest.control()
        web = wait_phase(control, "web", "running")
        manager = guest.manager()
        manager.claim("db")
        heard = time.monotonic()
        manager.close()
        ended = control.wait_app("db", lambda one: one.phase == "stopped", 20).last
        assert ended is not None
        assert ended.cause is Cause.LEASE
        assert time.monotonic() - heard < 5 + 5 + 5  # the lease, stop.timeout, and a slow machine
        assert alive(web)
        go.touch()
        last = control.wait_app("web", lambda one: one.phase == "stopped").last
        assert last is not None
        assert last.detail == "'db' was stopped because no manager was heard for its lease"


def test_a_failure_and_a_restart_leave_others_alone(tmp_path: Path) -> None:
    restart = {"policy": "on-failure", "delay": "0s"}
    apps = up("db", restart=restart) + up("web", "db", autostart=True)
    with Guest(tmp_path, apps, tls=False).started() as guest:
        control = guest.control()
        web, db = wait_phase(control, "web", "running"), control.app("db").pid
        assert db
        os.kill(db, signal.SIGKILL)
        control.wait_app("db", lambda one: one.phase == "running" and one.pid != db)
        assert control.app("web").pid == web


@pytest.mark.parametrize(
    ("db", "detail"),
    [
        (
            shell("db", "exit 3", start={"ready": "10s"}),
            "'db', which it requires, ended by itself, exit code 3",
        ),
        (
            gated("db", Path("/nowhere"), start={"timeout": "10m"}),
            "waited 500ms for db (starting)",
        ),
    ],
)
def test_a_start_that_cannot_be_is_told_why(tmp_path: Path, db: str, detail: str) -> None:
    web = up("web", "db", start={"timeout": "500ms"}, restart={"policy": "always"})
    with Guest(tmp_path, db + web, tls=False).started() as guest:
        control = guest.control()
        reply = control.ask(Start(control.next(), "web"))
        assert isinstance(reply, Refused)
        assert (reply.reason, reply.text) == ("not-started", f"web could not be started: {detail}")
        assert control.app("web").phase == "failed"


def test_many_that_require_one_start_with_it_and_end_before_it(tmp_path: Path) -> None:
    gate, ends = tmp_path / "gate", tmp_path / "ends"
    script = "trap 'echo $CMAPPD_APP >>{ends}; exit 0' TERM; while :; do sleep 0.05; done"
    names = [f"web{number:02}" for number in range(20)]
    say = script.format(ends=ends)
    apps = gated("db", gate) + shell("mid", say, requires=["db"])
    apps += "".join(shell(name, say, requires=["mid"], autostart=True) for name in names)
    with Guest(tmp_path, apps, tls=False).started() as guest:
        control = guest.control()
        wait_for(lambda: all(control.app(name).phase == "waiting" for name in names))
        assert control.app("db").health is Health.UNKNOWN
        gate.touch()
        for name in names:
            wait_phase(control, name, "running")
        assert guest.log().count("db: starting (") == 1
        assert guest.log().count("mid: starting (") == 1
        control.close()
        assert guest.stop() == 0
        *first, last = ends.read_text().split()
        assert (sorted(first), last) == (names, "mid")
        log = guest.log()
        told = "db: stopping because cmappserver was told to end (run"
        assert log.index("mid: stopped") < log.index(told)


def test_an_edit_that_closes_a_circle_is_shown_and_changes_nothing(tmp_path: Path) -> None:
    apps = up("db") + up("web", "db", autostart=True)
    with Guest(tmp_path, apps, tls=False).started() as guest:
        control = guest.control()
        web = wait_phase(control, "web", "running")
        guest.write(up("db", "web") + up("web", "db", autostart=True))
        db = control.wait_app("db", lambda one: one.problem)
        assert db.problem.endswith("it requires itself: db requires web requires db")
        assert control.app("web").problem.endswith("web requires db requires web")
        assert (control.app("web").pid, db.phase, db.requires) == (web, "running", ())
        guest.write(apps)
        control.wait_app("db", lambda one: not one.problem)
        assert control.app("web").pid == web
