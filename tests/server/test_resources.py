"""Limits of resources where none can be had: said, and never left out in silence.

What limits do where they can be had is in tests/guest_vm, on a kernel with the controllers.
"""

import asyncio
from pathlib import Path

import pytest

from cmappd.core.messages import Done, Refused, Start, Stop
from cmappd.core.state import Cause, Phase
from cmappd.server.cgroups import about, about_machine
from cmappd.server.check import check
from cmappd.system import cgroupfs
from tests.server.ground import Recorder, ground, until
from tests.server.harness import shell

WHY = "there are none in these tests"  # as the ground says
LIMITED = {"resources": {"memory": "64M", "cpu": 0.5, "processes": 50}}


def test_what_cannot_be_limited_is_not_started(tmp_path: Path) -> None:
    async def scene() -> None:
        async with ground(tmp_path, shell("db", "exec sleep 600", **LIMITED)) as made:
            db, admin = made.find("db"), Recorder("uid 0", administrator=True)
            answer = await admin.ask(db, Start(admin.next(), "db"))
            assert isinstance(answer, Refused)
            assert db.app.last is not None
            assert db.app.last.cause is Cause.NOT_STARTED
            assert db.app.last.detail == f"its resources cannot be limited: {WHY}"

    asyncio.run(scene())


def test_a_limit_that_comes_while_it_runs_waits_for_a_restart(tmp_path: Path) -> None:
    async def scene() -> None:
        apps = {"stop": {"command": ["/bin/sh", "-c", f"echo asked >{tmp_path}/told"]}}
        async with ground(tmp_path, shell("db", "exec sleep 600", **apps)) as made:
            db, admin = made.find("db"), Recorder("uid 0", administrator=True)
            assert isinstance(await admin.ask(db, Start(admin.next(), "db")), Done)
            assert not db.status().restart_pending
            made.apply(shell("db", "exec sleep 600", **apps, **LIMITED))
            await until(lambda: db.status().restart_pending)
            status = db.status()
            assert status.phase is Phase.RUNNING
            assert status.problem == f"resources: not in force: {WHY}"
            assert f"WARNING db: {status.problem}" in made.lines
            made.apply(shell("db", "exec sleep 600", **apps))
            await until(lambda: not db.status().problem)
            assert not db.status().restart_pending
            made.apply(shell("db", "exec sleep 600", **apps, **LIMITED))
            assert isinstance(await admin.ask(db, Stop(admin.next(), "db")), Done)
        assert (tmp_path / "told").read_text() == "asked\n", "a stop is no start"

    asyncio.run(scene())


def test_the_administrator_is_told_what_there_is(tmp_path: Path) -> None:
    async def scene() -> str:
        async with ground(tmp_path, "") as made:
            return about(made.world)

    assert asyncio.run(scene()) == (
        f"cgroups: none: {WHY}; processes are known by parents, session, run mark and output\n"
        "resources: none can be limited"
    )


V2 = "30 23 0:26 / {} rw shared:4 - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(
    ("controllers", "membership", "said"),
    [
        ("cpu memory pids", "0::/\n", ""),
        (
            "",
            "4:memory:/\n3:pids:/\n2:cpu,cpuacct:/\n0::/\n",
            "cannot limit memory, cpu, processes: the system has put it under cgroup v1; "
            "boot with cgroup_no_v1=memory,cpu,pids, or systemd.unified_cgroup_hierarchy=1",
        ),
        (
            "memory cpu",
            "0::/\n",
            "cannot limit processes: not to be had in {}; "
            "a systemd service needs Delegate=yes and ProtectControlGroups=no for it",
        ),
        (None, "4:memory:/\n", "cannot limit resources: cannot use cgroups: cgroup v2 is not"),
    ],
    ids=["v2", "hybrid", "container", "v1"],
)
def test_check_says_what_holds_for_the_machine(
    controllers: str | None,
    membership: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mount = tmp_path / "cgroup"
    mount.mkdir()
    (mount / "cgroup.controllers").write_text(f"{controllers}\n")
    mounts = "" if controllers is None else V2.format(mount)
    texts = {"/proc/self/mountinfo": mounts, "/proc/self/cgroup": membership}
    monkeypatch.setattr(cgroupfs, "read", texts.__getitem__)
    config = tmp_path / "c.toml"
    config.write_text(shell("db", "exec sleep 600", **LIMITED))
    config.chmod(0o600)
    count, findings, notes = check(str(config))
    assert count == 1
    assert notes == about_machine()
    assert "\nresources: " in notes
    if not said:
        assert findings == []
        assert notes.endswith("memory, cpu and processes can be limited, where cmappserver's cgroup"
                              " has the controllers")  # fmt: skip
    else:
        (finding,) = findings
        line = config.read_text().splitlines().index("[apps.db.resources]") + 1
        assert finding.startswith(f"{config}:{line}: apps.db.resources: {said.format(mount)}")
    config.write_text(shell("db", "exec sleep 600"))
    assert check(str(config))[1] == [], "who asks for no limits is told of none"
