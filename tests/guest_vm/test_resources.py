"""Limits of memory, processors and processes, by a kernel that has the controllers in cgroup v2.

The server is started as systemd starts a service: by a process that goes into the service's cgroup
and becomes it.
"""

import re
import tomllib
from pathlib import Path

import pytest
import tomli_w

from tests.certificates import Authority
from tests.guest_vm.server import CONFIG, LOG, UNIT, Server, manager
from tests.guest_vm.shell import PATIENCE
from tests.guest_vm.vm import Vm

# Alone, all of it takes a minute; beside others, a test alone can.
pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

PROJECT = Path(__file__).parents[2]
UNIT_FILE = PROJECT / "cluster" / "systemd" / "cmappserver.service.in"
EXAMPLE = PROJECT / "examples" / "apps.d" / "java.toml"
PYTHON = ["/opt/python/bin/python3", "-S", "-E", "-c"]
EATS = "kept = []\nwhile True: kept.append(b'x' * 2**20)"
# Its child eats when there is a file, and is killed; it lives on.
PARENT = """
import os, subprocess, sys, time
while True:
    if os.path.exists("/run/eat"):
        os.unlink("/run/eat")
        subprocess.run([sys.executable, "-S", "-E", "-c", sys.argv[1]])
    time.sleep(0.1)
"""

# In the place of journald, which this guest does not have: keeps what streams bring.
JOURNAL = """
import os, socket
os.makedirs("/run/systemd/journal", exist_ok=True)
listening = socket.socket(socket.AF_UNIX)
listening.bind("/run/systemd/journal/stdout")
listening.listen()
while True:
    stream, _ = listening.accept()
    if os.fork() == 0:
        with open("/run/journal", "ab", 0) as kept:
            while said := stream.recv(4096):
                kept.write(said)
        os._exit(0)
"""


@pytest.fixture(scope="module")
def server(vm: Vm, authority: Authority) -> Server:
    made = Server(vm, authority.guest("guest1"), authority.ca)
    made.define("parent", [*PYTHON, PARENT, EATS], resources={"memory": "40M"})
    made.define("plain", ["/bin/sleep", "100000"])
    made.start()
    return made


def test_it_says_what_can_be_limited(server: Server) -> None:
    said = server.wait_status("running")
    assert f"cgroups: one for each run, below {UNIT}/cmappd-" in said
    assert "resources: memory, cpu and processes can be limited" in said
    assert "processes: in a cgroup" in said
    checked = server.vm.must(f"cmappctl check {CONFIG}")
    assert "memory, cpu and processes can be limited, where cmappserver's cgroup" in checked
    own = server.vm.must("cat /proc/$(cat /run/pid)/cgroup")
    assert re.search(r"cmappserver.service/cmappd-\w+/server$", own), "it has made way"


def test_the_manager_of_what_eats_all_its_memory_exits_with_214(
    server: Server, authority: Authority, tmp_path: Path
) -> None:
    server.define("eater", [*PYTHON, EATS], autostart=False, resources={"memory": "32M"})
    server.vm.until(f"grep eater {LOG} || cmappctl reload")
    told = manager(tmp_path, authority, server.vm, "eater")
    assert told.wait(PATIENCE) == 214, told.said()
    assert told.report()["reason"] == "out-of-memory"
    last = told.said().splitlines()[-1]
    assert "exit 214, out-of-memory: killed by the kernel for memory, SIGKILL (signal 9)" in last


def test_a_fork_beyond_the_limit_of_processes_fails(server: Server) -> None:
    script = "for i in 1 2 3 4 5 6; do sleep 1000 & echo forked; done"
    server.define("forker", ["/bin/sh", "-c", script], resources={"processes": 5})
    server.vm.until(f"grep 'forker: run .* exit code 2' {LOG}")
    said = server.vm.must("cat /var/log/cmappd/forker.log")
    assert said.count("forked") == 4
    assert "can't fork" in said


def test_a_busy_one_gets_no_more_than_its_share_of_a_processor(server: Server) -> None:
    busy = ["/bin/sh", "-c", "while :; do :; done"]
    server.define("busy", busy, resources={"cpu": 0.1})
    server.vm.until(f"grep '^10000 100000' {server.cgroup('busy')}/cpu.max")

    def used() -> tuple[float, float]:
        clock, stat = server.vm.must(
            f"cut -d' ' -f1 /proc/uptime; head -n 1 {server.cgroup('busy')}/cpu.stat"
        ).split("\n", 1)
        return float(clock), int(stat.split()[1]) / 1e6

    before = used()
    after = before
    while after[0] - before[0] < 3:
        after = used()
    assert after[1] - before[1] < 0.2 * (after[0] - before[0])
    server.define("busy", busy, resources={"cpu": 0.05})
    server.vm.until(f"grep '^5000 ' {server.cgroup('busy')}/cpu.max")
    server.define("busy", busy)
    server.vm.until(f"grep '^max ' {server.cgroup('busy')}/cpu.max")
    server.vm.must("cmappctl stop busy")


def test_the_example_is_limited_and_its_log_is_in_the_journal(server: Server) -> None:
    """Another program for the one that nobody has; the rest of its keys is run without a guest."""
    vm, stanza = server.vm, tomllib.loads(EXAMPLE.read_text())["apps"]["orders"]
    assert stanza["log"] == {"destination": "journal"}
    vm.write("/run/journald.py", JOURNAL)
    journald = "/opt/python/bin/python3 -S -E /run/journald.py"
    vm.must(f"{journald} >/dev/null 2>&1 & echo $! >/run/journald.pid")
    vm.until("test -S /run/systemd/journal/stdout")
    command = [*PYTHON, "import time; print('begun', flush=True); time.sleep(1e6)"]
    server.define("orders", command, resources=stanza["resources"], log=stanza["log"])
    vm.until("grep -a begun /run/journal")
    assert "orders" in vm.must("head -n 1 /run/journal")
    assert server.read("orders", "memory.max") == str(2**30)
    assert server.read("orders", "cpu.max") == "150000 100000"
    assert server.read("orders", "pids.max") == "500"
    vm.must("cmappctl stop orders; kill $(cat /run/journald.pid); rm /run/systemd/journal/stdout")


def test_the_loss_of_a_child_is_told_and_is_no_end(server: Server) -> None:
    pid = server.pid("parent")
    server.vm.must("touch /run/eat")
    server.wait_status("the kernel has killed 1 of its processes for memory; it runs on")
    server.vm.must(f"grep 'parent: the kernel has killed 1 of its processes' {LOG}")
    assert server.pid("parent") == pid


def test_a_limit_below_what_is_in_memory_waits_for_the_restart(server: Server) -> None:
    server.define("parent", [*PYTHON, PARENT, EATS], resources={"memory": "1M"})
    server.wait_status("restart pending; .*resources: not in force: it has .* bytes in memory")
    assert server.read("parent", "memory.max") == str(40 * 2**20)
    server.define("parent", [*PYTHON, PARENT, EATS], resources={"memory": "60M"})
    server.vm.until(f"grep {60 * 2**20} {server.cgroup('parent')}/memory.max")


def test_systemd_can_start_the_next_one_next_to_what_runs_on(server: Server) -> None:
    vm, pid = server.vm, server.pid("parent")
    limit, told = server.read("parent", "memory.max"), server.told_kills("parent")
    server.end("KILL")
    assert vm.run(f"(echo 0 >{UNIT}/cgroup.procs)").code != 0, "systemd would fail with 219"
    exec_stop_post(vm, UNIT)
    server.start()
    assert server.pid("parent") == pid
    assert server.read("parent", "memory.max") == limit, "it is limited again"
    server.wait_status("what it had in memory before is not counted")
    vm.must("touch /run/eat")
    said = f"the kernel has killed {told + 1} of its processes for memory"
    vm.until(f"grep 'parent: {said}' {LOG}")


def test_applications_that_are_kept_are_in_nobodys_way(server: Server) -> None:
    vm, pid = server.vm, server.pid("parent")
    server.configure(on_shutdown="keep")
    vm.must("cmappctl reload")
    server.end("TERM")
    vm.must(f"grep 'the limits of resources are lifted' {LOG}")
    server.configure()
    server.start()
    assert server.pid("parent") == pid
    server.end("TERM")
    assert vm.must(f"ls -d {UNIT}/cmappd-* || true").count("cmappd") == 1, "ls says there is none"
    assert vm.must(f"cat {UNIT}/cgroup.subtree_control").split() == []


def test_controllers_are_taken_back_in_whatever_slice_it_is(server: Server) -> None:
    vm, slice = server.vm, "/sys/fs/cgroup/guests.slice"
    unit, runs = f"{slice}/cmappserver.service", f"{slice}/cmappserver.service/cmappd-1"
    vm.must(f"mkdir -p {runs}/app")
    for folder in (slice, unit, runs):
        vm.must(f"echo +memory >{folder}/cgroup.subtree_control")
    exec_stop_post(vm, unit)
    assert vm.must(f"cat {unit}/cgroup.subtree_control {runs}/cgroup.subtree_control").split() == []
    vm.must(f"rmdir {runs}/app {runs} {unit} {slice}")


def exec_stop_post(vm: Vm, unit: str) -> None:
    """Execute what the unit has systemd execute when it was killed, where systemd does."""
    (line,) = re.findall(r"^ExecStopPost=-(.*)$", UNIT_FILE.read_text(), re.MULTILINE)
    command = str(line).replace("$$", "$").replace("%%", "%")
    control = f"{unit}/.control"
    vm.must(f"mkdir {control}; (echo 0 >{control}/cgroup.procs; {command}); rmdir {control}")


def test_an_ordinary_user_limits_in_a_cgroup_of_his_own(server: Server) -> None:
    vm, home = server.vm, "/tmp/nobody"
    own = "/sys/fs/cgroup/nobody"
    files = "cgroup.procs cgroup.subtree_control cgroup.threads"
    vm.must(f"mkdir {own} {home}; cd {own}; chown nobody . {files}; chown nobody {home}")
    stanza = {"command": ["/bin/sleep", "100000"], "autostart": True}
    tables = {
        "server": {"state_directory": f"{home}/state"},
        "apps": {"db": {**stanza, "resources": {"memory": "30M", "cpu": 1, "processes": 9}}},
    }
    vm.write(f"{home}/c.toml", tomli_w.dumps(tables), mode="644")
    vm.must(
        f"(echo 0 >{own}/cgroup.procs; cd {home}; HOME={home} exec /usr/bin/setpriv --reuid=65534"
        f" --regid=65534 --clear-groups cmappserver --config {home}/c.toml) >{home}/log 2>&1 &"
    )
    vm.until(f"grep 'db: running' {home}/log || ! cat {home}/log")
    found = vm.must(f"cd {own}/cmappd-*/app-db.*[0-9]; cat memory.max pids.max cpu.max").split()
    assert found == [str(30 * 2**20), "9", "100000", "100000"]
    said = vm.must(f"cmappctl --socket {home}/state/control.sock status -v")
    assert "resources: memory, cpu and processes can be limited" in said
    vm.must(f"kill $(cat {own}/cmappd-*/server/cgroup.procs)")
    vm.until(f"! ls -d {own}/cmappd-*")
