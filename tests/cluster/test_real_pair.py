"""Two packages with such guests, side by side; in a process with guests of its own."""

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.real_pair import REAL_PAIR
from tests.cluster.scenarios import Scenario

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]


@pytest.mark.parametrize("scenario", REAL_PAIR, ids=lambda one: one.__name__)
def test_it_ends_well(scenario: Scenario, real_cluster: Cluster) -> None:
    seconds = scenario(real_cluster)
    print(f"{scenario.__name__}: {seconds:.2f} s")
