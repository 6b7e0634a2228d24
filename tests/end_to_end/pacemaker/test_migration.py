"""A migration of the agent: the application is handed over, and left alone."""

import pytest

from tests.end_to_end.harness import Scene
from tests.end_to_end.pacemaker.ocf import (
    GENERIC,
    NEEDS,
    NOT_RUNNING,
    OK,
    Agent,
    Make,
    freeze,
)

pytestmark = NEEDS


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
    freeze(scene)
    assert agent.code("migrate_to", timeout=5) == GENERIC
    assert agent.code("stop") == OK
