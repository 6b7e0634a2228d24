"""The wall clock is set while applications run: nothing of the supervision is upset by it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.end_to_end.programs import Manager
from tests.guest_vm.server import UNIT, Server, manager
from tests.guest_vm.shell import PATIENCE
from tests.guest_vm.vm import Vm

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

YEAR = 365 * 86400


@pytest.fixture
def server(vm: Vm, authority: Authority) -> Iterator[Server]:
    made = Server(vm, authority.guest("guest1"), authority.ca)
    made.define(
        "db",
        ["/bin/sh", "-c", "exec sleep 100000"],
        autostart=False,
        restart={"policy": "on-failure", "limit": 3, "window": "10m", "delay": "1s"},
        health={"command": ["/bin/sh", "-c", "date +%s >>/run/checks"], "interval": "1s"},
        manager={"on_lost": "stop", "lease": "60s"},
    )
    made.start()
    yield made
    made.end("TERM")
    vm.must("rm /etc/cmappd/apps.d/db.toml; hwclock -s -u || true")


def set_clock(vm: Vm, by: int) -> None:
    vm.must(f"date -s @$(($(date +%s) + {by}))")


def checks(vm: Vm) -> int:
    return int(vm.must("cat /run/checks 2>/dev/null | wc -l"))


def killed(server: Server, told: Manager, times: int) -> None:
    """Kill the application, and wait until the guest has started it again."""
    before = server.pid("db")
    server.vm.must(f"kill -9 {before}")
    server.vm.until(f"head -n 1 {UNIT}/cmappd-*/app-db.*[0-9]/cgroup.procs | grep -vx {before}")
    told.wait_said(f"restart {times} of 3")


def test_a_clock_that_is_set_upsets_no_restart_no_check_and_no_lease(
    server: Server, authority: Authority, tmp_path: Path
) -> None:
    vm = server.vm
    told = manager(tmp_path, authority, vm, "db")
    told.wait_said("running")
    killed(server, told, 1)
    set_clock(vm, YEAR)
    killed(server, told, 2)  # with the delay that it would have, and not a year later
    seen = checks(vm)
    vm.until(f"test $(wc -l </run/checks) -gt {seen + 2}")
    set_clock(vm, -2 * YEAR)
    seen = checks(vm)
    vm.until(f"test $(wc -l </run/checks) -gt {seen + 2}")
    killed(server, told, 3)
    assert told.running
    # What counted before the clock was set still counts: the budget is spent.
    vm.must(f"kill -9 {server.pid('db')}")
    assert told.wait(PATIENCE) == 137
