"""The verbs for control scripts: each says honestly what is the case, and may be repeated."""

import signal

import pytest

from cmappd import reasons
from tests.end_to_end.causes.people import STUBBORN
from tests.end_to_end.harness import Scene


def verb(scene: Scene, *words: str, config: str | None = None) -> tuple[int, str]:
    """Run a verb to its end: its code, and what it said."""
    manager = scene.manager("db", *words, config=config)
    return manager.wait(), manager.said()


def test_a_life_by_verbs(scene: Scene) -> None:
    guest = scene.guest
    guest.define("db", "/bin/sleep", "600")
    guest.start()
    code, said = verb(scene, "--status")
    assert (code, said) == (3, "db@guest1: stopped\n")
    assert verb(scene, "--start")[0] == 0
    pid = guest.pid_of("db")
    code, said = verb(scene, "--status")
    assert (code, said) == (0, f"db@guest1: running, pid {pid}\n")
    assert verb(scene, "--start")[0] == 0
    assert guest.pids("db") == [pid]
    assert guest.status("db")["owner"] is None
    assert verb(scene, "--stop")[0] == 0
    assert not guest.pids("db")
    assert verb(scene, "--stop")[0] == 0
    code, said = verb(scene, "--status")
    assert code == 3
    assert said.startswith("db@guest1: stopped, stopped as its manager asked")


def test_start_returns_when_it_is_ready(scene: Scene) -> None:
    """Not before: the health command passes only when somebody has made it well."""
    guest = scene.guest
    check = {"command": ["/usr/bin/test", "-e", str(scene.folder / "well")], "interval": "200ms"}
    guest.define("db", "/bin/sleep", "600", start={"ready": "health"}, health=check)
    guest.start()
    manager = scene.manager("db", "--start")
    guest.wait_status("db", phase="starting", owner="vmhost1")
    assert verb(scene, "--status")[0] == 2
    assert manager.running
    (scene.folder / "well").touch()
    assert manager.wait() == 0
    assert guest.status("db")["health"] == "healthy"


def test_start_tells_why_it_failed(scene: Scene) -> None:
    scene.guest.shell("db", "echo no licence; exit 4", start={"ready": "30s"})
    scene.guest.start()
    code, said = verb(scene, "--start")
    assert code == 4
    assert "last log: no licence" in said
    code, said = verb(scene, "--status")
    assert code == 1
    assert "failed, ended by itself, exit code 4" in said


def test_start_gives_up_after_its_timeout(scene: Scene) -> None:
    """It says so, and leaves the application to its own time limit."""
    guest = scene.guest
    check = {"command": ["/bin/false"], "interval": "200ms"}
    guest.define("db", "/bin/sleep", "600", start={"ready": "health"}, health=check)
    guest.start()
    code, said = verb(scene, "--start", "--timeout", "1s")
    assert code == reasons.NOT_READY.code
    assert "after 1s it is starting" in said
    assert guest.status("db")["phase"] == "starting"


def test_stop_gives_up_after_its_timeout_and_tells_what_is_left(scene: Scene) -> None:
    guest = scene.guest
    guest.shell("db", STUBBORN, stop={"timeout": "60s"})
    guest.start()
    assert verb(scene, "--start")[0] == 0
    pid = guest.pid_of("db")
    code, said = verb(scene, "--stop", "--timeout", "1s")
    assert code == reasons.NOT_STOPPED.code
    assert f"not gone in time: stopping, pid {pid}" in said
    assert pid in guest.pids("db")


def test_stop_knows_that_it_does_not_know(scene: Scene) -> None:
    """Where the guest falls silent meanwhile."""
    guest = scene.guest
    guest.shell("db", STUBBORN, stop={"timeout": "60s"})
    guest.start()
    assert verb(scene, "--start")[0] == 0
    stopping = scene.manager("db", "--stop", "--timeout", "8s")
    guest.wait_status("db", phase="stopping")
    assert guest.server is not None
    guest.server.signal(signal.SIGSTOP)
    assert stopping.wait() == reasons.LOST.code
    assert "its state is unknown" in stopping.said()


def test_stop_by_somebody_else_needs_a_takeover(scene: Scene) -> None:
    guest = scene.guest
    guest.define("db", "/bin/sleep", "600")
    guest.start()
    owner = scene.manager("db")
    owner.wait_said("running")
    host2 = scene.host(scene.authority.manager("vmhost2"))
    code, said = verb(scene, "--stop", config=host2)
    assert code == reasons.BUSY.code
    assert "'db' is owned by vmhost1; only it may stop it" in said
    assert guest.pid_of("db")
    assert verb(scene, "--stop", "--takeover", config=host2)[0] == 0
    assert owner.wait() == reasons.BUSY.code
    assert not guest.pids("db")


def test_a_stop_by_verb_ends_the_manager_of_the_same_name_with_its_reason(scene: Scene) -> None:
    """A package's halt script may stop it by --stop, before the cluster signals the manager."""
    guest = scene.guest
    guest.define("db", "/bin/sleep", "600")
    guest.start()
    owner = scene.manager("db")
    owner.wait_said("running")
    assert verb(scene, "--stop")[0] == 0
    assert owner.wait() == 0
    assert owner.report()["reason"] == "stopped"


def test_start_with_takeover(scene: Scene) -> None:
    guest = scene.guest
    guest.define("db", "/bin/sleep", "600")
    guest.start()
    owner = scene.manager("db")
    owner.wait_said("running")
    pid = guest.pid_of("db")
    host2 = scene.host(scene.authority.manager("vmhost2"))
    assert verb(scene, "--start", config=host2)[0] == reasons.BUSY.code
    assert verb(scene, "--start", "--takeover", config=host2)[0] == 0
    assert owner.wait() == reasons.BUSY.code
    assert guest.pids("db") == [pid]


def test_check_reaches_authenticates_and_finds_it_defined(scene: Scene) -> None:
    guest = scene.guest
    guest.define("db", "/bin/sleep", "600")
    guest.managers = {"vmhost1": {"apps": ["db", "web"]}}
    guest.start()
    code, said = verb(scene, "--check")
    assert code == 0
    assert said.startswith("db@guest1: defined in ")
    assert not guest.pids("db")
    assert scene.manager("web", "--check").wait() == reasons.UNKNOWN_APP.code
    assert scene.manager("mail", "--check").wait() == reasons.DENIED.code


@pytest.mark.parametrize("word", ["--start", "--stop", "--status", "--check"])
def test_every_verb_says_that_nobody_answers(scene: Scene, word: str) -> None:
    config = scene.host(connect_timeout="1s")
    assert verb(scene, word, config=config)[0] == reasons.UNREACHABLE.code
    assert verb(scene, word, "--timeout", "500ms", config=config)[0] == reasons.UNREACHABLE.code


@pytest.mark.parametrize("word", ["--status", "--check"])
def test_a_guest_that_stands_still_is_not_waited_for_for_ever(scene: Scene, word: str) -> None:
    scene.guest.define("db", "/bin/sleep", "600")
    server = scene.guest.start()
    server.signal(signal.SIGSTOP)
    assert verb(scene, word, "--timeout", "1s")[0] == reasons.UNREACHABLE.code
