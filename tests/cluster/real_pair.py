"""Two packages with guests that have kernels of their own (see real_package.py)."""

import time

from tests.cluster.cluster import Cluster
from tests.cluster.real_package import Package
from tests.cluster.resources import OTHER
from tests.cluster.scenarios import Scenario


def real_packages_fail_over(cluster: Cluster) -> float:
    """Three applications each, from one node to the other, side by side."""
    first = Package(cluster, "real2", ("a1", "a2", "a3"))
    # The cluster spreads what it starts: only what is there already decides where that is.
    cluster.run("crm_attribute", "--node", OTHER[first.node], "--name", "standby", "--update", "on")
    second = Package(cluster, "real3", ("b1", "b2", "b3"))
    cluster.run("crm_attribute", "--node", OTHER[first.node], "--name", "standby", "--delete")
    second.settle(first.node)
    first.settle(first.node)
    cluster.read_logs()
    cluster.kill(first.node)
    begin, there = time.monotonic(), OTHER[first.node]
    seconds = max(first.recovery(there, begin), second.recovery(there, begin))
    assert cluster.hypervisor.take_fenced() == [first.node]
    cluster.boot(first.node)
    cluster.wait_online(*OTHER)
    return seconds


REAL_PAIR: tuple[Scenario, ...] = (real_packages_fail_over,)
