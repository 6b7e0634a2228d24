"""Somebody asks for the end: this manager's cluster, another manager, the administrator."""

import signal

from cmappd import reasons
from tests.end_to_end.causes import Case
from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import Manager

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 1; done"


def followed(scene: Scene) -> Manager:
    """An obedient application with its manager."""
    scene.guest.obedient("db")
    scene.guest.start()
    manager = scene.manager("db")
    manager.wait_said("running")
    return manager


def asked_to_stop(scene: Scene) -> Manager:
    manager = followed(scene)
    manager.stop()
    assert not scene.guest.pids("db")
    assert scene.guest.status("db")["phase"] == "stopped"
    return manager


def asked_before_it_began(scene: Scene) -> Manager:
    manager = scene.manager("db")
    manager.wait_said("cannot reach the server")
    manager.stop()
    return manager


def will_not_stop(scene: Scene) -> Manager:
    """A stop that takes longer than the manager's own patience."""
    scene.guest.shell("db", STUBBORN, stop={"timeout": "60s"})
    scene.guest.start()
    manager = scene.manager("db", config=scene.host(stop_timeout="1s"))
    manager.wait_said("running")
    manager.stop()
    assert scene.guest.status("db")["phase"] == "stopping"
    assert scene.guest.pids("db")
    return manager


def second_manager(scene: Scene) -> Manager:
    first = followed(scene)
    second = scene.manager("db", config=scene.host(scene.authority.manager("vmhost2")))
    second.wait()
    assert first.running
    assert scene.guest.status("db")["owner"] == "vmhost1"
    return second


def second_of_the_same_name(scene: Scene) -> Manager:
    first = followed(scene)
    second = scene.manager("db")
    second.wait()
    assert first.running
    return second


def taken_over(scene: Scene) -> Manager:
    """The first one goes; the second one follows the same run, and is told of its end."""
    first = followed(scene)
    pid = scene.guest.pid_of("db")
    host2 = scene.host(scene.authority.manager("vmhost2"))
    second = scene.manager("db", "--takeover", config=host2)
    first.wait()
    second.wait_said(f"running, pid {pid}")
    assert scene.guest.status("db")["owner"] == "vmhost2"
    scene.guest.order("db", 7)
    assert second.wait() == 7
    return first


def stopped_by_the_administrator(scene: Scene) -> Manager:
    manager = followed(scene)
    done = scene.guest.ctl("stop", "db")
    assert (done.returncode, done.stdout) == (0, "db is stopped\n")
    return manager


def restarted_by_the_administrator(scene: Scene) -> Manager:
    """The manager stays, and is told how the next run ends."""
    manager = followed(scene)
    pid = scene.guest.pid_of("db")
    assert scene.guest.ctl("restart", "db").returncode == 0
    manager.wait_said("running, pid", times=2)
    assert manager.running
    assert scene.guest.pid_of("db") != pid
    scene.guest.order("db", 7)
    return manager


def server_stopped(scene: Scene) -> Manager:
    manager = followed(scene)
    assert scene.guest.server is not None
    scene.guest.server.signal(signal.SIGTERM)
    assert scene.guest.server.wait() == 0
    return manager


CASES = (
    Case("asked to stop", reasons.STOPPED, 0, "stopped as its manager asked", asked_to_stop),
    Case(
        "asked to stop before it began",
        reasons.STOPPED,
        0,
        "before anything was started",
        asked_before_it_began,
    ),
    Case("will not stop", reasons.NOT_STOPPED, 215, "after 1s it is stopping", will_not_stop),
    Case(
        "a second manager",
        reasons.BUSY,
        206,
        "'db' is owned by vmhost1 (connected)",
        second_manager,
    ),
    Case(
        "a second one of the same name",
        reasons.BUSY,
        206,
        "'db' is owned by vmhost1 (connected)",
        second_of_the_same_name,
    ),
    Case("taken over", reasons.BUSY, 206, "'db' was taken over by vmhost2", taken_over),
    Case(
        "stopped by the administrator",
        reasons.OPERATOR,
        212,
        "stopped in the guest by its administrator",
        stopped_by_the_administrator,
    ),
    Case(
        "restarted by the administrator",
        reasons.APP,
        7,
        "ended by itself, exit code 7",
        restarted_by_the_administrator,
    ),
    Case(
        "server told to end",
        reasons.OPERATOR,
        212,
        "stopped because cmappserver was told to end",
        server_stopped,
    ),
)
