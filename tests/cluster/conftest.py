"""The cluster: one for all tests, cleared after each."""

from collections.abc import Generator, Iterator

import pytest

from tests.cluster import nodes
from tests.cluster.cluster import Cluster, why_not
from tests.guest_vm.image import CannotError

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = report.failed
    return report


@pytest.fixture(scope="package")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster itself."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Not here: the processes of the cluster come and go; with it all of them end."""


@pytest.fixture
def cluster(shared_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two nodes without resources; afterwards nobody may have seen what must not be."""
    yield shared_cluster
    try:
        assert not request.node.stash[FAILED], "the test has failed; the logs are below"
        shared_cluster.clear()
    except BaseException:
        print_logs(shared_cluster)
        shared_cluster.restart()
        raise


@pytest.fixture(scope="module")
def kept_cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, which keeps its resources from test to test: to boot the guest takes time."""
    try:
        shared_cluster.real()
    except CannotError as error:
        pytest.skip(str(error))
    yield shared_cluster
    try:
        shared_cluster.clear()
    except BaseException:
        shared_cluster.restart()
        raise


@pytest.fixture
def real_cluster(kept_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """It; after a failure it begins anew, and nobody may have seen what must not be."""
    yield kept_cluster
    violations = kept_cluster.violations()
    if request.node.stash[FAILED] or violations:
        print_logs(kept_cluster)
        for real in kept_cluster.reals.values():
            if real.vm.console.exists():
                print(f"---- {real.name}\n{real.vm.console.read_text(errors='replace')[-8000:]}")
        kept_cluster.restart()
    assert not violations, violations


def print_logs(cluster: Cluster) -> None:
    """For people who read of a failure."""
    print(cluster.run("crm_mon", "-1frn", check=False))
    print(nodes.logs(cluster.folder))
    for folder in (guest.folder for guest in cluster.guests.values()):
        for path in sorted(folder.glob("*.log")):
            print(f"---- {folder.name} {path.name}\n{path.read_text(errors='replace')[-4000:]}")
