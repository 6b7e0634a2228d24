"""How the last runs of an application ended is remembered, also across a crash."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cmappd.core.messages import Done, History, Past, Refused, Restart, Start, Stop
from cmappd.core.state import Cause, ExitStatus
from tests.server.harness import Client, Guest, shell, stanza, wait_for
from tests.server.test_survival import SLEEP, claimed, crash, running

CTL = "from cmappd.client.control import main; main()"


def past(admin: Client, app: str = "db") -> list[Past]:
    seq = admin.next()
    admin.send(History(seq, app))
    found = []
    while isinstance(reply := admin.answer(seq), Past):
        found.append(reply)
    assert isinstance(reply, Done), reply
    return found


def test_who_ended_which_run_and_how(tmp_path: Path) -> None:
    began = time.time()
    with Guest(tmp_path, SLEEP).started() as guest:
        runs = [running(guest).run]
        admin = guest.control()
        assert isinstance(admin.ask(Restart(admin.next(), "db")), Done)
        runs.append(running(guest).run)
        os.kill(running(guest).pid or 0, signal.SIGKILL)
        admin.wait_app("db", lambda status: status.phase == "failed")
        admin = crash(guest).control()
        manager = claimed(guest)
        runs.append(running(guest).run)
        assert isinstance(manager.ask(Stop(manager.next(), "db")), Done)
        admin = crash(guest).control()
        found = past(admin)
        assert [one.outcome.run for one in found] == runs
        assert [(one.outcome.cause, one.by) for one in found] == [
            (Cause.OPERATOR, f"uid {os.getuid()}"), (Cause.EXIT, ""), (Cause.MANAGER, "vmhost1"),
        ]  # fmt: skip
        assert found[1].outcome.status == ExitStatus(signal=9)
        times = [began, *(at for one in found for at in (one.started or 0, one.ended)), time.time()]
        assert times == sorted(times)
        words = [sys.executable, "-c", CTL, "--socket", str(guest.control_path), "history", "db"]
        lines = subprocess.check_output(words, text=True, timeout=30).splitlines()
        assert len(lines) == 3
        assert lines[2].endswith(
            "stopped as its manager asked, SIGTERM (signal 15) (asked by vmhost1)"
        )


def test_what_was_never_launched_has_no_start(tmp_path: Path) -> None:
    program = tmp_path / "db"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o700)
    web = stanza("web", "/bin/sleep", "600", requires=["db"])
    with Guest(tmp_path, stanza("db", str(program)) + web).started() as guest:
        admin = guest.control()
        assert isinstance(admin.ask(Start(admin.next(), "web")), Done)
        assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
        admin.wait_app("web", lambda status: status.phase == "stopped")
        program.unlink()
        assert isinstance(admin.ask(Start(admin.next(), "web")), Refused)
        first, second = past(admin, "web")
        assert first.started is not None
        assert (second.outcome.cause, second.started) == (Cause.NOT_STARTED, None)


def test_it_is_bounded_and_counts_restarts_by_the_guest(tmp_path: Path) -> None:
    restart = {"policy": "always", "delay": "0s", "limit": 24}
    with Guest(tmp_path, shell("db", "exit 3", restart=restart)).started() as guest:
        admin = guest.control()
        admin.send(Start(admin.next(), "db"))
        wait_for(lambda: admin.app("db").phase == "failed")
        found = past(admin)
        assert [one.outcome.run.rpartition(".")[2] for one in found] == [
            str(serial) for serial in range(6, 26)
        ]
        assert {one.outcome.status.code for one in found} == {3}
