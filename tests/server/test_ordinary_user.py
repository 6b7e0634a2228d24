"""What an ordinary user's cmappserver cannot do, it says; all else works."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from cmappd.core.messages import Done, Refused
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.check import check
from tests.server.application.test_commands import shell, start
from tests.server.ground import Ground, play

pytestmark = pytest.mark.skipif(os.geteuid() == 0, reason="root is refused nothing")

AS_ROOT = "cmappserver must run as root for it"
CANNOT: dict[str, tuple[dict[str, Any], str]] = {
    "user": ({"user": "root"}, f"cannot run as user 'root': {AS_ROOT}"),
    "group": ({"group": "0"}, f"cannot run as group 0: {AS_ROOT}"),
    "supplementary_groups": (
        {"supplementary_groups": ["0"]},
        f"cannot run as supplementary groups 0: {AS_ROOT}",
    ),
    "nice": (
        {"nice": -20},
        "and it may not go below that without CAP_SYS_NICE; start it as root, or with LimitNICE= "
        "in systemd",
    ),
    "limits": (
        {"limits": {"nofile": 2**40}},
        "without CAP_SYS_RESOURCE; start it with a higher one (LimitNOFILE= in systemd)",
    ),
    "resources": (
        {"resources": {"memory": "64M"}},
        "its resources cannot be limited: there are none in these tests",
    ),
    "directory": ({"directory": "/root"}, "its directory '/root' may not be entered"),
    "environment_file": (
        {"environment_file": "/etc/shadow"},
        "cannot read /etc/shadow: Permission denied",
    ),
    "pid_file": (
        {"type": "forking", "pid_file": "/root/pid", "start": {"timeout": "1s", "ready": "0s"}},
        "its pid_file /root/pid does not name a process of it, or may not be read",
    ),
}


@pytest.mark.parametrize("key", CANNOT)
def test_what_it_cannot_do_fails_the_start_with_a_sentence(key: str, tmp_path: Path) -> None:
    keys, said = CANNOT[key]

    async def scene(_: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Refused)
        assert db.app.last is not None
        assert said in db.app.last.detail
        assert said in db.status().last.detail  # type: ignore[union-attr]

    script = "sleep 600 &" if key == "pid_file" else "exec sleep 600"
    log = play(tmp_path, shell(script, **keys), scene)
    assert any(said in line for line in log), log


@pytest.mark.parametrize("key", ["user", "group", "supplementary_groups", "environment_file"])
def test_check_says_it_of_the_user_who_checks(key: str, tmp_path: Path) -> None:
    keys, said = CANNOT[key]
    config = tmp_path / "c.toml"
    config.write_text(shell("exec sleep 600", **keys))
    config.chmod(0o600)
    (problem,) = check(str(config))[1]
    assert re.fullmatch(rf"{config}:\d+: apps\.db\.{key}: {re.escape(said)}", problem)


def test_a_log_where_it_may_not_write_is_told_and_stops_nothing(tmp_path: Path) -> None:
    async def scene(_: Ground, db: Supervisor) -> None:
        assert isinstance(await start(db), Done)
        assert "cannot open /root/db.log: Permission denied" in db.status().problem

    play(tmp_path, shell("exec sleep 600", log={"path": "/root/db.log"}), scene)
