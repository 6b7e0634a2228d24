"""A monitor of the agent: each failure is told, once, and in time."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.harness import Scene
from tests.end_to_end.pacemaker.ocf import (
    AGENT,
    GENERIC,
    NEEDS,
    OK,
    Agent,
    Make,
    freeze,
    program,
)
from tests.end_to_end.programs import wait_for
from tests.server.harness import suspend

pytestmark = NEEDS


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
    freeze(scene)
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
    freeze(scene)
    begin = time.monotonic()
    assert agent.code("monitor", level=10, timeout=28) == OK
    assert time.monotonic() - begin < 15  # answer_timeout is 2
    assert scene.guest.server is not None
    scene.guest.server.signal(signal.SIGCONT)
    assert agent.code("stop") == OK


def test_a_question_that_hangs_does_not_either(scene: Scene, agent: Agent) -> None:
    """On a name server that does not answer, whatever time was given."""
    assert agent.code("start") == OK
    agent.environment["OCF_RESKEY_program"] = program(scene, "#!/bin/sh", "exec sleep 600")
    begin = time.monotonic()
    assert agent.code("monitor", level=10, timeout=28) == OK
    assert time.monotonic() - begin < 15
    assert "the guest cannot be asked: no answer of " in agent.log.read_text()
    agent.environment["OCF_RESKEY_program"] = agent.parameters["program"]
    assert agent.code("stop") == OK


def test_a_program_that_fails_is_no_word_of_the_guest(scene: Scene, agent: Agent) -> None:
    assert agent.code("start") == OK
    lines = ("#!/bin/sh", "echo MemoryError", "exit 1")
    agent.environment["OCF_RESKEY_program"] = program(scene, *lines)
    assert agent.code("monitor", level=10) == OK
    assert "the guest cannot be asked: MemoryError" in agent.log.read_text()
    agent.environment["OCF_RESKEY_program"] = agent.parameters["program"]
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


def assert_told_by_level_0(agent: Agent, *levels: int) -> None:
    """In the order in which the monitors run."""
    for level in levels:
        expected = OK if level else GENERIC
        assert agent.code("monitor", interval=60 if level else 1, level=level) == expected


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
    assert_told_by_level_0(agent, first, 10 - first, first)
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
    assert_told_by_level_0(agent, first, 10 - first, first, 10 - first)
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
    assert_told_by_level_0(agent, first, 10 - first, first)
    assert agent.code("stop") == OK


@pytest.mark.parametrize("seen", [None, 181, 240])
def test_trouble_after_a_pause_of_any_length_is_told_by_one_of_two(
    scene: Scene, agent: Agent, seen: int | None
) -> None:
    """The other was last over so many seconds ago, or has not run since the start."""
    assert agent.code("start") == OK
    now = int(float(Path("/proc/uptime").read_text().split()[0]))
    if seen is not None:
        agent.watched.write_text(f"{now - seen}\n")
    agent.asked.write_text(f"{now - 178}\n")
    died(scene, agent)
    assert_told_by_level_0(agent, 10, 0, 10)
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


def test_a_monitor_that_waits_is_not_disturbed_by_an_installation(
    scene: Scene, agent: Agent
) -> None:
    """The shell has read all that it has to do, whatever is written over it."""
    text = AGENT.read_text()
    agent.script = scene.folder / "app"
    agent.script.write_text(text)
    agent.script.chmod(0o755)
    assert agent.code("start") == OK
    assert agent.code("monitor", interval=1) == OK
    with agent.begin_waiting() as waiting:
        agent.script.write_text(text.replace("#!/bin/sh\n", "#!/bin/sh\n# another one\n", 1))
        scene.guest.order("db", 4)
        assert waiting.wait(20) == GENERIC
    assert agent.code("stop") == OK
