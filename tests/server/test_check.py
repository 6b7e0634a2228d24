"""What is found without running anything: problems in the order of the files, and notes."""

from pathlib import Path

import pytest

from cmappd.server.check import check


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "c.toml"


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def test_problems_are_in_the_order_of_the_files(config: Path) -> None:
    included = config.with_name("a.toml")
    write(included, "[apps.a]\ncommand = ['/none']\n[apps.wrong]\n")
    write(
        config,
        f"server.include = ['{included}']\n"
        "[apps.z]\ncommand = ['/bin/true']\ndirectory = '/none'\nuser = 'nobdy'\n"
        "group = 'nogrup'\nsupplementary_groups = ['nogrup']\n"
        "[apps.wrong_too]\n"
        "[apps.b]\ncommand = ['/none']\n",
    )
    count, problems, _ = check(str(config))
    assert count == 3
    assert [problem.partition(": ")[0] for problem in problems] == [
        *(f"{config}:{line}" for line in (4, 5, 6, 7, 8, 10)),
        *(f"{included}:{line}" for line in (2, 3)),
    ]


def test_a_pattern_that_matches_nothing_is_noted(config: Path) -> None:
    write(config, "server.include = ['*.conf', '*.toml', 'none/*.toml']\n")
    count, problems, notes = check(str(config))
    assert (count, problems) == (0, [])
    assert notes.splitlines()[-2:] == [
        f"include '{config.parent}/*.conf' matches nothing",
        f"include '{config.parent}/none/*.toml' matches nothing",
    ]


def test_a_file_that_is_named_and_not_there_is_a_problem(config: Path) -> None:
    write(config, "server.include = ['none.toml']\n")
    _, problems, _ = check(str(config))
    assert problems == [f"cannot read {config.parent}/none.toml: No such file or directory"]


def test_applications_that_managers_may_drive_and_nobody_has_defined_are_noted(
    config: Path,
) -> None:
    write(
        config,
        "managers.all.apps = ['*']\nmanagers.some.apps = ['db', 'bd', 'wrong']\n"
        "[apps.db]\ncommand = ['/bin/true']\n[apps.wrong]\n",
    )
    _, _, notes = check(str(config))
    assert [line for line in notes.splitlines() if line.startswith("managers.")] == [
        "managers.some: there is no application 'bd' in this guest"
    ]
