"""The resources of a test."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.harness import Scene
from tests.end_to_end.pacemaker.ocf import Agent, Make


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
