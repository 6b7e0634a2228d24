"""An application of two guests, real programs, and a link that is cut: it never runs in both.

The worst application there is: it does not heed SIGTERM, and so takes all of its stop timeout. The
worst cluster: it starts it in the other guest the moment that the manager of the first has given
up. ``lost_after`` is as short as docs/failover-between-guests.md allows. The applications look
after each other by a lock on the disk that they share.

All courses are taken side by side, because they are made of waiting.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from math import ceil
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from cmappd.core.at_most_once import ends_within, least_lost_after
from tests.certificates import Authority
from tests.cluster.cluster import why_not
from tests.cluster.guests import GUESTS, Disk, Guest, hosts_file
from tests.cluster.machines import PATIENCE, Machine, Switch, wait_for
from tests.end_to_end.programs import Manager

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

LEASE, STOP = 5, 2  # seconds
LOST_AFTER = least_lost_after(ends_within(LEASE, STOP, has_after=False))
HOST = "10.77.0.1"
BOOT = 120.0  # seconds; many boot at once


class Scene:
    """A host and two guests."""

    def __init__(self, folder: Path, lost_after: float) -> None:
        self.folder = folder
        self.managers: list[Manager] = []
        (folder / "host").mkdir(parents=True)
        authority = Authority(folder / "pki")
        self.disk = Disk(folder / "disk")
        self.config = folder / "cmappmgr.toml"
        self.config.write_text(
            hosts_file(
                authority,
                1,
                connect_timeout="60s",
                lost_after=f"{ceil(lost_after * 1000)}ms",
                stop_timeout="1s",
            )
        )
        self.config.chmod(0o600)
        self.switch = Switch()
        self.host = Machine(self.switch, HOST, folder / "host", "mount -n -t proc proc /proc")
        self.guests = {
            name: declare(Guest(name, folder / name, authority, self.disk)).boot(self.switch)
            for name in GUESTS
        }
        for name in GUESTS:
            wait_for(partial(self.is_ready, name), f"{name} to boot", BOOT)

    def is_ready(self, guest: str) -> bool:
        return "is ready" in (self.folder / guest / "console.log").read_text()

    def manager(self, guest: str) -> Manager:
        words = ("--config", str(self.config), "--app", "db", "--guest", guest)
        prefix = self.host.entered()
        report, log = self.folder / f"{guest}.json", self.folder / f"{guest}.log"
        made = Manager(report, *words, folder=self.folder, log=log, prefix=prefix)
        self.managers.append(made)
        return made

    def close(self) -> None:
        for machine in (self.host, *self.guests.values()):
            machine.kill()
        for manager in self.managers:
            manager.wait()
        self.switch.close()


def declare(guest: Guest) -> Guest:
    """Declare what does not end when it is told to."""
    guest.define(
        "db",
        manager={"on_lost": "stop", "lease": f"{LEASE}s"},
        stop={"timeout": f"{STOP}s"},
    )
    shell = guest.apps["db"]["command"]
    shell[-1] = f"trap '' TERM\n{shell[-1]}"
    guest.write()
    return guest


# What happens to the link of the first guest ---------------------------------------------

Blow = Callable[[Machine], None]


def cut(guest: Machine) -> None:
    guest.cut()


def hears_nobody(guest: Machine) -> None:
    guest.deafen()


def nobody_hears_it(guest: Machine) -> None:
    guest.mute(HOST)


def mended_after(seconds: float) -> Blow:
    def blow(guest: Machine) -> None:
        guest.cut()
        time.sleep(seconds)
        guest.mend()

    return blow


class Course(NamedTuple):
    """What happens to the link, how long the manager tries again, and whether it is to stop."""

    blow: Blow
    lost_after: float = LOST_AFTER
    sigterm: bool = False


COURSES = {
    "cut": Course(cut),
    "the guest hears nobody": Course(hears_nobody),
    "nobody hears the guest": Course(nobody_hears_it),
    # The manager comes back, and is told that it was ended for the lease; or just does not.
    "mended while it ends": Course(mended_after(LEASE + 0.5)),
    "mended at the last moment": Course(mended_after(LOST_AFTER - 0.3)),
    "mended too late": Course(mended_after(LOST_AFTER + 0.1)),
    "cut, and the package is halted": Course(cut, sigterm=True),
}
TOO_SHORT = Course(cut, 3.0)


class Outcome(NamedTuple):
    """How the first manager ended, what the applications saw, and where they were started."""

    code: int
    violations: str
    runs: list[str]


def take(folder: Path, course: Course) -> Outcome:
    """Have it happen."""
    scene = Scene(folder, course.lost_after)
    try:
        first = scene.manager("vm1")
        first.wait_said("running")
        course.blow(scene.guests["vm1"])
        if course.sigterm:
            first.wait_said("the link was lost")
            (cmappmgr,) = psutil.Process(first.pid).children()  # of nsenter
            cmappmgr.terminate()
        code = first.wait(PATIENCE)
        second = scene.manager("vm2")
        second.wait_said("running")
        scene.guests["vm1"].mend()  # and what the network held back may come now
        time.sleep(3)
        assert second.running, second.said()
        return Outcome(code, scene.disk.violations(), scene.disk.runs("db"))
    finally:
        scene.close()


Taken = dict[str, "Future[Outcome]"]


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """What came of each course."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("courses")
    every = {**COURSES, "too short": TOO_SHORT}
    with ThreadPoolExecutor(len(every)) as threads:
        return {
            name: threads.submit(take, folder / str(number), course)
            for number, (name, course) in enumerate(every.items())
        }


@pytest.mark.parametrize("name", COURSES)
def test_it_never_runs_twice(name: str, taken: Taken) -> None:
    runs = ["started in vm1", "started in vm2"]
    assert taken[name].result() == Outcome(202, violations="", runs=runs)


def test_with_a_shorter_time_it_would(taken: Taken) -> None:
    assert taken["too short"].result().violations == "a second copy of db in vm2\n"
