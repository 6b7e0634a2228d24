"""What is done on purpose to a cluster with such a guest: every scenario once.

Apart from what fails, so that each may have a process and a guest of its own.
"""

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.real_administration import REAL_ADMINISTRATION
from tests.cluster.scenarios import Scenario

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]


@pytest.mark.parametrize("scenario", REAL_ADMINISTRATION, ids=lambda one: one.__name__)
def test_it_ends_well(scenario: Scenario, real_cluster: Cluster) -> None:
    seconds = scenario(real_cluster)
    print(f"{scenario.__name__}: {seconds:.2f} s")
