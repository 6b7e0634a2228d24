"""What happens in a cluster with a guest that has a kernel of its own: every scenario once."""

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.conftest import FAILED, print_logs
from tests.cluster.real_scenarios import REAL_SCENARIOS
from tests.cluster.scenarios import Scenario
from tests.guest_vm.image import CannotError

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def kept_cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, which keeps its resources from test to test: to boot the guest takes time."""
    try:
        shared_cluster.real  # noqa: B018  is made
    except CannotError as error:
        pytest.skip(str(error))
    yield shared_cluster
    try:
        shared_cluster.clear()
    except BaseException:
        shared_cluster.restart()
        raise


@pytest.fixture
def cluster(kept_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    yield kept_cluster
    if request.node.stash[FAILED]:
        print_logs(kept_cluster)
        print(kept_cluster.real.vm.console.read_text(errors="replace")[-8000:])
        kept_cluster.restart()


@pytest.mark.parametrize("scenario", REAL_SCENARIOS, ids=lambda one: one.__name__)
def test_it_ends_well(scenario: Scenario, cluster: Cluster) -> None:
    seconds = scenario(cluster)
    print(f"{scenario.__name__}: {seconds:.2f} s")
