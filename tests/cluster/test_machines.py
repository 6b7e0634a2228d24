"""The machines of the tests: nothing of them is left, however the tests end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
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


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines at a switch; nothing of them is left afterwards."""
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
        yield one, two
        pids = [pid for machine in machines for pid in machine.pids()]
    finally:
        for machine in machines:
            machine.kill()
        switch.close()
    assert pids
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


HEAR = """\
import socket
with socket.socket(type=socket.SOCK_DGRAM) as ear:
    ear.bind(("", 99))
    ear.settimeout(2)
    print("listens", flush=True)
    print(ear.recv(99).decode())
"""
SAY = """\
import socket, time
with socket.socket(type=socket.SOCK_DGRAM) as mouth:
    for _ in range(7):  # a link that was mended takes a second
        mouth.sendto(b"heard", (%r, 99))
        time.sleep(0.2)
"""


def hears(ear: Machine, mouth: Machine) -> bool:
    """Whether a word of one machine comes to another."""
    with subprocess.Popen(
        [*ear.entered(), sys.executable, "-c", HEAR],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listens\n"
        mouth.run(sys.executable, "-c", SAY % ear.address, check=False)
        return process.stdout.read() == b"heard\n"


def test_machines_reach_each_other_and_a_cut_link_carries_nothing(
    pair: tuple[Machine, Machine],
) -> None:
    one, two = pair
    assert one.run("hostname").stdout == "machine1\n"
    assert hears(one, two)
    two.cut()
    assert not hears(one, two)
    two.mend()
    assert hears(one, two)


def test_a_link_may_carry_in_one_direction(pair: tuple[Machine, Machine]) -> None:
    one, two = pair
    assert hears(one, two)
    two.deafen()
    assert (hears(one, two), hears(two, one)) == (True, False)
    two.mend()
    two.mute(one.address)
    assert (hears(one, two), hears(two, one)) == (False, True)
    two.mend()
    assert (hears(one, two), hears(two, one)) == (True, True)


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
