"""A stop of the agent, also where the guest is dead, frozen, or cut off."""

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cmappd.core import at_most_once
from cmappd.core.messages import Claim
from cmappd.system import tls
from tests.end_to_end.causes.people import STUBBORN
from tests.end_to_end.harness import Scene
from tests.end_to_end.pacemaker.ocf import (
    GENERIC,
    NEEDS,
    NOT_RUNNING,
    OK,
    Agent,
    Make,
    freeze,
    kill,
)
from tests.end_to_end.programs import wait_for
from tests.end_to_end.proxy import Proxy
from tests.server.harness import Client

pytestmark = NEEDS


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


def unresolvable(scene: Scene, agent: Agent) -> None:
    config = Path(agent.parameters["config"])
    config.write_text(config.read_text().replace("127.0.0.1", f"{'x' * 64}.invalid"))


@pytest.mark.parametrize("trouble", [unreadable, refused, unresolvable])
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


@pytest.mark.parametrize("other_guests", ["false", "true"])
def test_a_stop_heeds_a_manager_that_ends_in_order_while_nobody_answers_beside_it(
    scene: Scene, make: Make, other_guests: str
) -> None:
    """The guest may be too busy for new connections."""
    scene.guest.shell("db", "trap 'sleep 2; exit 0' TERM; while :; do sleep 0.1; done")
    scene.guest.start()
    proxy = Proxy(scene.guest.port)
    try:
        config = scene.host(port=proxy.port)
        agent = make(config=config, other_guests=other_guests, answer_timeout="10")
        assert agent.code("start") == OK
        proxy.stall()
        assert agent("stop", timeout=25) == (OK, "")
    finally:
        proxy.close()
    assert not scene.guest.pids("db")


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
    freeze(scene)
    (agent.state / "pid").write_text("")
    code, said = agent("stop")
    assert (code, f"could not be signalled: {agent.state}/pid has ''" in said) == (GENERIC, True)
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


@pytest.mark.parametrize("trouble", [freeze, kill])
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


def test_it_is_so_too_where_the_guest_falls_silent_meanwhile(scene: Scene, make: Make) -> None:
    script = "trap '>stopping' TERM; while :; do sleep 0.1; done"
    scene.guest.shell("db", script, stop={"timeout": "60s"})
    scene.guest.start()
    agent = make()
    assert agent.code("start") == OK
    agent.kill_manager()
    with agent.begin("stop", timeout=10) as stopping:
        wait_for((scene.folder / "stopping").exists)
        freeze(scene)
        assert stopping.wait(20) == OK
    assert "stopped as far as the cluster is concerned" in agent.log.read_text()


@pytest.mark.parametrize("trouble", [freeze, kill])
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


def test_it_has_the_time_for_that_also_where_nobody_can_ask(scene: Scene, make: Make) -> None:
    """The manager is not waited for longer than it takes then, whatever it is about."""
    scene.guest.obedient("db", manager={"on_lost": "stop", "lease": "5s"}, stop={"timeout": "2s"})
    scene.guest.start()
    proxy = Proxy(scene.guest.port)
    try:
        config = scene.host(port=proxy.port)
        times = {"ends_alone_after": "9", "answer_timeout": "10"}
        agent = make(config=config, other_guests="true", **times)
        assert agent.code("start") == OK
        proxy.freeze()
        unreadable(scene, agent)
        begin = time.monotonic()
        assert agent.code("stop", timeout=28) == OK
        assert time.monotonic() - begin < 28  # or Pacemaker would have killed it
        assert not scene.guest.pids("db")
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


def test_what_an_earlier_manager_may_have_started_is_not_taken_for_stopped(
    scene: Scene, make: Make
) -> None:
    """The one that is told to stop has never come as far as to ask for it."""
    scene.guest.obedient("db")
    scene.guest.start()
    proxy = Proxy(scene.guest.port)
    try:
        agent = make(config=scene.host(port=proxy.port, connect_timeout="30s"), other_guests="true")
        assert agent.code("start") == OK
        proxy.freeze()
        os.kill(agent.manager, signal.SIGKILL)
        assert agent.code("start", timeout=5) == GENERIC
        code, said = agent("stop")
        assert (code, "it may still run, and may be started elsewhere" in said) == (GENERIC, True)
        assert scene.guest.pids("db")
    finally:
        proxy.close()


@contextlib.contextmanager
def connected(scene: Scene) -> Iterator[Client]:
    """A manager of this host that has said hello, and nothing else yet."""
    context = tls.client_context(*scene.identity, scene.authority.ca)
    with (
        socket.create_connection(("127.0.0.1", scene.guest.port)) as raw,
        context.wrap_socket(raw, server_hostname="guest1") as secured,
    ):
        client = Client(secured)
        client.greet()
        yield client


@pytest.mark.parametrize("stopped_by", ["its manager", "the agent"])
def test_after_a_stop_no_claim_that_the_network_holds_back_starts_it(
    scene: Scene, make: Make, stopped_by: str
) -> None:
    """Of a manager that was killed before it had an answer."""
    scene.guest.obedient("db")
    scene.guest.start()
    agent = make(config=scene.host(scene.identity), other_guests="true")
    with connected(scene) as killed:
        if stopped_by == "its manager":
            assert agent.code("start") == OK
        else:
            agent.state.mkdir()
            (agent.state / "pid").write_text("1\n")
        assert agent("stop") == (OK, "")
        killed.send(Claim(killed.next(), "db"))
        assert killed.wait_cut() == []
    assert not scene.guest.pids("db")


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
    kill(scene)
    code, said = agent("stop")
    assert (code, reason in said) == (GENERIC, True)


def test_it_fails_at_once_where_that_takes_longer_than_a_stop_may(scene: Scene, make: Make) -> None:
    scene.guest.obedient("db", manager={"on_lost": "stop", "lease": "5s"})
    scene.guest.start()
    agent = make(other_guests="true", ends_alone_after="60")
    assert agent.code("start") == OK
    kill(scene)
    code, said = agent("stop", timeout=15)
    assert (code, "the timeout of stop is too short" in said) == (GENERIC, True)


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
    kill(scene)
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


def test_what_has_ended_needs_no_lease_of_another_manager_to_be_over(
    scene: Scene, make: Make
) -> None:
    scene.guest.obedient("db")
    scene.guest.start()
    agent = make(other_guests="true")
    assert agent.code("start") == OK
    agent.kill_manager()
    host2 = scene.host(scene.authority.manager("vmhost2"))
    other = scene.manager("db", "--takeover", config=host2)
    other.wait_said("running")
    other.kill()
    scene.guest.order("db", 3)
    scene.guest.wait_status("db", phase="failed", owner="vmhost2")
    assert agent.code("stop") == OK
