"""The agent for Pacemaker does what it promises, action by action."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cmappd.core import at_most_once
from tests.end_to_end.causes.people import STUBBORN
from tests.end_to_end.harness import Scene
from tests.end_to_end.ocf import AGENT, LIBRARY, SCHEMA, TESTER, Agent
from tests.end_to_end.programs import wait_for
from tests.end_to_end.proxy import Proxy
from tests.server.harness import suspend

OK, GENERIC, ARGS, UNIMPLEMENTED, PERM, INSTALLED, CONFIGURED, NOT_RUNNING = range(8)

pytestmark = [
    pytest.mark.root,  # as it runs in a cluster
    pytest.mark.skipif(not LIBRARY.exists(), reason="needs resource-agents"),
]

Make = Callable[..., Agent]


@pytest.fixture
def make(scene: Scene) -> Iterator[Make]:
    """Makes resources; their managers end with the test."""
    agents: list[Agent] = []

    def made(**parameters: str) -> Agent:
        agents.append(Agent(scene, **parameters))
        return agents[-1]

    yield made
    for agent in agents:
        agent.close()


@pytest.fixture
def agent(scene: Scene, make: Make) -> Agent:
    """A resource for an application that obeys, in a guest that runs."""
    scene.guest.obedient("db")
    scene.guest.start()
    return make()


# What it says of itself ------------------------------------------------------------------


def schema_1_0() -> list[str]:
    return ["--valid"]


def schema_1_1() -> list[str]:
    if not SCHEMA.exists():
        pytest.skip("needs the schema of OCF 1.1 (pcs)")
    return ["--nowarning", "--relaxng", str(SCHEMA)]


@pytest.mark.skipif(shutil.which("xmllint") is None, reason="needs xmllint (libxml2-utils)")
@pytest.mark.parametrize("schema", [schema_1_0, schema_1_1])
def test_the_metadata_is_valid(make: Make, schema: Callable[[], list[str]]) -> None:
    code, said = make()("meta-data")
    done = subprocess.run(
        ["xmllint", "--noout", *schema(), "-"],
        cwd="/usr/share/resource-agents",  # where its document type is
        input=said,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (code, done.returncode) == (OK, 0), done.stderr


def test_the_metadata_has_every_parameter_that_is_used_and_every_action(make: Make) -> None:
    tree = ET.fromstring(make()("meta-data")[1])
    used = set(re.findall(r"OCF_RESKEY_([a-z_]+)", AGENT.read_text()))
    named = {str(each.get("name")) for each in tree.iter("parameter")}
    assert named == {name for name in used if not name.endswith("_default")}
    actions = {str(each.get("name")) for each in tree.iter("action")}
    usage = make()("usage")[1]
    assert actions == set(usage.partition("{")[2].partition("}")[0].split("|"))


@pytest.mark.skipif(not TESTER.exists(), reason="needs ocf-tester (resource-agents)")
@pytest.mark.skipif(shutil.which("xmllint") is None, reason="needs xmllint (libxml2-utils)")
def test_ocf_tester_passes(agent: Agent) -> None:
    pairs = [f"{key}={value}" for key, value in agent.parameters.items()]
    options = [word for pair in pairs for word in ("-o", pair)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "app"  # where anybody may read it, which is looked for
        copy.parent.chmod(0o755)
        shutil.copy(AGENT, copy)
        done = subprocess.run(
            [TESTER, "-n", "db", *options, copy],
            env=agent.environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed all tests" in done.stdout


# A life ----------------------------------------------------------------------------------


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
    agent = make(config=scene.host(connect_timeout="500ms"))
    with agent.begin("start") as starting:
        wait_for(lambda: agent.log.exists() and "trying again" in agent.log.read_text())
        assert starting.poll() is None
        scene.guest.start()
        assert starting.wait(20) == OK
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


# Failures --------------------------------------------------------------------------------


def test_a_death_is_a_failure_with_its_reason_and_the_next_start_is_good(
    scene: Scene, agent: Agent
) -> None:
    assert agent.code("start") == OK
    scene.guest.order("db", 3)
    wait_for(lambda: agent.code("monitor") != OK)
    assert agent("monitor") == (GENERIC, "ocf-exit-reason:db: ended by itself, exit code 3\n")
    assert agent.code("stop") == OK
    assert agent.code("start") == OK
    assert agent.code("stop") == OK


def test_a_killed_manager_is_a_failure_and_no_stop(scene: Scene, agent: Agent) -> None:
    assert agent.code("start") == OK
    agent.kill_manager()
    assert "its manager ended without a word" in agent("monitor")[1]
    assert scene.guest.pids("db")
    assert agent.code("stop") == OK
    assert not scene.guest.pids("db")


def test_an_old_failure_does_not_fail_a_start(scene: Scene, agent: Agent) -> None:
    """Of a run that ended while nobody followed it; the cluster knows that something was wrong."""
    assert agent.code("start") == OK
    agent.kill_manager()
    scene.guest.order("db", 9)
    scene.guest.wait_status("db", phase="failed")
    assert agent.code("stop") == OK
    assert agent.code("start") == OK
    assert "exit code 9; trying again" in agent.log.read_text()
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


def program(scene: Scene, *lines: str) -> str:
    """Something in the place of cmappmgr; its path."""
    path = scene.folder / "program"
    path.write_text("\n".join([*lines, ""]))
    path.chmod(0o755)
    return str(path)


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
        (broken_program, GENERIC, "its manager ended without a report: no module ssl"),
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
    [("size=8k", GENERIC, "/pid"), ("size=8k,nr_inodes=3", PERM, "/lock")],
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


def managers(agent: Agent) -> list[psutil.Process]:
    """Those that have begun, whatever the agent knows."""
    words = str(agent.state / "report")
    return [
        each for each in psutil.process_iter(["cmdline"]) if words in (each.info["cmdline"] or ())
    ]


# Monitor ---------------------------------------------------------------------------------


def test_a_monitor_waits_for_an_end_but_a_probe_and_what_comes_after_a_pause_do_not(
    scene: Scene, agent: Agent
) -> None:
    """Whatever Pacemaker plans next would wait for those."""
    assert agent.code("start") == OK
    begin = time.monotonic()
    assert agent.code("monitor", interval=1, timeout=60) == OK
    assert agent.code("monitor", timeout=60) == OK
    assert agent.code("monitor", interval=1, timeout=60) == OK
    agent.watched.write_text("1\n")
    assert agent.code("monitor", interval=1, timeout=60) == OK
    assert time.monotonic() - begin < 20  # one that waits does so for half its timeout
    with agent.begin("monitor", interval=1, timeout=60) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
        scene.guest.order("db", 4)
        assert waiting.wait(20) == GENERIC
    assert agent.code("stop") == OK


def test_a_monitor_that_sees_no_end_is_over_in_time(agent: Agent) -> None:
    assert agent.code("start") == OK
    assert agent.code("monitor", interval=1) == OK
    begin = time.monotonic()
    assert agent.code("monitor", interval=1, timeout=10) == OK
    assert 1 < time.monotonic() - begin < 10
    assert agent.code("stop") == OK


@pytest.mark.parametrize(("level", "interval"), [(0, 1), (0, 0), (10, 0)])
def test_a_manager_that_is_suspended_is_a_failure(
    scene: Scene, agent: Agent, level: int, interval: int
) -> None:
    """It is at fault, not the application, which its stop ends in order all the same."""
    assert agent.code("start") == OK
    suspend(agent.manager)
    code, said = agent("monitor", level=level, interval=interval)
    assert (code, "its manager is suspended" in said) == (GENERIC, True)
    assert agent("stop") == (OK, "")
    assert not scene.guest.pids("db")
    assert "exit 0, stopped" in agent.log.read_text()


def test_a_manager_that_is_suspended_can_hand_over(scene: Scene, agent: Agent) -> None:
    assert agent.code("start") == OK
    pid = scene.guest.pid_of("db")
    suspend(agent.manager)
    assert agent.code("migrate_to", timeout=10) == OK
    assert scene.guest.pid_of("db") == pid


def test_level_10_asks_the_guest(scene: Scene, agent: Agent) -> None:
    assert agent.code("start") == OK
    assert agent.code("monitor", level=10) == OK
    agent.environment["OCF_RESKEY_app"] = "oracle"
    code, said = agent("monitor", level=10)
    assert (code, "there is no application 'oracle'" in said) == (GENERIC, True)


def test_how_long_a_silent_guest_is_waited_for_its_manager_knows(
    scene: Scene, agent: Agent
) -> None:
    """It may be that somebody works on it."""
    assert agent.code("start") == OK
    frozen(scene)
    assert agent.code("monitor", level=10, timeout=4) == OK
    assert "the guest cannot be asked" in agent.log.read_text()
    assert scene.guest.server is not None
    scene.guest.server.signal(signal.SIGCONT)
    assert agent.code("stop") == OK


def test_a_silent_guest_does_not_keep_the_cluster_from_acting(scene: Scene, make: Make) -> None:
    """Pacemaker does one thing at a time with a resource: what is planned waits for a monitor."""
    scene.guest.obedient("db")
    scene.guest.start()
    agent = make(config=scene.host(connect_timeout="25s"))
    assert agent.code("start") == OK
    frozen(scene)
    begin = time.monotonic()
    assert agent.code("monitor", level=10, timeout=28) == OK
    assert time.monotonic() - begin < 15  # answer_timeout is 2
    assert scene.guest.server is not None
    scene.guest.server.signal(signal.SIGCONT)
    assert agent.code("stop") == OK


def test_no_words_of_the_guest_can_forge_a_line_of_the_log(scene: Scene, agent: Agent) -> None:
    assert agent.code("start") == OK
    words = r"cmappmgr db@guest1: \n2026-01-01 00:00:00 \033[2J"
    lines = ("#!/bin/sh", f"printf '%s\\n' '{words}'", "exit 201")
    agent.environment["OCF_RESKEY_program"] = program(scene, *lines)
    assert agent.code("monitor", level=10) == OK
    assert words.removeprefix("cmappmgr ") in agent.log.read_text()
    agent.environment["OCF_RESKEY_program"] = agent.parameters["program"]
    assert agent.code("stop") == OK


@pytest.mark.parametrize("action", ["monitor", "stop", "start", "migrate_to"])
def test_where_the_life_of_the_manager_cannot_be_told_nothing_is_taken_for_granted(
    make: Make, action: str
) -> None:
    agent = make()
    agent.state.mkdir()
    (agent.state / "lock").symlink_to("/nonexistent/lock")
    code, said = agent(action)
    assert code == GENERIC, said
    assert f"cannot tell whether its manager lives: flock {agent.state}/lock ended with 66" in said


def died(scene: Scene, agent: Agent) -> None:
    manager = Path(f"/proc/{agent.manager}")
    scene.guest.order("db", 4)
    wait_for(lambda: not manager.exists())


def killed(scene: Scene, agent: Agent) -> None:
    manager = Path(f"/proc/{agent.manager}")
    os.kill(agent.manager, signal.SIGKILL)
    wait_for(lambda: not manager.exists())


def suspended(scene: Scene, agent: Agent) -> None:
    suspend(agent.manager)


@pytest.mark.parametrize("trouble", [died, killed, suspended])
@pytest.mark.parametrize("first", [0, 10])
def test_trouble_between_monitors_is_told_by_one_of_two(
    scene: Scene, agent: Agent, trouble: Callable[[Scene, Agent], None], first: int
) -> None:
    assert agent.code("start") == OK
    assert agent.code("monitor", interval=1) == OK
    if first == 0:
        assert agent.code("monitor", interval=60, level=10) == OK
    trouble(scene, agent)
    for level in (first, 10 - first, first):
        expected = OK if level else GENERIC
        assert agent.code("monitor", interval=60 if level else 1, level=level) == expected
    assert agent.code("stop") == OK


@pytest.mark.parametrize("trouble", [died, killed, suspended])
@pytest.mark.parametrize("first", [0, 10])
def test_trouble_before_the_first_monitors_is_told_by_one_of_two(
    scene: Scene, agent: Agent, trouble: Callable[[Scene, Agent], None], first: int
) -> None:
    """After a start, and after a cleanup, both are due, in either order."""
    assert agent.code("start") == OK
    assert agent.code("monitor", interval=60, level=10) == OK
    assert agent.code("monitor") == OK
    trouble(scene, agent)
    for level in (first, 10 - first, first, 10 - first):
        expected = OK if level else GENERIC
        assert agent.code("monitor", interval=60 if level else 1, level=level) == expected
    assert agent.code("stop") == OK


@pytest.mark.parametrize("first", [0, 10])
def test_trouble_after_a_monitor_was_killed_is_told_by_one_of_two(
    scene: Scene, agent: Agent, first: int
) -> None:
    """Pacemaker kills the one that waits when it stops to watch, as for maintenance-mode."""
    assert agent.code("start") == OK
    assert agent.code("monitor", interval=1) == OK
    assert agent.code("monitor", interval=60, level=10) == OK
    waiting = agent.begin_waiting()
    below = psutil.Process(waiting.pid).children()
    waiting.kill()
    for each in below:
        each.kill()
    waiting.communicate()
    died(scene, agent)
    for level in (first, 10 - first, first):
        expected = OK if level else GENERIC
        assert agent.code("monitor", interval=60 if level else 1, level=level) == expected
    assert agent.code("stop") == OK


@pytest.mark.parametrize("trouble", [died, killed, suspended])
def test_a_monitor_of_level_10_that_is_alone_tells_of_trouble(
    scene: Scene, agent: Agent, trouble: Callable[[Scene, Agent], None]
) -> None:
    """Also one that had another beside it, which was taken out of the cluster's configuration."""
    assert agent.code("start") == OK
    assert agent.code("monitor", interval=1) == OK
    agent.watched.write_text("-1000\n")  # which is long ago
    assert agent.code("monitor", interval=60, level=10) == OK
    trouble(scene, agent)
    assert agent.code("monitor", interval=60, level=10) == GENERIC
    assert agent.code("stop") == OK


# Stop ------------------------------------------------------------------------------------


def test_a_stop_waits_for_an_application_that_takes_its_time(scene: Scene, make: Make) -> None:
    """It outlasts the patience with a guest that does not answer: this one does."""
    scene.guest.shell("db", "trap 'sleep 4; exit 0' TERM; while :; do sleep 0.1; done")
    scene.guest.start()
    agent = make()
    assert agent.code("start") == OK
    assert agent.code("stop") == OK
    assert not scene.guest.pids("db")
    assert scene.guest.status("db")["last"]["cause"] == "manager"
    assert "exit 0, stopped: stopped as its manager asked" in agent.log.read_text()


def unreadable(scene: Scene, agent: Agent) -> None:
    Path(agent.parameters["config"]).unlink()


def refused(scene: Scene, agent: Agent) -> None:
    config = Path(agent.parameters["config"])
    config.write_text(config.read_text().replace("guest1", "guest2"))


@pytest.mark.parametrize("trouble", [unreadable, refused])
@pytest.mark.parametrize("other_guests", ["false", "true"])
def test_a_stop_waits_for_a_manager_beside_which_nobody_can_ask(
    scene: Scene, make: Make, trouble: Callable[[Scene, Agent], None], other_guests: str
) -> None:
    """It has its link, and knows how the stop goes."""
    scene.guest.shell("db", "trap 'sleep 4; exit 0' TERM; while :; do sleep 0.1; done")
    scene.guest.start()
    agent = make(other_guests=other_guests)
    assert agent.code("start") == OK
    trouble(scene, agent)
    assert agent("stop") == (OK, "")
    assert not scene.guest.pids("db")
    assert "exit 0, stopped: stopped as its manager asked" in agent.log.read_text()


def test_a_stop_needs_no_log(scene: Scene, make: Make) -> None:
    """Whose folder may be gone."""
    folder = scene.folder / "logs"
    scene.guest.obedient("db")
    scene.guest.start()
    agent = make(log=str(folder / "db.log"))
    assert agent.code("start") == OK
    agent.kill_manager()
    shutil.rmtree(folder)
    assert agent("stop") == (OK, "")
    assert not scene.guest.pids("db")


def test_a_stop_has_failed_where_the_manager_lives_on(scene: Scene, agent: Agent) -> None:
    """It owns the application, and nobody would know of it."""
    assert agent.code("start") == OK
    pid = agent.manager
    frozen(scene)
    (agent.state / "pid").write_text("")
    code, said = agent("stop")
    assert (code, "lives on after SIGKILL" in said) == (GENERIC, True)
    assert agent.code("monitor") == OK
    (agent.state / "pid").write_text(f"{pid}\n")
    assert agent.code("stop") == OK


def test_a_stop_that_does_not_succeed_in_time_has_failed(scene: Scene, make: Make) -> None:
    scene.guest.shell("db", STUBBORN, stop={"timeout": "60s"})
    scene.guest.start()
    agent = make()
    assert agent.code("start") == OK
    begin = time.monotonic()
    code, said = agent("stop", timeout=10)
    assert time.monotonic() - begin < 10
    assert code == GENERIC
    assert "ocf-exit-reason:db: " in said
    assert scene.guest.pids("db")


def frozen(scene: Scene) -> None:
    assert scene.guest.server is not None
    scene.guest.server.signal(signal.SIGSTOP)


def dead(scene: Scene) -> None:
    assert scene.guest.server is not None
    scene.guest.server.kill()


@pytest.mark.parametrize("trouble", [frozen, dead])
@pytest.mark.parametrize("orphaned", [False, True])
def test_a_stop_without_an_answer_is_good_where_only_this_guest_can_run_it(
    scene: Scene, agent: Agent, trouble: Callable[[Scene], None], orphaned: bool
) -> None:
    assert agent.code("start") == OK
    trouble(scene)
    if orphaned:
        agent.kill_manager()
    assert agent.code("stop") == OK
    assert "stopped as far as the cluster is concerned" in agent.log.read_text()
    assert agent.code("monitor") == NOT_RUNNING


@pytest.mark.parametrize("trouble", [frozen, dead])
def test_it_has_failed_where_another_guest_could(
    scene: Scene, make: Make, trouble: Callable[[Scene], None]
) -> None:
    scene.guest.obedient("db")
    scene.guest.start()
    agent = make(other_guests="true")
    assert agent.code("start") == OK
    trouble(scene)
    code, said = agent("stop")
    assert code == GENERIC
    assert "it may still run, and may be started elsewhere" in said


def test_it_waits_until_the_guest_has_ended_it(scene: Scene, make: Make) -> None:
    """The link is cut, and the guest ends it when the lease is over."""
    manager = {"on_lost": "stop", "lease": "5s"}
    scene.guest.obedient("db", manager=manager, stop={"timeout": "2s"})
    scene.guest.start()
    proxy = Proxy(scene.guest.port)
    try:
        config = scene.host(port=proxy.port)
        agent = make(config=config, other_guests="true", ends_alone_after="9")
        assert agent.code("start") == OK
        proxy.freeze()
        assert agent.code("stop") == OK
        assert not scene.guest.pids("db")
        assert scene.guest.status("db")["last"]["cause"] == "lease"
    finally:
        proxy.close()


def test_it_waits_also_where_the_manager_was_killed_when_the_link_was_cut(
    scene: Scene, make: Make
) -> None:
    """For the whole time, which an application that ignores the signal takes."""
    within = at_most_once.ends_within(5, 3, has_after=False)
    needed = at_most_once.ends_alone_after(within)
    manager = {"on_lost": "stop", "lease": "5s"}
    scene.guest.shell("db", STUBBORN, manager=manager, stop={"timeout": "3s"})
    scene.guest.start()
    proxy = Proxy(scene.guest.port)
    try:
        config = scene.host(port=proxy.port)
        agent = make(config=config, other_guests="true", ends_alone_after=str(needed))
        assert agent.code("start") == OK
        assert "a stop without an answer will fail" not in agent.log.read_text()
        proxy.freeze()
        os.kill(agent.manager, signal.SIGKILL)
        begin = time.monotonic()
        assert agent.code("stop", timeout=25) == OK
        assert not scene.guest.pids("db")
        assert time.monotonic() - begin >= needed
    finally:
        proxy.close()


@pytest.mark.parametrize("orphaned", [False, True])
def test_it_goes_by_what_the_guest_has_said_last(scene: Scene, make: Make, orphaned: bool) -> None:
    manager = {"on_lost": "stop", "lease": "5s"}
    scene.guest.obedient("db", manager=manager, stop={"timeout": "2s"})
    scene.guest.start()
    agent = make(other_guests="true", ends_alone_after="9")
    assert agent.code("start") == OK
    scene.guest.apps["db"]["manager"]["lease"] = "30s"
    scene.guest.write()
    wait_for(lambda: "may run for 33s after it is cut off" in agent.log.read_text())
    assert agent.code("monitor", level=10) == OK
    reason = "ends_alone_after must be 34 at least"
    assert reason in agent.log.read_text()
    if orphaned:
        agent.kill_manager()
    dead(scene)
    code, said = agent("stop")
    assert (code, reason in said) == (GENERIC, True)


def test_it_fails_at_once_where_that_takes_longer_than_a_stop_may(scene: Scene, make: Make) -> None:
    scene.guest.obedient("db", manager={"on_lost": "stop", "lease": "5s"})
    scene.guest.start()
    agent = make(other_guests="true", ends_alone_after="60")
    assert agent.code("start") == OK
    dead(scene)
    code, said = agent("stop", timeout=15)
    assert (code, "shorter than ends_alone_after" in said) == (GENERIC, True)


@pytest.mark.parametrize(
    ("manager", "reason"),
    [
        ({"on_lost": "keep"}, "manager.on_lost in the guest is not 'stop'"),
        ({"on_lost": "stop", "lease": "30s"}, "ends_alone_after must be 34 at least"),
    ],
)
def test_a_guest_that_would_not_end_it_in_time_is_not_relied_on(
    scene: Scene, make: Make, manager: dict[str, str], reason: str
) -> None:
    """Which is said at the start, and is why a stop without an answer has failed."""
    scene.guest.define("db", "/bin/sleep", "600", stop={"timeout": "2s"}, manager=manager)
    scene.guest.start()
    agent = make(other_guests="true", ends_alone_after="3")
    assert agent.code("start") == OK
    assert "a stop without an answer will fail: " in agent.log.read_text()
    assert reason in agent.log.read_text()
    dead(scene)
    code, said = agent("stop")
    assert (code, reason in said) == (GENERIC, True)


def test_what_another_manager_owns_is_not_stopped(scene: Scene, make: Make) -> None:
    scene.guest.obedient("db")
    scene.guest.start()
    agent = make()
    assert agent.code("start") == OK
    pid = scene.guest.pid_of("db")
    host2 = scene.host(scene.authority.manager("vmhost2"))
    other = scene.manager("db", "--takeover", config=host2)
    other.wait_said("running")
    wait_for(lambda: agent.code("monitor") == GENERIC)
    assert "taken over by vmhost2" in agent("monitor")[1]
    assert agent.code("stop") == OK
    assert scene.guest.pids("db") == [pid]
    assert other.stop() == 0


# Migration -------------------------------------------------------------------------------


@pytest.fixture
def other(scene: Scene, make: Make) -> Agent:
    """The same resource at another node."""
    return make(node="node2", config=scene.host(scene.authority.manager("vmhost2")))


def test_a_migration_leaves_the_application_alone(scene: Scene, agent: Agent, other: Agent) -> None:
    assert agent.code("start") == OK
    pid = scene.guest.pid_of("db")
    assert agent("migrate_to") == (OK, "")
    assert agent.code("monitor") == NOT_RUNNING
    assert other("migrate_from") == (OK, "")
    assert agent.code("stop") == OK  # Pacemaker does that, too
    assert (agent.code("monitor"), other.code("monitor")) == (NOT_RUNNING, OK)
    assert scene.guest.pids("db") == [pid]
    assert scene.guest.status("db")["owner"] == "vmhost2"
    assert other.code("stop") == OK


def test_what_may_run_in_another_guest_is_not_migrated(scene: Scene, make: Make) -> None:
    """Its manager at the other node would start it in the guest there."""
    scene.guest.obedient("db")
    scene.guest.start()
    agent = make(other_guests="true")
    assert agent.code("start") == OK
    code, said = agent("migrate_to")
    assert (code, "cannot be migrated live" in said) == (GENERIC, True)
    assert agent.code("monitor") == OK
    assert agent.code("stop") == OK


def test_a_death_between_two_managers_is_a_failure(
    scene: Scene, agent: Agent, other: Agent
) -> None:
    assert agent.code("start") == OK
    assert agent.code("migrate_to") == OK
    scene.guest.order("db", 6)
    scene.guest.wait_status("db", phase="failed")
    code, said = other("migrate_from")
    assert (code, "exit code 6" in said) == (GENERIC, True)
    assert other.code("stop") == OK


def test_what_cannot_be_handed_over_is_not_left(scene: Scene, agent: Agent) -> None:
    """Without a manager, and without a guest that answers."""
    assert agent.code("migrate_to") == GENERIC
    assert agent.code("start") == OK
    frozen(scene)
    assert agent.code("migrate_to", timeout=5) == GENERIC
    assert agent.code("stop") == OK


def test_the_manager_keeps_nothing_of_the_agent(agent: Agent) -> None:
    """Pacemaker waits for whoever holds the agent's output, and ends its process group."""
    process = agent.begin("start")
    process.communicate(timeout=20)
    assert os.getsid(agent.manager) == agent.manager
    assert agent.code("stop") == OK
