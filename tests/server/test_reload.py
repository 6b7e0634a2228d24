"""Hot reload: real files, the real watcher, the real program."""

import asyncio
import os
import re
import signal
import socket
import ssl
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import cast

import pytest

from cmappd.core.config import Config
from cmappd.core.messages import Done, Ended, Refused, Reload, Restart, Start, State, Stop
from cmappd.core.state import Cause, Phase
from cmappd.server.load import Loader
from cmappd.server.reload import Reloader, Service
from tests.ports import free_port
from tests.server.ground import ground, until
from tests.server.harness import (
    Client,
    Guest,
    alive,
    refusal,
    replace_file,
    stanza,
    wait_for,
)

SLEEP = stanza("db", "/bin/sleep", "600")
OTHER = stanza("web", "/bin/sleep", "600")


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    with Guest(tmp_path, SLEEP).started() as made:
        yield made


def start(admin: Client, app: str = "db") -> int:
    """Start an application; its pid."""
    reply = admin.ask(Start(admin.next(), app))
    assert isinstance(reply, Done), reply
    pid = admin.app(app).pid
    assert pid is not None
    return pid


def test_live_keys_apply_at_once_and_touch_nothing(guest: Guest) -> None:
    admin = guest.control()
    pid = start(admin)
    guest.write(stanza("db", "/bin/sleep", "600", description="new"))
    status = admin.wait_app("db", lambda status: status.description == "new")
    assert (status.pid, status.restart_pending) == (pid, False)
    guest.wait_log(r"configuration reloaded: changed: db \(description\)")


def test_who_asks_late_is_told_what_the_watcher_has_seen_first(guest: Guest) -> None:
    admin = guest.control()
    before = admin.ask(Reload(admin.next()))
    assert isinstance(before, Done)
    assert before.text == "nothing has changed"
    guest.write(SLEEP + OTHER)
    guest.wait_log("configuration reloaded: added: web")
    after = admin.ask(Reload(admin.next()))
    assert isinstance(after, Done)
    assert re.fullmatch(r"nothing has changed now; at \d\d:\d\d:\d\d: added: web", after.text)


def test_so_is_who_is_told_of_a_problem_as_well(guest: Guest) -> None:
    admin = guest.control()
    guest.write(SLEEP + OTHER + "[apps.bad]\n")
    guest.wait_log("configuration reloaded: added: web")
    reply = admin.ask(Reload(admin.next()))
    assert isinstance(reply, Refused)
    assert "apps.bad.command: is required" in reply.text
    last = reply.text.splitlines()[-1]
    said = r"otherwise: nothing has changed now; at \d\d:\d\d:\d\d: added: web"
    assert re.fullmatch(said, last)


def test_what_is_read_at_the_start_only_is_said_to_be(guest: Guest) -> None:
    guest.server = 'log_format = "json"'
    guest.write(SLEEP)
    guest.wait_log(
        r"reloaded: \[server\] changed; log_format: not before cmappserver is restarted\n"
    )


def test_a_watchdog_is_told_to_it_at_its_next_launch(guest: Guest) -> None:
    admin = guest.control()
    pid = start(admin)
    guest.write(stanza("db", "/bin/sleep", "600", health={"watchdog": "1h"}))
    assert admin.wait_app("db", lambda status: status.restart_pending).pid == pid
    guest.wait_log(r"changed: db \(health; at its next launch: health.watchdog\)")


def test_a_watchdog_that_is_removed_leaves_nothing_pending(guest: Guest) -> None:
    watched = stanza("db", "/bin/sleep", "600", health={"watchdog": "1h"})
    guest.write(watched)
    guest.wait_log("configuration reloaded")
    admin = guest.control()
    pid = start(admin)
    for text, description in ((SLEEP, "1"), (watched, "2"), (SLEEP, "3")):
        guest.write(text.replace("[apps.db]", f"[apps.db]\ndescription = '{description}'"))
        status = admin.wait_app("db", lambda status, d=description: status.description == d)  # type: ignore[misc]
        assert (status.pid, status.restart_pending) == (pid, False)


def test_a_health_check_that_is_added_is_run(guest: Guest, tmp_path: Path) -> None:
    admin = guest.control()
    pid = start(admin)
    health = {"command": ["/bin/true"], "interval": "50ms"}
    guest.write(stanza("db", "/bin/sleep", "600", health=health))
    assert admin.wait_app("db", lambda status: status.health == "healthy").pid == pid


def test_launch_keys_wait_for_the_next_launch(guest: Guest) -> None:
    admin = guest.control()
    pid = start(admin)
    guest.write(stanza("db", "/bin/sleep", "601"))
    assert admin.wait_app("db", lambda status: status.restart_pending).pid == pid
    assert isinstance(admin.ask(Restart(admin.next(), "db")), Done)
    status = admin.app("db")
    assert status.pid is not None
    assert not status.restart_pending
    # The kernel shows it a moment after the exec has succeeded.
    command = wait_for(Path(f"/proc/{status.pid}/cmdline").read_bytes)
    assert command == b"/bin/sleep\x00601\x00"


def test_launch_keys_taken_back_leave_nothing_pending(guest: Guest) -> None:
    admin = guest.control()
    pid = start(admin)
    guest.write(stanza("db", "/bin/sleep", "601"))
    admin.wait_app("db", lambda status: status.restart_pending)
    guest.write(SLEEP)
    assert admin.wait_app("db", lambda status: not status.restart_pending).pid == pid


def test_reload_restart_applies_launch_keys_at_once_and_keeps_the_owner(guest: Guest) -> None:
    manager = guest.manager()
    manager.claim("db")
    pid = manager.hear_state(lambda status: status.phase == "running").status.pid
    guest.write(stanza("db", "/bin/sleep", "601", reload="restart"))
    after = manager.hear_state(lambda s: s.phase == "running" and s.pid != pid).status
    assert after.owner == "vmhost1"
    assert not after.restart_pending
    assert not [reply for reply in manager.unasked if isinstance(reply, Ended)]


def line_of(path: Path, start: str) -> int:
    """The line of a file that begins so."""
    lines = path.read_text().splitlines()
    return next(at for at, line in enumerate(lines, 1) if line.startswith(start))


@pytest.mark.parametrize("reload", ["restart", "pending"])
@pytest.mark.parametrize(
    ("key", "keys", "said"),
    [
        ("user", {"user": "wwwdata"}, "cannot run as user 'wwwdata': there is no such user"),
        ("directory", {"directory": "none"}, "there is no such directory"),
        ("environment_file", {"environment_file": "none"}, "No such file or directory"),
        ("stop.after", {"stop": {"after": ["/none"]}}, "cannot execute '/none'"),
    ],
)
def test_what_the_machine_lacks_for_an_edit_touches_nothing_that_runs(
    guest: Guest, reload: str, key: str, keys: dict[str, object], said: str
) -> None:
    admin = guest.control()
    pid = start(admin)
    guest.write(stanza("db", "/bin/sleep", "600", reload=reload, **keys))
    status = admin.wait_app("db", lambda status: status.problem)
    line = line_of(guest.config, key.rpartition(".")[2])
    assert f"{guest.config}:{line}: apps.db.{key}: " in status.problem
    assert said in status.problem
    assert (status.pid, status.restart_pending) == (pid, False)
    # A restart that is asked for is one of the last good definition.
    assert isinstance(admin.ask(Restart(admin.next(), "db")), Done)
    status = admin.app("db")
    assert status.phase == "running"
    assert status.pid != pid
    guest.write(SLEEP)
    assert admin.wait_app("db", lambda now: not now.problem).pid == status.pid


def test_an_edit_is_put_in_force_when_what_it_names_comes(guest: Guest, tmp_path: Path) -> None:
    admin = guest.control()
    pid = start(admin)
    program = tmp_path / "program"
    guest.write(stanza("db", str(program), reload="restart"))
    assert "is missing, or not executable" in admin.wait_app("db", lambda s: s.problem).problem
    program.write_text("#!/bin/sh\nexec sleep 602\n")
    admin.ask(Reload(admin.next()))
    assert admin.app("db").pid == pid  # it is there, and cannot be executed
    program.chmod(0o700)
    status = admin.wait_app("db", lambda s: s.phase == "running" and s.pid != pid)
    assert not status.problem


def test_what_a_killed_server_has_held_back_is_held_back_by_the_next_one(guest: Guest) -> None:
    admin = guest.control()
    pid = start(admin)
    guest.write(stanza("db", "/none", reload="restart"))
    admin.wait_app("db", lambda status: status.problem)
    guest.kill()
    guest.start()
    admin = guest.control()
    assert "cannot execute '/none'" in admin.app("db").problem
    assert admin.app("db").pid == pid
    assert isinstance(admin.ask(Restart(admin.next(), "db")), Done)


def test_what_could_not_be_launched_before_either_is_defined_as_it_is_written(
    guest: Guest,
) -> None:
    guest.write(stanza("web", "/none/web", "1"))
    admin = guest.control()
    wait_for(lambda: "web" in admin.statuses())
    guest.write(stanza("web", "/none/web", "2", description="new"))
    status = admin.wait_app("web", lambda status: status.description == "new")
    assert not status.problem
    assert refusal(admin.ask(Start(admin.next(), "web"))) == "not-started"


def test_a_bad_stanza_is_quarantined_and_its_last_good_stays_in_force(guest: Guest) -> None:
    admin = guest.control()
    pid = start(admin)
    guest.write(SLEEP.replace("[apps.db.start]", 'usr = "x"\n[apps.db.start]') + OTHER)
    status = admin.wait_app("db", lambda status: status.problem)
    line = guest.config.read_text().splitlines().index('usr = "x"') + 1
    assert f"{guest.config}:{line}: apps.db.usr: unknown key: did you mean 'user'?" in (
        status.problem
    )
    assert status.pid == pid
    assert start(admin, "web")  # the others are not concerned
    guest.wait_log(rf"error configuration: {re.escape(str(guest.config))}:{line}: apps\.db\.usr")
    # The last good definition can be started again.
    assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
    start(admin)
    guest.write(SLEEP + OTHER)
    admin.wait_app("db", lambda status: not status.problem)
    guest.wait_log("all problems are mended")


def test_a_stanza_that_never_was_good_is_shown_and_cannot_be_claimed(guest: Guest) -> None:
    admin, manager = guest.control(), guest.manager()
    guest.write(SLEEP + '[apps.web]\ncommand = "/bin/sleep 600"\n')
    wait_for(lambda: "web" in admin.statuses())
    status = admin.app("web")
    assert status.phase is Phase.STOPPED
    assert "apps.web.command: must be an array of words" in status.problem
    reply = manager.claim("web")
    assert refusal(reply) == "not-started"


def test_a_file_that_is_no_toml_keeps_all_of_its_applications(guest: Guest) -> None:
    admin = guest.control()
    path = guest.include("more.toml", OTHER)
    wait_for(lambda: "web" in admin.statuses())
    pid = start(admin, "web")
    replace_file(path, OTHER + "\n[apps.broken\n")
    status = admin.wait_app("web", lambda status: status.problem)
    assert "cannot read this as TOML" in status.problem
    assert (status.pid, status.removed) == (pid, False)
    replace_file(path, OTHER)
    assert admin.wait_app("web", lambda status: not status.problem).pid == pid


def test_a_main_file_that_is_no_toml_changes_nothing(guest: Guest) -> None:
    admin = guest.control()
    pid = start(admin)
    guest.include("more.toml", OTHER)
    wait_for(lambda: "web" in admin.statuses())
    replace_file(guest.config, "[server\n")
    status = admin.wait_app("db", lambda status: status.problem)
    assert (status.pid, status.removed) == (pid, False)
    assert not admin.app("web").removed
    assert guest.manager().claim("db")  # also nothing about who may connect, and where


def move_away(config: Path) -> None:
    config.rename(config.with_name("moved"))


def let_others_write(config: Path) -> None:
    config.chmod(0o666)


def write_no_utf8(config: Path) -> None:
    aside = config.with_name("aside")
    aside.write_bytes(b"\xff\n")
    aside.replace(config)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (move_away, "No such file"),
        pytest.param(let_others_write, "others can write it", marks=pytest.mark.root),
        (write_no_utf8, "not UTF-8"),
    ],
)
def test_a_main_file_that_cannot_be_read_changes_nothing_beside_an_included_one(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    guest = Guest(tmp_path, SLEEP, server='on_shutdown = "keep"')
    guest.include("web.toml", OTHER)
    with guest.started():
        admin = guest.control()
        pids = start(admin), start(admin, "web")
        spoil(guest.config)
        guest.wait_log(f"error configuration: cannot .* {guest.config}: .*{said}")
        # The included files go on to be followed, and may not hold more than they may.
        guest.include("web.toml", stanza("web", "/bin/sleep", "600", description="new"))
        admin.wait_app("web", lambda status: status.description == "new")
        guest.include("web.toml", OTHER + '[server]\non_shutdown = "stop"\n')
        guest.wait_log(r"web.toml:\d+: server: belongs in the main file")
        assert guest.manager().app("db").pid == pids[0]  # the port is open, and grants hold
        assert guest.stop() == 0
        assert all(map(alive, pids))


def test_a_removed_application_runs_on_and_leaves_when_it_ends(guest: Guest) -> None:
    admin, manager = guest.control(), guest.manager()
    manager.claim("db")
    pid = manager.hear_state(lambda status: status.phase == "running").status.pid
    assert pid is not None
    guest.write("")
    assert manager.hear_state(lambda status: status.removed).status.pid == pid
    assert alive(pid)
    assert refusal(admin.ask(Restart(admin.next(), "db"), 5)) == "unknown-app"
    assert alive(pid)
    assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)
    ended = manager.hear(Ended)
    assert ended.outcome.cause is Cause.OPERATOR
    assert refusal(admin.ask(Start(admin.next(), "db"))) == "unknown-app"


def test_a_removed_application_that_is_stopped_is_gone_at_once(guest: Guest) -> None:
    admin = guest.control()
    guest.write("")
    wait_for(lambda: not admin.statuses())
    assert refusal(admin.ask(Start(admin.next(), "db"))) == "unknown-app"
    assert refusal(guest.manager().claim("db")) == "unknown-app"


def test_an_application_that_is_back_while_it_still_runs_is_as_before(guest: Guest) -> None:
    admin = guest.control()
    pid = start(admin)
    guest.write("")
    admin.wait_app("db", lambda status: status.removed)
    guest.write(SLEEP)
    status = admin.wait_app("db", lambda status: not status.removed)
    assert (status.pid, status.restart_pending) == (pid, False)
    assert isinstance(admin.ask(Restart(admin.next(), "db")), Done)


def test_files_come_and_go_in_the_include_directory(guest: Guest) -> None:
    admin = guest.control()
    path = guest.include("web.toml", OTHER)
    wait_for(lambda: "web" in admin.statuses())
    guest.include("notes.txt", "not TOML at all [")
    guest.include("cron.toml", stanza("cron", "/bin/sleep", "600", autostart=True))
    wait_for(lambda: "cron" in admin.statuses() and admin.app("cron").phase is Phase.RUNNING)
    path.unlink()
    wait_for(lambda: "web" not in admin.statuses())
    assert not guest.control().app("db").problem


def test_an_include_directory_that_vanishes_is_told(guest: Guest) -> None:
    guest.include("web.toml", OTHER)
    guest.wait_log("added: web")
    told = len(re.findall("matches nothing", guest.log()))
    (guest.folder / "apps.d").rename(guest.folder / "moved")
    guest.wait_log("removed: web")
    pattern = re.escape(f"warning include '{guest.folder}/apps.d/*.toml' matches nothing")
    guest.wait_log(pattern, times=told + 1)


def test_a_file_that_is_included_by_its_name_and_deleted_keeps_its_applications(
    tmp_path: Path,
) -> None:
    guest = Guest(tmp_path)
    web = tmp_path / "web.toml"
    replace_file(web, OTHER)
    replace_file(guest.config, guest.head().replace("apps.d/*.toml", "web.toml"))
    with guest.started():
        admin = guest.control()
        web.unlink()
        status = admin.wait_app("web", lambda status: status.problem)
        assert status.problem == f"cannot read {web}: No such file or directory"
        assert not status.removed


def test_a_file_that_is_deleted_and_made_anew_is_followed(guest: Guest) -> None:
    admin = guest.control()
    path = guest.include("web.toml", OTHER)
    wait_for(lambda: "web" in admin.statuses())
    path.unlink()
    wait_for(lambda: "web" not in admin.statuses())
    path.write_text(OTHER)
    wait_for(lambda: "web" in admin.statuses())
    with path.open("a") as file:  # and in place
        file.write(stanza("cron", "/bin/sleep", "600"))
    wait_for(lambda: "cron" in admin.statuses())


def test_an_include_directory_that_is_a_switched_link_is_followed(guest: Guest) -> None:
    admin = guest.control()
    folder = guest.folder
    (folder / "apps.d").rmdir()
    for name, text in (("one", OTHER), ("two", stanza("cron", "/bin/sleep", "600"))):
        (folder / name).mkdir(mode=0o700)
        (folder / name / "a.toml").write_text(text)
    (folder / "apps.d").symlink_to("one")
    wait_for(lambda: "web" in admin.statuses())
    (folder / "next").symlink_to("two")
    (folder / "next").replace(folder / "apps.d")
    wait_for(lambda: "cron" in admin.statuses() and "web" not in admin.statuses())


def test_a_burst_of_edits_ends_in_the_last_one(guest: Guest) -> None:
    admin = guest.control()
    pid = start(admin)
    for number in range(100):
        guest.write(stanza("db", "/bin/sleep", "600", description=f"edit {number}"))
    assert admin.wait_app("db", lambda status: status.description == "edit 99").pid == pid


def test_grants_apply_at_once(guest: Guest) -> None:
    admin, manager = guest.control(), guest.manager()
    guest.managers = '[managers.vmhost1]\napps = ["other"]\n'
    guest.write(SLEEP)
    guest.wait_log(r"\[managers\] changed")
    assert refusal(manager.claim("db")) == "denied"
    guest.managers = '[managers.vmhost1]\napps = ["db"]\n'
    guest.write(SLEEP)
    guest.wait_log(r"\[managers\] changed", times=2)
    assert isinstance(manager.claim("db"), State)
    assert admin.app("db").owner == "vmhost1"


def test_a_manager_that_may_not_drive_it_any_more_is_parted_from(guest: Guest) -> None:
    admin, manager = guest.control(), guest.manager()
    manager.claim("db")
    pid = admin.wait_app("db", lambda status: status.phase == "running").pid
    guest.managers = '[managers.vmhost1]\napps = ["other"]\n'
    guest.write(SLEEP)
    last = manager.wait_cut()[-1]
    assert isinstance(last, Refused)
    assert (last.seq, last.reason) == (0, "denied")
    parted = admin.wait_app("db", lambda status: status.owner_silent_for is not None)
    assert (parted.phase, parted.pid) == ("running", pid)


def test_reload_is_answered_with_what_has_changed(guest: Guest) -> None:
    admin = guest.control()
    reply = admin.ask(Reload(admin.next()))
    assert isinstance(reply, Done)
    guest.write(SLEEP + OTHER)
    reply = admin.ask(Reload(admin.next()))
    assert isinstance(reply, Done)
    assert "web" in admin.statuses()  # whoever was quicker, the watcher or we
    guest.write(SLEEP + OTHER + "[apps.bad]\n")
    reply = admin.ask(Reload(admin.next()))
    assert isinstance(reply, Refused)
    assert f"{guest.config}:" in reply.text
    assert "apps.bad.command: is required" in reply.text


def test_sighup_reloads(guest: Guest) -> None:
    admin = guest.control()
    guest.write(SLEEP + OTHER)
    guest.signal(signal.SIGHUP)
    wait_for(lambda: "web" in admin.statuses())


def test_a_replaced_certificate_is_used_by_new_connections_after_a_reload(guest: Guest) -> None:
    manager, admin = guest.manager(), guest.control()

    def serial() -> object:
        client = guest.manager("vmhost2")
        assert isinstance(client.socket, ssl.SSLSocket)
        return (client.socket.getpeercert() or {})["serialNumber"]

    before = serial()
    fresh = guest.authority.guest("guest1")
    for new, old in zip(fresh, guest.identity, strict=True):
        os.replace(new, old)
    reply = admin.ask(Reload(admin.next()))
    assert isinstance(reply, Done)
    assert reply.text == "[tls] certificates renewed"
    assert serial() != before
    reply = admin.ask(Reload(admin.next()))
    assert isinstance(reply, Done)
    assert reply.text.endswith(": [tls] certificates renewed")
    assert isinstance(manager.claim("db"), State)  # the old connection is not concerned


def test_a_broken_certificate_is_reported_and_the_last_good_one_stays_in_use(guest: Guest) -> None:
    admin = guest.control()
    Path(guest.identity.certificate).write_text("no certificate\n")
    reply = admin.ask(Reload(admin.next()))
    assert isinstance(reply, Refused)
    assert guest.identity.certificate in reply.text
    guest.manager()


def test_a_changed_listen_address_is_followed_and_links_stay(guest: Guest) -> None:
    manager, admin, old = guest.manager(), guest.control(), guest.port
    guest.port = free_port()
    guest.write(SLEEP)
    guest.wait_log(r"\[server\] changed")
    assert guest.manager("vmhost2").statuses()
    port, guest.port = guest.port, old
    with pytest.raises(ConnectionRefusedError):
        guest.raw()
    guest.port = port
    assert isinstance(manager.claim("db"), State)
    assert admin.app("db").owner == "vmhost1"


def test_an_address_that_cannot_be_had_is_reported(guest: Guest) -> None:
    admin = guest.control()
    for address, why in (("192.0.2.1:1", "cannot listen on 192.0.2.1:1"), ("a" * 64 + ":1", "a:1")):
        text = guest.head().replace("listen = [", f'listen = ["{address}", ')
        replace_file(guest.config, text + SLEEP)
        reply = admin.ask(Reload(admin.next()))
        assert isinstance(reply, Refused)
        assert why in reply.text
    guest.manager()


def test_an_address_that_comes_up_later_is_soon_served(tmp_path: Path) -> None:
    guest = Guest(tmp_path, SLEEP)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", guest.port))
        other.listen()
        with guest.started():
            said = f"cannot listen on 127.0.0.1:{guest.port}: "
            assert said in guest.control().ask_status().text
            guest.wait_log(f"error configuration: {said}")
            other.close()
            guest.wait_log(f"info listening on 127.0.0.1:{guest.port}\n")
            guest.wait_log("all problems are mended")
            assert guest.log().count(said) == 1
            guest.manager()


def test_managers_that_are_not_served_any_more_are_parted_from(guest: Guest) -> None:
    manager, admin = guest.manager(), guest.control()
    manager.claim("db")
    pid = admin.wait_app("db", lambda status: status.phase == "running").pid
    before = guest.config.read_text()
    head, _, rest = before.partition("[tls]\n")
    without = head + rest[rest.index("[managers") :]
    replace_file(guest.config, re.sub("listen = .*", "", without))
    manager.wait_cut()
    with pytest.raises(ConnectionRefusedError):
        guest.raw()
    guest.wait_log(r"managers are not served any more: all connections are ended \(1\)")
    replace_file(guest.config, before)
    guest.wait_log(f"listening on 127.0.0.1:{guest.port}", times=2)
    again = guest.manager(instance=manager.instance)
    answer = again.claim("db")
    assert isinstance(answer, State)
    assert answer.status.pid == pid


def test_the_directory_it_was_started_in_may_be_removed(tmp_path: Path) -> None:
    guest = Guest(tmp_path, SLEEP)
    guest.directory = tmp_path / "gone"
    guest.directory.mkdir()
    with guest.started():
        guest.directory.rmdir()
        guest.include("web.toml", OTHER)
        wait_for(lambda: "web" in guest.control().statuses())
        assert guest.control().ask_status().text == ""


def test_a_directory_that_cannot_be_listed_keeps_its_applications(guest: Guest) -> None:
    admin = guest.control()
    path = guest.include("web.toml", OTHER)
    wait_for(lambda: "web" in admin.statuses())
    pid = start(admin, "web")
    folder, aside = path.parent, path.parent.with_name("aside")
    folder.rename(aside)
    folder.symlink_to(folder)  # a link to itself: what root cannot list either
    reply = admin.ask(Reload(admin.next()))
    assert isinstance(reply, Refused)
    assert f"cannot list {folder}" in reply.text
    status = admin.app("web")
    assert (status.pid, status.removed) == (pid, False)
    folder.unlink()
    aside.rename(folder)
    assert admin.wait_app("web", lambda status: not status.problem).pid == pid


# In this process -----------------------------------------------------------------------


class Files:
    """A loader of what is in force already, or of a defect."""

    def __init__(self, config: Config, defect: Exception | None = None) -> None:
        self.config = config
        self.defect = defect

    def load(self, _up: Collection[str]) -> Config:
        if self.defect is not None:
            raise self.defect
        return self.config


def test_a_defect_in_a_reload_is_told_and_the_next_one_works(tmp_path: Path) -> None:
    async def scene() -> None:
        async with ground(tmp_path, SLEEP) as here:
            files = Files(here.registry.config, ZeroDivisionError("a defect"))
            reloader = Reloader(here.world, cast(Loader, files), here.registry)
            told: list[Done | Refused] = []
            reloader.ask(7, told.append)
            await until(lambda: told)
            text = "cannot reload: ZeroDivisionError('a defect')\notherwise: nothing has changed"
            assert told == [Refused(7, "usage", text)]
            assert any("Traceback" in line for line in here.lines)
            here.lines.clear()
            files.defect = None
            reloader.ask(8, told.append)
            await until(lambda: told[1:])
            assert told[1] == Done(8, "nothing has changed")

    asyncio.run(scene())


def test_one_at_a_time_serves(tmp_path: Path) -> None:
    """Two beside each other would both open what neither has opened yet."""
    serving = most = served = 0

    async def serve(_config: Config) -> Service:
        nonlocal serving, most, served
        serving += 1
        most = max(most, serving)
        for _ in range(20):  # as long as a name is resolved
            await asyncio.sleep(0)
        serving -= 1
        served += 1
        return Service([], renewed=False)

    async def scene() -> None:
        async with ground(tmp_path, SLEEP) as here:
            files = Files(here.registry.config)
            reloader = Reloader(here.world, cast(Loader, files), here.registry)
            reloader.serve = serve
            await asyncio.gather(*(one() for one in 3 * [reloader.begin, reloader.reload]))

    asyncio.run(scene())
    assert (most, served) == (1, 6)


def test_what_cannot_be_served_is_tried_again_with_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("cmappd.server.reload.time.monotonic", lambda: now)
    problems = ["cannot listen"]
    tried: list[float] = []

    async def serve(_config: Config) -> Service:
        tried.append(now - 1000)
        return Service(list(problems), renewed=False)

    async def scene() -> None:
        nonlocal now
        async with ground(tmp_path, SLEEP) as here:
            files = Files(here.registry.config)
            reloader = Reloader(here.world, cast(Loader, files), here.registry)
            reloader.serve = serve
            await reloader.begin()
            for _ in range(150):
                now += 2
                await reloader.retry()
            assert tried == [0, 2, 6, 14, 30, 62, 122, 182, 242]
            problems.clear()
            await reloader.begin()
            tried.clear()
            now += 1000
            await reloader.retry()
            assert tried == []
            assert len([line for line in here.lines if "cannot listen" in line]) == 1

    asyncio.run(scene())
