"""The machines of the tests: nothing of them is left, however the tests end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import why_not
from tests.cluster.machines import Machine, Switch, children, wait_for

pytestmark = pytest.mark.root

PROGRAM = """\
import sys, time
from pathlib import Path
from tests.cluster.machines import Machine, Switch

folder = Path(sys.argv[1])
switch = Switch()
machine = Machine(switch, "10.77.0.1", folder, "sleep 600 &\\nsetsid sleep 600 &\\n")
print(*machine.pids(), flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def needs_namespaces() -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)


def test_machines_reach_each_other_and_a_cut_link_carries_nothing(tmp_path: Path) -> None:
    switch = Switch()
    machines = []
    try:
        for number in (1, 2):
            folder = tmp_path / f"machine{number}"
            folder.mkdir()
            script = f"mount -n -t proc proc /proc\ntouch {folder}/booted"
            machines.append(Machine(switch, f"10.77.0.{number}", folder, script))
            wait_for((folder / "booted").exists, "its boot")
        one, two = machines
        listen = (
            "import socket; s = socket.create_server(('', 99)); print('up', flush=True); s.accept()"
        )
        connect = "import socket; socket.create_connection(('10.77.0.1', 99), 1)"
        assert one.run("hostname").stdout == "machine1\n"
        with subprocess.Popen(
            [*one.entered(), sys.executable, "-c", listen], stdout=subprocess.PIPE
        ) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"up\n"
            two.cut()
            assert two.run(sys.executable, "-c", connect, check=False).returncode != 0
            two.mend()
            two.run(sys.executable, "-c", connect)
        pids = [pid for machine in machines for pid in machine.pids()]
    finally:
        for machine in machines:
            machine.kill()
        switch.close()
    assert pids
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_after_a_kill_of_the_tests_nothing_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "machine1"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, folder],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert pids
    wait_for(lambda: len(children(pids[0])) == 2, "two processes in it")
    alive = [*pids, *children(pids[0]), *children(process.pid)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in alive), "the end of all")
