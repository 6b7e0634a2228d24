"""The shipped units, run by a real systemd."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installed.machine import SYSTEMD, Machine, machine
from tests.ports import free_port
from tests.server.harness import alive, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not SYSTEMD.exists(), reason="needs systemd"),
    pytest.mark.skipif(shutil.which("nsenter") is None, reason="needs nsenter of util-linux"),
    pytest.mark.timeout(180, func_only=True),  # the installation has a limit of its own
]

GUEST = """
[server]
listen = ["127.0.0.1:{port}"]
[tls]
certificate = "pki/guest1.pem"
key = "pki/guest1.key"
ca = "pki/ca.pem"
[managers.vmhost1]
apps = ["*"]
[apps.db]
command = ["/bin/sleep", "600"]
start = {{ ready = "0s" }}
"""
HOST = """
[guests.guest1]
address = "127.0.0.1:{port}"
[tls]
certificate = "pki/vmhost1.pem"
key = "pki/vmhost1.key"
ca = "pki/ca.pem"
"""
SERVER = "cmappserver.service"
MANAGER = "cmappmgr@db.service"


@pytest.fixture
def guest(tmp_path: Path, destdir: Path) -> Iterator[Machine]:
    """A machine that is guest and host, set up as the README says; nothing runs yet."""
    with machine(tmp_path, destdir) as found:
        pki = ("--dir", "/etc/cmappd/pki")
        found.do("cmappctl", "pki", "init", *pki)
        found.do("cmappctl", "pki", "issue", "guest", "guest1", "--address", "127.0.0.1", *pki)
        found.do("cmappctl", "pki", "issue", "manager", "vmhost1", *pki)
        port = free_port()
        (found.config / "cmappserver.toml").write_text(GUEST.format(port=port))
        (found.config / "cmappmgr.toml").write_text(HOST.format(port=port))
        yield found


def main_pid(guest: Machine, unit: str = SERVER) -> int:
    """Of a service; in the machine's own count."""
    return int(guest.show(unit, "MainPID"))


def status(guest: Machine) -> dict[str, Any]:
    done = guest.run("cmappctl", "status", "--json", "db")
    return dict(json.loads(done.stdout)["apps"][0]) if done.returncode == 0 else {"phase": None}


def running(guest: Machine) -> int:
    """The pid of the application, once it runs."""
    wait_for(lambda: status(guest)["phase"] == "running", 60)
    return int(status(guest)["pid"])


def kill(guest: Machine, signum: int, pid: int) -> None:
    guest.do("/bin/kill", f"-{signum}", str(pid))


def test_a_killed_server_comes_back_and_its_applications_never_left(guest: Machine) -> None:
    guest.do("systemctl", "start", SERVER)
    guest.do("cmappctl", "start", "db")
    before, app = main_pid(guest), running(guest)
    for _ in range(6):  # more often than systemd lets other services
        kill(guest, signal.SIGKILL, before)
        wait_for(lambda: main_pid(guest) not in (0, before))  # noqa: B023
        before = main_pid(guest)
        assert running(guest) == app
    guest.do("systemctl", "stop", SERVER)
    assert guest.run("/bin/kill", "-0", str(app)).returncode != 0
    assert guest.show(SERVER, "Result") == "success"


def test_a_server_that_hangs_is_replaced(guest: Machine) -> None:
    guest.drop_in(SERVER, """
        [Service]
        WatchdogSec=3s
        """)  # fmt: skip
    guest.do("systemctl", "start", SERVER)
    guest.do("cmappctl", "start", "db")
    before, app = main_pid(guest), running(guest)
    kill(guest, signal.SIGSTOP, before)
    wait_for(lambda: main_pid(guest) not in (0, before), 60)
    assert running(guest) == app
    assert "Fatal Python error: Aborted" in guest.said()


def test_a_server_that_cannot_even_abort_is_not_waited_for_as_a_stop_is(guest: Machine) -> None:
    """Another program in its place: cmappserver dies of SIGABRT as long as the kernel lets it."""
    guest.drop_in(SERVER, """
        [Service]
        WatchdogSec=2s
        NotifyAccess=all
        ExecStart=
        ExecStart=/bin/sh -c 'trap "" ABRT; systemd-notify --ready; exec sleep 6000'
        """)  # fmt: skip
    guest.do("systemctl", "start", SERVER)
    before = main_pid(guest)
    wait_for(lambda: main_pid(guest) not in (0, before), 120)


def test_what_runs_after_its_end_runs_in_its_cgroup_in_whatever_slice_that_is(
    guest: Machine,
) -> None:
    guest.drop_in(SERVER, """
        [Service]
        Slice=guests.slice
        ExecStopPost=/bin/sh -c 'cat /proc/self/cgroup >/run/where'
        """)  # fmt: skip
    guest.do("systemctl", "start", SERVER)
    kill(guest, signal.SIGKILL, main_pid(guest))
    where = guest.folder / "run/where"
    found = wait_for(lambda: where.exists() and where.read_text())
    assert "0::/guests.slice/cmappserver.service/.control" in str(found).splitlines()


def test_systemd_has_no_objections_to_the_units(guest: Machine) -> None:
    folder = guest.folder / "units"
    for unit in (SERVER, MANAGER):
        done = guest.run("systemd-analyze", "verify", "--man=no", f"{folder}/{unit}")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_configuration_that_cannot_be_used_is_not_tried_again(guest: Machine) -> None:
    (guest.config / "cmappserver.toml").write_text("[server\n")
    assert guest.run("systemctl", "start", SERVER).returncode != 0
    assert guest.show(SERVER, "ActiveState") == "failed"
    assert guest.show(SERVER, "ExecMainStatus") == "78"
    assert guest.show(SERVER, "NRestarts") == "0"
    assert "cmappserver.toml:1: cannot read this as TOML" in guest.said()


def test_reload_tells_what_is_wrong(guest: Machine) -> None:
    guest.do("systemctl", "start", SERVER)
    guest.do("systemctl", "reload", SERVER)
    path = guest.config / "cmappserver.toml"
    path.write_text(path.read_text() + "spelling = 1\n")
    assert guest.run("systemctl", "reload", SERVER).returncode != 0
    assert "apps.db.spelling: unknown key" in guest.said()
    assert guest.show(SERVER, "ActiveState") == "active"


def test_each_run_has_a_cgroup_below_that_of_the_service(guest: Machine) -> None:
    guest.do("systemctl", "start", SERVER)
    guest.do("cmappctl", "start", "db")
    found = guest.do("cat", f"/proc/{running(guest)}/cgroup")
    assert "0::/system.slice/cmappserver.service/cmappd-" in found
    assert status(guest)["confined"]


def test_an_application_is_followed_from_the_host(guest: Machine) -> None:
    guest.do("systemctl", "start", SERVER)
    guest.do("systemctl", "start", MANAGER)
    kill(guest, signal.SIGKILL, running(guest))
    wait_for(lambda: guest.show(MANAGER, "ActiveState") == "failed", 60)
    assert guest.show(MANAGER, "ExecMainStatus") == "137"
    guest.do("systemctl", "start", MANAGER)
    app = running(guest)
    guest.do("systemctl", "stop", MANAGER)
    assert guest.run("/bin/kill", "-0", str(app)).returncode != 0
    assert guest.show(MANAGER, "Result") == "success"


def test_nothing_of_the_machine_is_left(tmp_path: Path, destdir: Path) -> None:
    with machine(tmp_path, destdir) as found:
        assert alive(found.init)
    assert not alive(found.init)
