"""What happens to packages by the rules of Serviceguard, and how soon the application runs again.

Each scenario is given a stage on which nothing runs, makes things happen, and gives the seconds
from the blow until the application runs again; it fails where anything is not as it must be. The
tests run each once, and ``python -m tests.cluster`` as often as one likes.
"""

import time
from collections.abc import Callable

from tests.serviceguard import two_guests
from tests.serviceguard.runner import Package
from tests.serviceguard.stage import Stage


def services(stage: Stage) -> Package:
    """The example whose applications are services, from when they run."""
    stage.guest.obedient("web")
    stage.guest.obedient("db")
    shell = stage.guest.apps["db"]["command"]
    shell[-1] = f"echo no licence; {shell[-1]}"
    stage.guest.write()
    package = stage.package(stage.services())
    assert package.run()
    package.until(lambda: package.said().count("running, pid") == 2, "both applications")
    return package


def service_dies(stage: Stage) -> float:
    """It is run again, and the other one is left alone."""
    package = services(stage)
    web = stage.guest.pid_of("web")
    stage.guest.order("db", 3)
    begin = time.monotonic()
    package.until(lambda: package.said().count("running, pid") == 3, "the application")
    seconds = time.monotonic() - begin
    assert package.restarts == {"web": 0, "db": 1}
    assert (stage.guest.pid_of("web"), package.been_at) == (web, ["vmhost1"])
    return seconds


def restarts_are_used_up(stage: Stage) -> float:
    """The package moves, and the VM with it."""
    package = services(stage)
    stage.guest.order("db", 3)
    package.until(lambda: package.said().count("running, pid") == 3, "the application")
    stage.guest.order("db", 4)
    begin = time.monotonic()
    package.until(lambda: package.said().count("running, pid") == 5, "both applications")
    seconds = time.monotonic() - begin
    assert package.been_at == ["vmhost1", "vmhost2"]
    assert stage.guest.status("db")["owner"] == stage.guest.status("web")["owner"] == "vmhost2"
    said = package.said()
    for evidence in (
        "last log: no licence",
        "exit 3, app: ended by itself, exit code 3",
        "service db has failed, exit code 3",
        "exit 4, app: ended by itself, exit code 4",
        "fails over from vmhost1",
    ):
        assert evidence in said
    assert package.halt() == 0
    assert not stage.guest.pids()
    return seconds


def package_moves_in_order(stage: Stage) -> float:
    """It is halted, and run at the other node, as when a node is halted; nothing has failed."""
    package = services(stage)
    begin = time.monotonic()
    assert package.halt() == 0
    assert not stage.guest.pids()
    assert package.run("vmhost2")
    package.until(lambda: package.said().count("running, pid") == 4, "both applications")
    seconds = time.monotonic() - begin
    assert "has failed" not in package.said()
    for name in ("web", "db"):
        assert f"service {name} is halted, exit code 0" in package.said()
        assert stage.guest.status(name)["owner"] == "vmhost2"
    return seconds


def package_of_external_scripts_moves(stage: Stage) -> float:
    """In a guest that boots while the script waits; started in order, stopped in reverse order."""
    for name in ("db", "web"):
        trap = f"trap 'echo {name} stopped >>order; exit 0' TERM"
        script = f"{trap}; echo {name} started >>order; while :; do sleep 0.05; done"
        stage.guest.shell(name, script, start={"ready": "300ms"})
    stage.guest.write()
    package = stage.package(stage.external())
    assert package.run()
    assert stage.guest.status("db")["owner"] is stage.guest.status("web")["owner"] is None
    begin = time.monotonic()
    assert package.halt() == 0
    assert package.run("vmhost2")
    seconds = time.monotonic() - begin
    assert package.halt() == 0
    order = (stage.folder / "order").read_text().splitlines()
    assert order == ["db started", "web started", "web stopped", "db stopped"] * 2
    return seconds


def legacy_package_fails_over(stage: Stage) -> float:
    """The example: db by the functions of cmappd, web as a service whose restarts are used up."""
    stage.guest.define("db", "/bin/sleep", "600")
    stage.guest.obedient("web")
    stage.guest.write()
    package = stage.package(stage.legacy())
    assert package.run()
    for code in (3, 4):
        package.until(lambda: stage.guest.status("web")["phase"] == "running", "web")
        stage.guest.order("web", code)
        begin = time.monotonic()
        package.until(lambda: f"exit {code}, app" in package.said(), "its end")  # noqa: B023
    package.until(lambda: len(package.been_at) == 2, "a failover")
    package.until(lambda: stage.guest.status("web")["phase"] == "running", "web")
    seconds = time.monotonic() - begin
    assert (stage.guest.pid_of("db") > 0, stage.guest.status("web")["owner"]) == (True, "vmhost2")
    assert package.halt() == 0
    assert not stage.guest.pids()
    return seconds


Scenario = Callable[[Stage], float]
SCENARIOS: tuple[Scenario, ...] = (
    service_dies,
    restarts_are_used_up,
    package_moves_in_order,
    package_of_external_scripts_moves,
    legacy_package_fails_over,
    two_guests.application_dies_in_one_of_two_guests,
    two_guests.one_of_two_guests_is_cut_off,
    two_guests.manager_dies_while_its_guest_is_cut_off,
    two_guests.package_is_halted_while_its_guest_is_cut_off,
    two_guests.one_of_two_guests_dies,
    two_guests.node_of_one_of_two_guests_dies,
)
