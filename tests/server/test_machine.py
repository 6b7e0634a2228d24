"""What the machine lacks for a definition: asked of real files and accounts."""

import os
from pathlib import Path

import pytest

from cmappd.core.config import Application, Health, Stop
from cmappd.server.machine import hindrances, lacks
from tests.system.nobody import root

GOOD = Application(command=("/bin/sleep", "1"))


def app(**keys: object) -> Application:
    return GOOD.model_copy(update=keys)


def keys(app: Application, than: Application | None = None) -> list[str]:
    return [lack.key for lack in lacks(app, than)]


def test_a_machine_lacks_nothing_for_what_runs_everywhere() -> None:
    assert keys(app(directory="/", health=Health(command=("/bin/true",)))) == []


def test_all_that_is_lacking_is_told() -> None:
    bad = app(
        user="nobdy",
        group="nogrup",
        supplementary_groups=("nogrup",),
        environment_file="/none/file",
        directory="/none",
        command=("/none/db",),
        stop=Stop(command=("/none/stop",), after=("/none/after",)),
        health=Health(command=("/etc/passwd",)),
    )
    assert sorted(keys(bad)) == [
        *("command", "directory", "environment_file", "group", "health.command"),
        *("stop.after", "stop.command", "supplementary_groups", "user"),
    ]
    assert all(lack.text.startswith("cannot ") for lack in lacks(bad))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"user": "nobdy"}, {"user"}),
        ({"group": "nogrup"}, {"group"}),
        ({"supplementary_groups": ("nogrup",)}, {"supplementary_groups"}),
        ({"user": "nobdy", "group": "nogrup"}, {"user", "group"}),
    ],
)
def test_what_is_right_of_an_account_is_not_called_wrong(
    wrong: dict[str, object], said: set[str]
) -> None:
    right = {"group": str(os.getegid()), "supplementary_groups": tuple(map(str, os.getgroups()))}
    assert set(keys(app(**(right | wrong)))) == said


def test_what_does_not_differ_is_not_asked_for() -> None:
    bad = app(command=("/none/db",), directory="/none", user="nobdy")
    assert keys(bad, than=bad) == []
    assert keys(bad.model_copy(update={"umask": 0}), than=bad) == []
    assert keys(bad.model_copy(update={"directory": "/none2"}), than=bad) == ["directory"]
    assert keys(GOOD, than=bad) == []


def test_a_program_that_is_there_must_be_executable(tmp_path: Path) -> None:
    program = tmp_path / "db"
    program.touch(0o600)
    assert keys(app(command=(str(program),))) == ["command"]
    program.chmod(0o700)
    assert keys(app(command=(str(program),))) == []


@root
@pytest.mark.root
def test_what_root_may_not_see_may_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: str) -> None:  # as a server of NFS does
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    assert keys(app(command=(str(tmp_path / "db"),), directory=str(tmp_path / "home"))) == []


GONE, TYPO, MOUNTED = app(command=("/none/1",)), app(user="nobdy"), app(command=("/none/2",))


@pytest.mark.parametrize(
    ("new", "last", "up", "held"),
    [
        (TYPO, GOOD, True, True),
        (TYPO, GOOD, False, True),  # what can be launched is kept
        (GOOD, TYPO, True, False),
        (MOUNTED, GONE, True, True),  # it runs, though its program is not there any more
        (MOUNTED, GONE, False, False),  # start.command may bring it
        (GONE, GONE, True, False),
    ],
)
def test_what_hinders_a_change(new: Application, last: Application, up: bool, held: bool) -> None:
    assert bool(hindrances(new, last, up=up)) is held
