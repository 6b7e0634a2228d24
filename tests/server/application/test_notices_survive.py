"""Notifications, and a server that is killed or replaced: no lost word ends anybody."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmappd.core.messages import AppStatus, Ended
from cmappd.core.state import Cause
from tests.server.application.test_notices import Puppet
from tests.server.harness import Guest, wait_for
from tests.server.test_upgrade import upgrade

NOTIFY = {"ready": "notify", "timeout": "2s"}


@pytest.fixture
def puppet(tmp_path: Path) -> Iterator[Puppet]:
    made = Puppet(tmp_path)
    yield made
    made.close()


def guest_of(folder: Path, puppet: Puppet, **keys: Any) -> Guest:
    return Guest(folder, puppet.stanza(autostart=True, **keys))


def once(guest: Guest, **wanted: object) -> AppStatus:
    """The status of the application once these fields are so."""

    def so(status: AppStatus) -> bool:
        return all(getattr(status, name) == value for name, value in wanted.items())

    return guest.control().wait_app("db", so)


def test_the_same_socket_is_heard_and_the_watchdog_begins_anew(
    puppet: Puppet, tmp_path: Path
) -> None:
    health = {"watchdog": "2s"}
    with guest_of(tmp_path, puppet, start=NOTIFY, health=health).started() as guest:
        puppet.say("READY=1\nSTATUS=before")
        before = once(guest, phase="running", status_text="before")
        puppet.say("WATCHDOG=1")
        once(guest, health="healthy")
        guest.kill()
        # Refused to it: nobody is there, and it lives on.
        puppet.do("try_to_say('STATUS=lost')")
        guest.start()
        assert once(guest, announced="ready", status_text="").pid == before.pid
        puppet.say("WATCHDOG=1\nSTATUS=after")
        after = once(guest, status_text="after")
        assert (after.run, after.phase, after.health) == (before.run, "running", "healthy")
        manager = guest.manager()
        manager.claim("db", run=before.run)
        assert manager.hear(Ended).outcome.cause is Cause.UNHEALTHY  # it pings no more


def test_an_upgrade_loses_no_word(puppet: Puppet, tmp_path: Path) -> None:
    """Nothing is refused to it, which it would not survive."""
    start = {"ready": "notify", "timeout": "1h"}
    with guest_of(tmp_path, puppet, start=start).started() as guest:
        go = tmp_path / "go"
        puppet.do(
            f"while not os.path.exists({str(go)!r}): say('STATUS=loading'); time.sleep(0.001)"
        )
        once(guest, phase="starting", status_text="loading")
        done = upgrade(guest)
        assert done.returncode == 0, done.stderr
        assert once(guest, status_text="loading").phase == "starting"
        go.touch()
        puppet.say("READY=1")
        once(guest, phase="running")


def test_a_ready_that_nobody_heard_ends_nothing(puppet: Puppet, tmp_path: Path) -> None:
    with guest_of(tmp_path, puppet, start=NOTIFY).started() as guest:
        pid = once(guest, phase="starting").pid
        guest.kill()
        guest.start()
        assert once(guest, phase="starting").pid == pid
        assert once(guest, phase="running").pid == pid  # it has survived the timeout


def test_after_that_a_word_is_still_enough(puppet: Puppet, tmp_path: Path) -> None:
    start = {"ready": "notify", "timeout": "1h"}
    with guest_of(tmp_path, puppet, start=start).started() as guest:
        pid = once(guest, phase="starting").pid
        guest.kill()
        guest.start()
        puppet.say("READY=1")
        assert once(guest, phase="running").pid == pid


def test_and_so_is_a_check_that_passes(puppet: Puppet, tmp_path: Path) -> None:
    go = tmp_path / "go"
    start = {"ready": "notify", "timeout": "1h"}
    health = {"command": ["/usr/bin/test", "-e", str(go)], "interval": "100ms"}
    with guest_of(tmp_path, puppet, start=start, health=health).started() as guest:
        once(guest, phase="starting")
        guest.kill()
        guest.start()
        go.touch()
        once(guest, phase="running", health="healthy")


def test_without_its_socket_it_is_not_held_to_the_watchdog(puppet: Puppet, tmp_path: Path) -> None:
    health = {"watchdog": "300ms"}
    with guest_of(tmp_path, puppet, start={"ready": "0s"}, health=health).started() as guest:
        puppet.do("[(try_to_say('WATCHDOG=1'), time.sleep(0.05)) for _ in range(20)]")
        pid = once(guest, phase="running", health="healthy").pid
        assert pid is not None
        guest.kill()
        (tmp_path / "state-notify" / "db").unlink()
        guest.start()
        guest.wait_log("cannot hear its notifications")
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(AssertionError):
            wait_for(lambda: once(guest).phase != "running", seconds=1.0)
        os.kill(pid, signal.SIGCONT)


def test_a_main_process_that_took_over_is_the_one_that_is_taken_up(
    puppet: Puppet, tmp_path: Path
) -> None:
    with guest_of(tmp_path, puppet, start=NOTIFY).started() as guest:
        puppet.say("READY=1")
        first = once(guest, phase="running").pid
        puppet.do("hand_over()")
        second = guest.control().wait_app("db", lambda status: status.pid != first).pid
        assert second is not None
        guest.kill()
        puppet.do("os._exit(0)")
        guest.start()
        assert once(guest, phase="running").pid == second
        manager = guest.manager()
        manager.claim("db")
        os.kill(second, signal.SIGKILL)
        assert manager.hear(Ended).outcome.success is False
