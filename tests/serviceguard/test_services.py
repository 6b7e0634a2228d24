"""Applications as services of a package: cmappmgr under the rules of cmrunserv."""

import os
import signal
import subprocess

import pytest

from tests.end_to_end.causes.people import STUBBORN
from tests.end_to_end.programs import PATIENCE, wait_for
from tests.serviceguard.runner import Package, Service, read
from tests.serviceguard.stage import Stage

pytestmark = pytest.mark.serviceguard

TIDY = "trap 'sleep 0.3; echo tidied up; exit 0' TERM; echo up; while :; do sleep 0.05; done"


def simple(stage: Stage, restart: str = "1", halt_timeout: str = "10") -> Package:
    """A package of one service, in a guest that runs all the time."""
    text = f"""
package_name          vm1
service_name          db
service_cmd           "/usr/local/bin/cmappmgr --app db --guest vm1"
service_restart       {restart}
service_halt_timeout  {halt_timeout}
"""
    stage.guest.start()
    package = stage.package(read(text))
    assert package.run()
    stage.guest.wait_status("db", phase="running")
    return package


def test_the_example_is_read_as_it_stands(stage: Stage) -> None:
    command = "/usr/local/bin/cmappmgr --app db --guest vm1"
    assert stage.services().services[1] == Service("db", command, 1, 360)


def test_success_is_a_failure_of_a_service_too(stage: Stage) -> None:
    stage.guest.obedient("db")
    package = simple(stage, restart="none")
    stage.guest.order("db", 0)
    package.until(lambda: "has failed, exit code 0" in package.said(), "a failed service")
    assert package.been_at == ["vmhost1", "vmhost2"]


@pytest.mark.parametrize("times", range(3))
def test_a_halt_is_orderly(stage: Stage, times: int) -> None:
    """Though SIGTERM comes twice, to the manager and to its process group."""
    stage.guest.shell("db", TIDY)
    package = simple(stage)
    wait_for(lambda: stage.guest.app_said("db"), "the application's first word")
    assert package.halt() == 0
    assert stage.guest.app_said("db") == "up\ntidied up\n"
    assert "service db is halted, exit code 0" in package.said()
    assert stage.guest.status("db")["owner"] is None


def test_what_will_not_stop_is_told_by_the_manager(stage: Stage) -> None:
    stage.nodes = (stage.node("vmhost1", stop_timeout="1s"),)
    stage.guest.shell("db", STUBBORN, stop={"timeout": "60s"})
    package = simple(stage)
    package.halt()
    assert "exit 215, not-stopped: " in package.said()
    assert stage.guest.pids("db")


def test_a_manager_with_more_patience_than_its_service_is_killed(stage: Stage) -> None:
    """Then nobody says what became of the application: so stop_timeout is to be the shorter one."""
    stage.guest.shell("db", STUBBORN, stop={"timeout": "60s"})
    package = simple(stage, halt_timeout="1")
    package.halt()
    assert "service db is halted, exit code -9" in package.said()
    assert stage.guest.status("db")["phase"] == "stopping"


def test_a_guest_that_nobody_reaches_is_tried_at_every_node(stage: Stage) -> None:
    stage.nodes = tuple(
        stage.node(name, connect_timeout="500ms", lost_after="3s")
        for name in ("vmhost1", "vmhost2")
    )
    stage.guest.define("db", "/bin/sleep", "600")
    package = simple(stage)
    assert stage.guest.server is not None
    stage.guest.server.kill()
    package.until(lambda: package.node is None, "the end of the package")
    assert package.been_at == ["vmhost1", "vmhost2"]
    assert "exit 202, lost: " in package.said()
    assert package.said().count("exit 201, unreachable: ") == 3


def test_under_maintenance_nothing_is_a_failure(stage: Stage) -> None:
    stage.guest.define("db", "/bin/sleep", "600")
    package = simple(stage, restart="none")
    words = ("on", "--for", "2h", "--reason", "new disk")
    assert stage.guest.ctl("maintenance", "db", *words).returncode == 0
    manager = package.pid_of("db")
    os.kill(stage.guest.pid_of("db"), signal.SIGKILL)
    package.until(lambda: "SIGKILL" in package.said(), "the manager to notice")
    assert stage.guest.ctl("start", "db").returncode == 0
    assert stage.guest.ctl("maintenance", "db", "off").returncode == 0
    package.until(lambda: "is over" in package.said(), "the end of the maintenance")
    package.tend()
    assert (package.pid_of("db"), package.been_at) == (manager, ["vmhost1"])


def test_a_detached_manager_is_a_failed_service_whose_successor_attaches(stage: Stage) -> None:
    stage.guest.define("db", "/bin/sleep", "600")
    package = simple(stage)
    pid = stage.guest.pid_of("db")
    os.kill(package.pid_of("db"), signal.SIGUSR1)
    package.until(lambda: package.said().count(f"running, pid {pid} ") == 2, "the next manager")
    assert package.restarts == {"db": 1}


def test_a_detach_takes_the_package_after_a_vm_that_has_migrated(stage: Stage) -> None:
    """Where nothing is restarted on the old node, the next one attaches to the same run."""
    stage.guest.define("db", "/bin/sleep", "600")
    package = simple(stage, restart="none")
    pid = stage.guest.pid_of("db")
    words = ("--app", "db", "--guest", "vm1", "--detach")
    subprocess.run([package.nodes[0].cmappmgr, *words], timeout=PATIENCE, check=True)
    package.until(lambda: package.been_at == ["vmhost1", "vmhost2"], "the failover")
    stage.guest.wait_status("db", phase="running", owner="vmhost2")
    assert stage.guest.pids("db") == [pid]


def test_a_pause_as_of_a_live_migration_is_no_failure(stage: Stage) -> None:
    stage.guest.define("db", "/bin/sleep", "600")
    package = simple(stage, restart="none")
    pid = stage.guest.pid_of("db")
    assert stage.guest.server is not None
    stage.guest.server.signal(signal.SIGSTOP)
    package.until(lambda: "link was lost" in package.said(), "the link to be missed")
    stage.guest.server.signal(signal.SIGCONT)
    package.until(lambda: "connected again" in package.said(), "the link")
    assert (package.restarts, stage.guest.pid_of("db")) == ({"db": 0}, pid)
