"""What happens in a cluster: every scenario once."""

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.scenarios import SCENARIOS, Scenario

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
def test_it_ends_well(scenario: Scenario, cluster: Cluster) -> None:
    seconds = scenario(cluster)
    print(f"{scenario.__name__}: {seconds:.2f} s")
