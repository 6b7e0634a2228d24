"""What users of supervisord complain of, and must not be so here."""

import time
from pathlib import Path

from cmappd.core.messages import Done, Restart, Stop
from tests.server.harness import Guest, shell, stanza
from tests.server.test_survival import SLEEP, crash, running


def test_a_stopped_application_does_not_start_again_with_the_server(tmp_path: Path) -> None:
    """Although it has ``autostart``: after a crash, and after an orderly end."""
    with Guest(tmp_path, SLEEP).started() as guest:
        running(guest)
        admin = guest.control()
        assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
        crash(guest)
        assert guest.control().app("db").phase == "stopped"
        assert guest.stop() == 0
        guest.start()
        assert guest.control().app("db").phase == "stopped"
        assert guest.app_pids() == []


def test_a_restart_that_takes_its_time_does_not_hang_the_control_socket(tmp_path: Path) -> None:
    stubborn = shell(
        "db", 'trap "" TERM; echo deaf; while :; do sleep 0.05; done', autostart=True,
        stop={"timeout": "1h"},
    )  # fmt: skip
    with Guest(tmp_path, stubborn + stanza("web", "/bin/sleep", "600")).started() as guest:
        running(guest)
        admin = guest.control()
        restart = Restart(admin.next(), "db")
        admin.send(restart)
        other = guest.control()
        other.wait_app("db", lambda status: status.phase == "stopping")
        began = time.monotonic()
        for _ in range(20):
            assert {*other.statuses()} == {"db", "web"}
            assert {*admin.statuses()} == {"db", "web"}  # on the same connection, too
        assert isinstance(other.ask(Restart(other.next(), "web")), Done)
        assert time.monotonic() - began < 5.0
        other.send(Stop(other.next(), "db", kill=True))
        other.wait_app("db", lambda status: status.phase == "stopped")
