"""What fails in a cluster with a guest that has a kernel of its own: every scenario once."""

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.real_scenarios import REAL_SCENARIOS
from tests.cluster.scenarios import Scenario

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]


@pytest.mark.parametrize("scenario", REAL_SCENARIOS, ids=lambda one: one.__name__)
def test_it_ends_well(scenario: Scenario, real_cluster: Cluster) -> None:
    seconds = scenario(real_cluster)
    print(f"{scenario.__name__}: {seconds:.2f} s")
