"""The application ends by itself, does not start, or is not well."""

import os
import signal
from typing import Any

from cmappd import reasons
from tests.end_to_end.causes import Case, Cause
from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import Manager

NO_CORE = "ulimit -c 0; "
CHECK_OFTEN = {"interval": "200ms", "timeout": "5s"}


def runs(script: str, **keys: Any) -> Cause:
    """An application that is this script, from its start to its end."""

    def cause(scene: Scene) -> Manager:
        scene.guest.shell("db", script, **keys)
        scene.guest.start()
        return scene.manager("db")

    return cause


def defined(*command: str, **keys: Any) -> Cause:
    """An application with this stanza."""

    def cause(scene: Scene) -> Manager:
        scene.guest.define("db", *command, **keys)
        scene.guest.start()
        return scene.manager("db")

    return cause


def killed(signum: int) -> Cause:
    """An application that runs, and is killed in the guest by somebody else."""

    def cause(scene: Scene) -> Manager:
        scene.guest.define("db", "/bin/sleep", "600")
        scene.guest.start()
        manager = scene.manager("db")
        manager.wait_said("running")
        os.kill(scene.guest.pid_of("db"), signum)
        return manager

    return cause


def becomes_unhealthy(scene: Scene) -> Manager:
    """Its health command passes while a file is there, which is then taken away."""
    well = scene.folder / "well"
    well.touch()
    check = {"command": ["/bin/sh", "-c", "echo looking; test -e well"], **CHECK_OFTEN}
    scene.guest.define(
        "db", "/bin/sleep", "600", start={"ready": "health"}, health={**check, "failures": 2}
    )
    scene.guest.start()
    manager = scene.manager("db")
    manager.wait_said("health: healthy")
    well.unlink()
    return manager


def spends_its_budget(scene: Scene) -> Manager:
    """It fails each time; the guest starts it twice again, and then the cluster hears of it."""
    scene.guest.shell(
        "db",
        "echo begun; exit 9",
        restart={"policy": "on-failure", "limit": 2, "delay": "100ms"},
    )
    scene.guest.start()
    manager = scene.manager("db")
    manager.wait()
    assert scene.guest.app_said("db").count("begun") == 3
    assert "restart 1 of 2" in manager.said()
    assert "restart 2 of 2" in manager.said()
    return manager


def bad_stanza(scene: Scene) -> Manager:
    scene.guest.define("db", "/bin/sleep", "600", comand=["/bin/sleep"])
    scene.guest.start()
    return scene.manager("db")


def removed_while_it_runs(scene: Scene) -> Manager:
    """An edit kills nothing: it leaves when it ends, and ends with its own code."""
    guest = scene.guest
    guest.obedient("db")
    guest.start()
    manager = scene.manager("db")
    manager.wait_said("running")
    del guest.apps["db"]
    guest.write()
    manager.wait_said("it was removed from the configuration, and runs on")
    assert guest.status("db")["removed"]
    guest.order("db", 7)
    manager.wait()
    assert "there is no application" in guest.ctl("start", "db").stderr
    return manager


CASES = (
    Case("exit 0", reasons.SUCCESS, 0, "ended by itself, exit code 0", runs("exit 0")),
    Case("exit 1", reasons.APP, 1, "ended by itself, exit code 1", runs("exit 1")),
    Case("exit 7", reasons.APP, 7, "ended by itself, exit code 7", runs("exit 7")),
    Case("exit 199", reasons.APP, 199, "ended by itself, exit code 199", runs("exit 199")),
    Case(
        "a success code",
        reasons.SUCCESS,
        0,
        "ended by itself, exit code 3",
        runs("exit 3", restart={"success_codes": [0, 3]}),
    ),
    Case(
        "0 is no success code",
        reasons.APP,
        1,
        "ended by itself, exit code 0",
        runs("exit 0", restart={"success_codes": [3]}),
    ),
    Case(
        "a segmentation fault",
        reasons.APP,
        139,
        "ended by itself, SIGSEGV (signal 11)",
        runs(NO_CORE + "kill -SEGV $$"),
    ),
    Case(
        "killed",
        reasons.APP,
        137,
        "ended by itself, SIGKILL (signal 9)",
        killed(signal.SIGKILL),
    ),
    Case(
        "terminated, but not by us",
        reasons.APP,
        143,
        "ended by itself, SIGTERM (signal 15)",
        killed(signal.SIGTERM),
    ),
    Case("budget spent", reasons.APP, 9, "ended by itself, exit code 9", spends_its_budget),
    Case(
        "removed while it runs",
        reasons.APP,
        7,
        "ended by itself, exit code 7",
        removed_while_it_runs,
    ),
    Case(
        "missing executable",
        reasons.NOT_STARTED,
        207,
        "cannot execute '/no/such/program': there is no such file",
        defined("/no/such/program"),
    ),
    Case(
        "missing directory",
        reasons.NOT_STARTED,
        207,
        "its directory '/no/such/directory' does not exist",
        defined("/bin/true", directory="/no/such/directory"),
    ),
    Case(
        "missing user",
        reasons.NOT_STARTED,
        207,
        "cannot run as user 'cmappd-nobody': there is no such user",
        defined("/bin/true", user="cmappd-nobody"),
    ),
    Case(
        "bad stanza",
        reasons.NOT_STARTED,
        207,
        "apps.db.comand: unknown key: did you mean 'command'?",
        bad_stanza,
    ),
    Case(
        "not ready in time",
        reasons.NOT_READY,
        208,
        "not ready within 1 s",
        defined(
            "/bin/sleep",
            "600",
            start={"ready": "health", "timeout": "1s"},
            health={"command": ["/bin/false"], **CHECK_OFTEN},
        ),
    ),
    Case(
        "unhealthy",
        reasons.UNHEALTHY,
        209,
        "ended for failed health checks",
        becomes_unhealthy,
    ),
)
