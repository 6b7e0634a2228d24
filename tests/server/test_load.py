"""Reading the files again and again, without a server around it."""

import shutil
from pathlib import Path

import pytest

from cmappd.core.config import Config
from cmappd.server.load import Loader, expand
from tests.system.nobody import as_nobody, root, trusted

__all__ = ["trusted"]


def ignore(_what: object) -> None:
    """Take it, and do nothing."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text("server.include = ['apps.d/*']\n")
    path.chmod(0o600)
    return path


def test_a_pattern_that_comes_to_match_nothing_is_told_each_time(config: Path) -> None:
    folder = config.parent / "apps.d"
    told: list[str] = []
    loader = Loader(str(config))
    loader.load()
    loader.attach(ignore, told.append)
    sentence = f"include '{folder}/*' matches nothing"
    assert told == [sentence]
    loader.load()
    assert told == [sentence]
    folder.mkdir(0o700)
    (folder / "a").touch(0o600)
    loader.load()
    shutil.rmtree(folder)
    loader.load()
    assert told == [sentence] * 2


def test_what_is_in_force_of_the_main_file_is_kept_when_it_has_changed(config: Path) -> None:
    kept: list[Config] = []
    loader = Loader(str(config))
    loader.attach(kept.append, ignore)
    first = loader.load()
    loader.load()
    config.write_text(config.read_text() + "[apps.db]\ncommand = ['/bin/true']\n")
    loader.load()
    assert kept == [first]
    config.write_text("managers.host.apps = ['*']\n")
    assert kept == [first]
    second = loader.load()
    config.write_text("=")
    loader.load()
    assert kept == [first, second]


def test_what_cannot_be_kept_is_a_problem_until_it_can(config: Path) -> None:
    def fail(_config: Config) -> None:
        raise OSError(28, "No space left on device")

    loader = Loader(str(config))
    loader.attach(fail, ignore)
    (problem,) = loader.load().problems
    assert str(problem) == (
        f"{config}: server.state_directory: cannot keep what is in force for the next start: "
        "No space left on device"
    )
    loader.attach(ignore, ignore)
    assert loader.load().problems == ()


def test_a_pattern_that_matches_the_main_file_reads_it_once(config: Path) -> None:
    config.write_text("server.include = ['*']\n[apps.db]\ncommand = ['/bin/true']\n")
    loader = Loader(str(config))
    assert loader.load().problems == ()
    config.unlink()
    assert len(loader.load().problems) == 1


# Patterns ------------------------------------------------------------------------------


def test_files_are_sorted_unique_and_without_leftovers(tmp_path: Path) -> None:
    for name in (
        *("b.toml", "a.toml", ".hidden.toml", ".#a.toml", "#a.toml#", "a.toml~"),
        *("a.toml.swp", "a.toml.rpmsave", "a.toml.rpmnew", "a.toml.dpkg-old", "c.conf"),
    ):
        (tmp_path / name).touch()
    found = expand(f"{tmp_path}/*")
    assert found == [f"{tmp_path}/{name}" for name in ("a.toml", "b.toml", "c.conf")]
    assert expand(f"{tmp_path}/.*") == []


def test_a_path_without_wildcards_is_itself(tmp_path: Path) -> None:
    assert expand(f"{tmp_path}/none/.a~") == [f"{tmp_path}/none/.a~"]


def test_nothing_there_is_no_error_and_a_dangling_link_is_shown(tmp_path: Path) -> None:
    assert expand(f"{tmp_path}/apps.d/*.toml") == []
    (tmp_path / "lost.toml").symlink_to("nowhere")
    assert expand(f"{tmp_path}/*.toml") == [f"{tmp_path}/lost.toml"]


@root
@pytest.mark.root
def test_a_directory_that_cannot_be_read_is_not_an_empty_one(trusted: Path) -> None:
    (trusted / "apps.d").mkdir(0o700)
    said = as_nobody("cmappd.server.load", "expand(sys.argv[1])", f"{trusted}/apps.d/*.toml")
    assert said == f"cannot list {trusted}/apps.d: Permission denied\n"
