"""docs/pacemaker.md says what can be done: its resources are loaded and its commands run."""

import re
import shlex
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.machines import wait_for
from tests.cluster.resources import vm
from tests.cluster.scenarios import SOON

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

PAGE = (Path(__file__).parents[2] / "docs" / "pacemaker.md").read_text()
RESOURCES, CONSTRAINTS = re.findall(r"^```xml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[:2]
COMMANDS = re.findall(r"^ {4,}((?:crm_|cmappmgr).*)$", PAGE, re.MULTILINE)


def with_a_stand_in(resources: str) -> str:
    """The resources of the page, with the VM of the tests, for which nothing else is changed."""
    shown = re.search(r'<primitive id="vm1".*?</primitive>', resources, re.DOTALL)
    assert shown is not None
    return resources.replace(shown[0], vm("vm1"))


def inner(element: str) -> str:
    """What is between the first and the last tag."""
    return element.partition(">")[2].rpartition("<")[0]


def test_the_example_runs_and_so_do_the_commands(cluster: Cluster) -> None:
    cluster.declare("vm1", "web", "db")
    cluster.load(inner(with_a_stand_in(RESOURCES)))
    wait_for(lambda: set(cluster.active()) == {"vm1", "web", "db"}, "the example", SOON)
    cluster.settle()
    assert len(COMMANDS) >= 8
    for command in COMMANDS:
        cluster.run(*shlex.split(command))
        cluster.settle()
    wait_for(lambda: set(cluster.active()) == {"vm1", "web", "db"}, "the example", SOON)
    assert (cluster.failures("db"), cluster.failures("web")) == (0, 0)


def test_independent_applications_die_alone_and_take_the_vm_along(cluster: Cluster) -> None:
    """Each restart leaves the other application alone; at the threshold the VM follows."""
    cluster.declare("vm1", "web", "db")
    members = re.findall(r"<primitive.*?</primitive>", with_a_stand_in(RESOURCES), re.DOTALL)
    cluster.load("".join(members), inner(CONSTRAINTS))
    wait_for(lambda: set(cluster.active()) == {"vm1", "web", "db"}, "the example", SOON)
    cluster.settle()
    ((node,),) = {tuple(nodes) for nodes in cluster.active().values()}
    (pid,) = cluster.disk.pids("db")
    cluster.disk.order("web", 3)
    wait_for(lambda: cluster.disk.starts("web") == 2, "a restart", SOON)
    cluster.wait_at(node, "vm1", "web", "db")
    assert cluster.disk.pids("db") == [pid]
    cluster.settle()
    cluster.disk.order("web", 3)
    other = "node2" if node == "node1" else "node1"
    cluster.wait_at(other, "vm1", "web", "db", seconds=SOON)
