"""docs/pacemaker.md says what can be done: its resources are loaded, and its commands run.

So is the line for pcs that the README has.
"""

import re
import shlex
import shutil
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.guests import PROGRAMS
from tests.cluster.machines import wait_for
from tests.cluster.resources import OTHER, prefers, vm

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pacemaker.md").read_text()
XML = re.compile(r"^```xml\n(.*?)^```", re.DOTALL | re.MULTILINE)
GROUP, CONSTRAINTS, ROAMER, ORDERS = XML.findall(PAGE)
COMMANDS = re.findall(r"^ {4,}((?:crm_|cmappmgr|cmappctl).*)$", PAGE, re.MULTILINE)
LOAD_GROUP, LOAD_CONSTRAINTS = re.findall(r"^ {4,}(cibadmin .*)$", PAGE, re.MULTILINE)
PCS = re.compile(r"^ {4}pcs ((?:.*\\\n)*.*)$", re.MULTILINE)
(ROTATION,) = re.findall(r"^```\n(/var/log/cmappd.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
ALL = ("vm1", "web", "db")
Settings = dict[str, tuple[str, ...]]


def with_a_stand_in(resources: str) -> str:
    """The resources of the page, with the VM of the tests, for which nothing else is changed."""
    shown = re.search(r'<primitive id="vm1".*?</primitive>', resources, re.DOTALL)
    assert shown is not None
    return resources.replace(shown[0], vm("vm1"))


def inner(element: str) -> str:
    """What is between the first and the last tag."""
    return element.partition(">")[2].rpartition("<")[0]


def settings(group: ET.Element) -> Settings:
    """All that a group sets, whatever the names are under which it is kept."""
    found: Settings = {"order": tuple(str(one.get("id")) for one in group.iter("primitive"))}
    for one in group.iter("primitive"):
        name = one.get("id")
        found[f"{name} is"] = tuple(str(one.get(key)) for key in ("class", "provider", "type"))
        for operation in one.iter("op"):
            kind = f"{name} {operation.get('name')} {operation.get('interval')}"
            found[f"{kind} timeout"] = (str(operation.get("timeout")),)
            found |= {f"{kind} {pair.get('name')}": (str(pair.get("value")),)
                      for pair in operation.iter("nvpair")}  # fmt: skip
        for part in ("instance_attributes", "meta_attributes"):
            found |= {f"{name} {pair.get('name')}": (str(pair.get("value")),)
                      for pair in one.iterfind(f"{part}/nvpair")}  # fmt: skip
    return found


def made_by_pcs(cluster: Cluster, *lines: str) -> ET.Element:
    """The group that these make."""
    file = "/run/example.xml"
    cluster.run("sh", "-c", f"cibadmin --empty >{file}")
    for line in lines:
        cluster.run("pcs", "-f", file, *shlex.split(line.replace("\\\n", " ")))
    made = ET.fromstring(cluster.run("cat", file)).find(".//group[@id='package1']")
    assert made is not None
    return made


def run(cluster: Cluster, command: str) -> None:
    """Run a command of the page where it belongs, and wait for what comes of it."""
    program, *words = shlex.split(command)
    if program == "cmappctl":
        control = (PROGRAMS / program, "--socket", "/run/cmappd/control.sock")
        cluster.guest_machine("vm1").run(*control, *words)
    else:
        cluster.run(program, *words)
    cluster.settle()


def write(cluster: Cluster, path: str, text: str) -> None:
    """Write a file where the programs of Pacemaker are run."""
    cluster.run("sh", "-c", 'printf %s "$1" >"$0"', path, text)


def load(cluster: Cluster, command: str, text: str) -> None:
    """Run a command of the page, with what it is to load in its file."""
    command, _, file = command.rpartition("<")
    write(cluster, f"/run/{file}", text)
    cluster.run("sh", "-c", f"{command} </run/{file}")


def test_the_example_runs_and_no_command_of_the_page_does_harm(cluster: Cluster) -> None:
    cluster.declare("vm1", "web", "db")
    cluster.load("", '<rsc_location id="at" rsc-pattern=".*" node="node1" score="10"/>')
    load(cluster, LOAD_GROUP, with_a_stand_in(GROUP))
    cluster.wait_at("node1", *ALL)
    machine = cluster.guest_machine("vm1")
    before = {app: cluster.disk.pid(app) for app in ("web", "db")}
    ran = []
    for command in COMMANDS:
        run(cluster, command)
        ran.append(command.split()[0])
        if " --move " in command:
            cluster.wait_at("node2", *ALL)
    cluster.wait_at("node1", *ALL)
    assert {"crm_resource", "crm_attribute", "cmappmgr", "cmappctl"} == set(ran)
    assert {app: cluster.disk.pid(app) for app in before} == before
    assert cluster.guest_machine("vm1") is machine
    assert (cluster.failures("db"), cluster.failures("web")) == (0, 0)


def test_the_lines_for_pcs_make_the_same_resources(cluster: Cluster) -> None:
    """Pcs adds the operations that the agents recommend."""
    if shutil.which("pcs") is None:
        pytest.skip("needs pcs")
    group = ET.fromstring(GROUP).find("group")
    assert group is not None
    assert settings(group).items() <= settings(made_by_pcs(cluster, *PCS.findall(PAGE))).items()


def test_the_line_of_the_readme_puts_an_application_behind_the_vm(cluster: Cluster) -> None:
    if shutil.which("pcs") is None:
        pytest.skip("needs pcs")
    (line,) = PCS.findall((ROOT / "README.md").read_text())
    made = settings(made_by_pcs(cluster, PCS.findall(PAGE)[0], line))
    assert made["order"] == ("vm1", "postgresql")
    assert made["postgresql app"] == ("postgresql",)


def test_independent_applications_die_alone_and_take_the_vm_along(cluster: Cluster) -> None:
    """Each restart leaves the other application alone; at the threshold the VM goes along."""
    cluster.declare("vm1", "web", "db")
    members = re.findall(r"<primitive.*?</primitive>", with_a_stand_in(GROUP), re.DOTALL)
    begin, end = (each for each in COMMANDS if "maintenance-mode" in each)
    run(cluster, begin)
    cluster.load("".join(members))
    load(cluster, LOAD_CONSTRAINTS, CONSTRAINTS)
    run(cluster, end)
    wait_for(lambda: set(cluster.active()) == set(ALL), "the example")
    cluster.settle()
    ((node,),) = set(map(tuple, cluster.active().values()))
    pid = cluster.disk.pid("db")
    cluster.disk.order("web", 3)
    cluster.disk.wait_starts("web", 2)
    cluster.wait_at(node, *ALL)
    assert cluster.disk.pid("db") == pid
    cluster.settle()
    for command in COMMANDS:
        if "allow-migrate" in command:
            run(cluster, command)
    cluster.disk.order("web", 3)
    cluster.wait_at(OTHER[node], *ALL)
    assert cluster.disk.pid("db") == pid


def test_an_application_with_two_guests(cluster: Cluster) -> None:
    """Which are declared as docs/failover-between-guests.md does it."""
    for guest in ("vm1", "vm2"):
        lease = {"on_lost": "stop", "lease": "20s"}
        cluster.declare(guest, "db", manager=lease, stop={"timeout": "20s"})
    cluster.load(vm("vm1") + vm("vm2") + ROAMER, prefers("db", "node1") + inner(ORDERS))
    cluster.wait_at("node1", "vm1", "db")
    cluster.run("crm_resource", "--move", "--resource", "db", "--node", "node2")
    cluster.wait_at("node2", "vm2", "db")
    runs = [line for line in cluster.disk.runs("db") if line.startswith("started")]
    assert runs == ["started in vm1", "started in vm2"]
    assert "a stop without an answer will fail" not in cluster.package_log("node2", "db")


def test_the_logs_are_rotated(cluster: Cluster) -> None:
    if shutil.which("logrotate") is None:
        pytest.skip("needs logrotate")
    cluster.declare("vm1", "web", "db")
    cluster.load(inner(with_a_stand_in(GROUP)), prefers("package1", "node1"))
    cluster.wait_at("node1", *ALL)
    write(cluster, "/run/rotation", ROTATION)
    cluster.run("logrotate", "--force", "--state=/run/rotated", "/run/rotation")
    for app in ("web", "db"):
        (manager,) = cluster.processes_in("node1", f"cmappd-{app}/report")
        wait_for(partial(has_opened, manager, f"/var/log/cmappd/{app}.log"), "the new log")


def has_opened(pid: int, path: str) -> bool:
    """Whether a process writes a file, and not the one that had its name before."""
    written = {str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()}
    return path in written and f"{path}.1" not in written
