"""A start of the agent: a life, and every way in which it can fail."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.end_to_end.harness import Scene
from tests.end_to_end.pacemaker.ocf import (
    ARGS,
    CONFIGURED,
    GENERIC,
    INSTALLED,
    NEEDS,
    NOT_RUNNING,
    OK,
    PERM,
    UNIMPLEMENTED,
    Agent,
    Make,
    program,
)
from tests.end_to_end.programs import wait_for

pytestmark = NEEDS


def test_a_life(scene: Scene, agent: Agent) -> None:
    assert agent.code("validate-all") == OK
    assert agent.code("monitor") == NOT_RUNNING
    assert agent.code("stop") == OK
    assert agent("start") == (OK, "")
    pid = scene.guest.pid_of("db")
    assert agent.code("start") == OK
    assert agent.code("monitor") == OK
    assert scene.guest.pids("db") == [pid]
    assert agent("stop") == (OK, "")
    assert not scene.guest.pids("db")
    assert agent.code("monitor") == NOT_RUNNING
    assert agent.code("stop") == OK
    assert agent.code("promote") == UNIMPLEMENTED


def test_start_returns_when_the_application_is_ready(scene: Scene, make: Make) -> None:
    check = {"command": ["/usr/bin/test", "-e", str(scene.folder / "well")], "interval": "200ms"}
    scene.guest.define("db", "/bin/sleep", "600", start={"ready": "health"}, health=check)
    scene.guest.start()
    agent = make()
    with agent.begin("start") as starting:
        scene.guest.wait_status("db", phase="starting", owner="vmhost1")
        assert starting.poll() is None
        (scene.folder / "well").touch()
        assert starting.wait(20) == OK
    assert agent.code("stop") == OK


def test_start_waits_for_a_guest_that_boots(scene: Scene, make: Make) -> None:
    scene.guest.define("db", "/bin/sleep", "600")
    agent = make(config=scene.host(connect_timeout="2s"))
    with agent.begin("start", timeout=50) as starting:
        wait_for(lambda: agent.log.exists() and "trying again" in agent.log.read_text())
        assert starting.poll() is None
        scene.guest.start()
        assert starting.wait(50) == OK
    assert agent.code("stop") == OK


def test_start_says_itself_that_the_guest_does_not_come(scene: Scene, make: Make) -> None:
    code, said = make(config=scene.host(connect_timeout="500ms"))("start", timeout=8)
    assert code == GENERIC
    assert "ocf-exit-reason:db: no connection within connect_timeout" in said


def test_start_waits_for_the_lease_of_a_manager_that_is_gone(scene: Scene, make: Make) -> None:
    scene.guest.define("db", "/bin/sleep", "600", manager={"lease": "5s"})
    scene.guest.start()
    other = scene.manager("db", config=scene.host(scene.authority.manager("vmhost2")))
    other.wait_said("running")
    pid = scene.guest.pid_of("db")
    other.kill()
    agent = make()
    assert agent.code("start") == OK
    assert scene.guest.pids("db") == [pid]
    assert "owned by vmhost2" in agent.log.read_text()
    assert agent.code("stop") == OK


def test_the_manager_keeps_nothing_of_the_agent(agent: Agent) -> None:
    """Pacemaker waits for whoever holds the agent's output, and ends its process group."""
    process = agent.begin("start")
    process.communicate(timeout=20)
    assert os.getsid(agent.manager) == agent.manager
    assert agent.code("stop") == OK


def missing_config(scene: Scene, make: Make) -> Agent:
    return make(config="/nonexistent/cmappmgr.toml")


def missing_program(scene: Scene, make: Make) -> Agent:
    return make(program="/nonexistent/cmappmgr")


def bad_config(scene: Scene, make: Make) -> Agent:
    (scene.folder / "bad.toml").write_text("gusts = 1\n")
    return make(config=str(scene.folder / "bad.toml"))


def no_name(scene: Scene, make: Make) -> Agent:
    agent = make()
    del agent.environment["OCF_RESKEY_app"]
    return agent


def no_number(scene: Scene, make: Make) -> Agent:
    return make(answer_timeout="2s")


def octal(scene: Scene, make: Make) -> Agent:
    return make(ends_alone_after="060")


def missing_interpreter(scene: Scene, make: Make) -> Agent:
    return make(program=program(scene, "#!/nonexistent/python"))


def broken_program(scene: Scene, make: Make) -> Agent:
    lines = ("#!/bin/sh", '[ "$1" = --version ] || { echo "no module ssl" >&2; exit 1; }')
    return make(program=program(scene, *lines))


def name_like_an_option(scene: Scene, make: Make) -> Agent:
    return make(app="-x")


def long_name(scene: Scene, make: Make) -> Agent:
    agent = make()
    agent.environment["OCF_RESKEY_app"] = "x" * 300
    return agent


def unwritable_log(scene: Scene, make: Make) -> Agent:
    return make(log=str(scene.folder))


def unknown_application(scene: Scene, make: Make) -> Agent:
    return make(app="oracle")


def denied(scene: Scene, make: Make) -> Agent:
    scene.guest.managers = {"vmhost1": {"apps": ["web"]}}
    return make()


def refused_certificate(scene: Scene, make: Make) -> Agent:
    return make(config=scene.host(server_name="guest2"))


def does_not_start(scene: Scene, make: Make) -> Agent:
    scene.guest.define("db", "/nonexistent")
    return make()


@pytest.mark.parametrize(
    ("case", "code", "reason"),
    [
        (missing_config, INSTALLED, "there is no file /nonexistent/cmappmgr.toml"),
        (missing_program, INSTALLED, "there is no program /nonexistent/cmappmgr"),
        (missing_interpreter, INSTALLED, "not found"),
        (broken_program, GENERIC, "its last words: no module ssl"),
        (name_like_an_option, CONFIGURED, "there is no application '-x' in this guest"),
        (long_name, ARGS, "it is not a name"),
        (bad_config, ARGS, "gusts"),
        (no_name, CONFIGURED, "the parameter app is required"),
        (no_number, CONFIGURED, "'2s' is not a number of seconds"),
        (octal, CONFIGURED, "'060' is not a number of seconds"),
        (unwritable_log, PERM, "cannot write the log"),
        (unknown_application, CONFIGURED, "there is no application 'oracle' in this guest"),
        (denied, PERM, "vmhost1 may not drive 'db'"),
        (refused_certificate, PERM, "certificate or handshake refused"),
        (does_not_start, GENERIC, "could not be started: cannot execute"),
    ],
)
def test_a_start_that_fails(
    scene: Scene,
    make: Make,
    case: Callable[[Scene, Make], Agent],
    code: int,
    reason: str,
) -> None:
    """The code says where else it may work; a probe and a stop are of no consequence."""
    scene.guest.obedient("db")
    agent = case(scene, make)
    scene.guest.start()
    assert agent.code("monitor") == NOT_RUNNING
    assert agent.code("stop") == OK
    found, said = agent("start")
    assert found == code, said
    assert reason in "".join(
        line for line in said.splitlines() if line.startswith("ocf-exit-reason:")
    )
    assert agent.code("stop") == OK
    assert agent.code("monitor") == NOT_RUNNING


@pytest.mark.parametrize(
    ("case", "code"),
    [
        (bad_config, ARGS),
        (missing_interpreter, INSTALLED),
        (long_name, ARGS),
        (unknown_application, INSTALLED),  # another guest may have it
        (denied, PERM),
        (refused_certificate, PERM),
        (does_not_start, GENERIC),
    ],
)
def test_a_start_that_fails_has_nobody_fenced_where_another_guest_could_run_it(
    scene: Scene, make: Make, case: Callable[[Scene, Make], Agent], code: int
) -> None:
    """Nothing was started here, which the manager knows, or the guest says."""
    scene.guest.obedient("db")
    agent = case(scene, make)
    agent.environment["OCF_RESKEY_other_guests"] = "true"
    scene.guest.start()
    assert agent.code("start") == code
    assert agent.code("stop") == OK


def test_where_no_guest_was_there_nothing_is_to_be_stopped(scene: Scene, make: Make) -> None:
    """Nothing was claimed, so the node need not be fenced, wherever else it may run."""
    agent = make(config=scene.host(connect_timeout="500ms"), other_guests="true")
    assert agent.code("start", timeout=8) == GENERIC
    assert agent.code("stop") == OK
    assert agent.code("monitor") == NOT_RUNNING


def test_one_that_is_not_ready_in_time_is_said_to_be_so_and_stopped(
    scene: Scene, make: Make
) -> None:
    """By the agent itself: one that Pacemaker has to kill says nothing."""
    never = {"command": ["/bin/false"], "interval": "200ms", "start_period": "60s"}
    scene.guest.define("db", "/bin/sleep", "600", start={"ready": "health"}, health=never)
    scene.guest.start()
    agent = make(other_guests="true")
    code, said = agent("start", timeout=6)
    assert (code, "not ready in the time that start has" in said) == (GENERIC, True)
    assert scene.guest.pids("db")
    assert agent.code("stop") == OK
    assert not scene.guest.pids("db")


def test_a_probe_knows_whether_what_was_not_ready_in_time_is_ready_by_now(
    scene: Scene, make: Make
) -> None:
    check = {"command": ["/usr/bin/test", "-e", str(scene.folder / "well")], "interval": "200ms"}
    scene.guest.define("db", "/bin/sleep", "600", start={"ready": "health"}, health=check)
    scene.guest.start()
    agent = make()
    assert agent.code("start", timeout=6) == GENERIC
    for action in ("monitor", "start"):
        code, said = agent(action)
        assert (code, "did not come to its end: db@guest1: starting" in said) == (GENERIC, True)
    (scene.folder / "well").touch()
    scene.guest.wait_status("db", phase="running")
    for action in ("monitor", "start", "stop"):
        assert agent(action) == (OK, "")


def test_of_two_starts_at_once_one_has_the_manager(scene: Scene, make: Make) -> None:
    """As when somebody starts by hand what the cluster tries to start."""
    scene.guest.define("db", "/bin/sleep", "600")
    agent = make(config=scene.host(connect_timeout="500ms"))
    with agent.begin("start", timeout=50) as first, agent.begin("start", timeout=50) as second:
        wait_for(lambda: agent.log.exists() and "trying again" in agent.log.read_text())
        scene.guest.start()
        assert OK in (first.wait(50), second.wait(50))
    assert len(managers(agent)) == 1
    assert agent.code("monitor") == OK
    assert agent.code("stop") == OK
    assert not managers(agent)
    assert not scene.guest.pids("db")


@pytest.mark.parametrize("timeout", [1, 2])
def test_a_start_that_has_no_time_says_so(scene: Scene, agent: Agent, timeout: int) -> None:
    code, said = agent("start", timeout=timeout)
    assert (code, "not ready in the time that start has" in said) == (GENERIC, True)
    assert agent.code("stop") == OK


@pytest.fixture
def full(scene: Scene) -> Iterator[Callable[[str], None]]:
    """Gives what the agent keeps a file system that is full: of bytes, or of files."""
    folder = scene.folder / "node1"

    def fill(limit: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", limit, "full", folder], check=True)
        with contextlib.suppress(OSError), (folder / "filling").open("wb") as file:
            file.write(b"x" * 65536)

    yield fill
    subprocess.run(["umount", "--lazy", folder], check=False)


@pytest.mark.parametrize(
    ("limit", "code", "reason"),
    [
        ("size=8k", GENERIC, "/unready"),
        ("size=1m,nr_inodes=3", PERM, "/lock"),
        ("size=1m,nr_inodes=4", PERM, "/unclaimed"),
        ("size=1m,nr_inodes=5", GENERIC, "/unready"),
        ("size=1m,nr_inodes=6", GENERIC, "/pid"),
    ],
)
def test_what_could_not_be_signalled_is_not_started(
    scene: Scene, agent: Agent, full: Callable[[str], None], limit: str, code: int, reason: str
) -> None:
    """Nobody could stop a manager whose pid is nowhere."""
    full(limit)
    found, said = agent("start")
    assert (found, f"cannot write {agent.state}{reason}" in said) == (code, True), said
    assert not managers(agent)
    assert agent.code("monitor") == NOT_RUNNING
    assert agent.code("stop") == OK
    assert not scene.guest.pids("db")


def test_what_can_be_signalled_is_started_and_a_full_file_system_takes_no_mark_away(
    scene: Scene, agent: Agent, full: Callable[[str], None]
) -> None:
    full("size=1m,nr_inodes=7")
    assert agent("start") == (OK, "")
    assert agent("monitor") == (OK, "")
    assert agent("monitor", interval=1) == (OK, "")
    assert agent("stop") == (OK, "")
    assert not scene.guest.pids("db")


def managers(agent: Agent) -> list[psutil.Process]:
    """Those that have begun, whatever the agent knows."""
    words = str(agent.state / "report")
    return [
        each for each in psutil.process_iter(["cmdline"]) if words in (each.info["cmdline"] or ())
    ]
