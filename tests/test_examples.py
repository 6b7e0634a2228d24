"""The examples are right: the programs' own loaders take them without a word."""

import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from cmappd.client import settings
from cmappd.core.config import Application, Config
from cmappd.server.load import Loader

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
FILES = sorted(EXAMPLES.rglob("*.toml"))
MANUAL = (ROOT / "man" / "cmappserver.toml.5").read_text()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The examples as an administrator puts them in place: not writable by others."""
    directory = tmp_path / "etc"
    for file in FILES:
        copy = directory / file.relative_to(EXAMPLES)
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        shutil.copyfile(file, copy)
        copy.chmod(0o644)
    return directory


def _problems(config: Config) -> list[str]:
    return [str(problem) for problem in config.problems]


def test_the_servers_example_and_all_applications_have_no_problem(installed: Path) -> None:
    config = Loader(str(installed / "cmappserver.toml")).load()
    assert _problems(config) == []
    defined = {name for file in FILES for name in tomllib.loads(file.read_text()).get("apps", {})}
    assert set(config.apps) == defined
    assert len(defined) >= 9


@pytest.mark.parametrize("name", [file.name for file in FILES if file.parent.name == "apps.d"])
def test_each_application_stands_by_itself(installed: Path, name: str) -> None:
    assert _problems(Loader(str(installed / "apps.d" / name)).load()) == []


def test_the_managers_example_has_no_problem(installed: Path) -> None:
    file = installed / "cmappmgr.toml"
    for path in tomllib.loads(file.read_text())["tls"].values():
        (installed / path).parent.mkdir(exist_ok=True)
        (installed / path).touch()
    assert settings.load(str(file)).guest(None).host == "192.0.2.10"


def test_both_sides_of_the_examples_fit(installed: Path) -> None:
    """The hosts that the server knows are those whose certificates the hosts' file names."""
    managers = Loader(str(installed / "cmappserver.toml")).load().managers
    host = tomllib.loads((installed / "cmappmgr.toml").read_text())
    assert Path(host["tls"]["certificate"]).stem in managers


# Every key -----------------------------------------------------------------------------------


def keys(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """The keys of a table, and of the tables in it: "stop.timeout"."""
    for name, field in model.model_fields.items():
        yield before + name
        for table in tables(field.annotation):
            yield from keys(table, f"{before}{name}.")


def tables(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from tables(part)


def shown(table: dict[str, Any], before: str = "") -> Iterator[str]:
    for name, value in table.items():
        yield before + name
        if isinstance(value, dict):
            yield from shown(value, f"{before}{name}.")


def test_every_key_of_an_application_is_shown() -> None:
    apps = [
        app for file in FILES for app in tomllib.loads(file.read_text()).get("apps", {}).values()
    ]
    assert set(keys(Application)) - {key for app in apps for key in shown(app)} == set()


def test_every_key_of_an_application_is_in_the_manual() -> None:
    """In the part of its table."""
    parts = re.findall(r"^\.Ss \[apps\.NAME(?:\.(\w+))?\]\n(.*?)(?=^\.S[sh] )", MANUAL, re.M | re.S)
    found = {
        f"{part}.{key}".lstrip(".")
        for part, text in parts
        for key in re.findall(r"^\.It Ic (\w+)", text, re.MULTILINE)
    }
    tables = {part for part, _ in parts if part}
    assert set(keys(Application)) == found | tables
