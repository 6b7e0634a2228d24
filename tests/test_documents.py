"""The manual pages of the configuration, and the README, say what the programs accept."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from pydantic import BaseModel

from cmappd.client import settings
from cmappd.core.config import Source, parse, plan
from cmappd.core.config.schema import (
    Application,
    Manager,
    Server,
    Tls,
)
from cmappd.core.config.values import LIMITS
from cmappd.errors import ConfigError

ROOT = Path(__file__).parents[1]
FLOORS = {"core/", "system/", "server/", "application/", "shared/", "client/"}
SERVER_PAGE = ROOT / "man" / "cmappserver.toml.5"
MANAGER_PAGE = ROOT / "man" / "cmappmgr.toml.5"

# Read when cmappserver starts, because what is held open is not exchanged under people's feet.
ONLY_AT_START = {"control", "state_directory", "log_format"}
# The least that a table needs to be right.
NEEDED: dict[type[BaseModel], dict[str, Any]] = {
    Tls: {"certificate": "/c", "key": "/k", "ca": "/a"},
    Manager: {"apps": ["*"]},
    Application: {"command": ["/bin/true"]},
}


class Entry(NamedTuple):
    """What a page says of one key: the lines below it."""

    lines: tuple[str, ...]

    @property
    def kind(self) -> str:
        return self.lines[0]

    @property
    def rule(self) -> str:
        """Required., Optional., or Default followed by a value."""
        return self.lines[1]

    @property
    def when(self) -> str:
        return self.lines[2].lower().rstrip(".")


Page = dict[str, dict[str, Entry]]


def read(page: Path) -> Page:
    """The keys of a page, by table and name."""
    found: Page = {}
    for table, text in re.findall(r"^\.Ss \[?(.+?)\]?\n(.*?)(?=^\.S[hs] )", page.read_text(), _DOT):
        for key, entry in re.findall(r"^\.It Ic (\S+)\n(.*?)(?=^\.It|^\.El)", text, _DOT):
            found.setdefault(table, {})[key] = Entry(tuple(_plain(entry)))
    return found


_DOT = re.DOTALL | re.MULTILINE


def _plain(text: str) -> Iterator[str]:
    """Sentences of a page, without its macros, one a line where they stood so."""
    joined = re.sub(r"\n\.[A-Z][a-z] (.*)\n", r" \1 ", text)
    for line in joined.replace(r"\-", "-").splitlines():
        yield line.removeprefix(".Ic ").strip()


def models() -> dict[str, type[BaseModel]]:
    """Every table of the configuration with its model, as the page calls it."""
    found: dict[str, type[BaseModel]] = {"server": Server, "tls": Tls, "managers.NAME": Manager}
    found["apps.NAME"] = Application
    for name, model in _tables(Application).items():
        found[f"apps.NAME.{name}"] = model
    return found


def _tables(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    found = {}
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found[name] = kind
    return found


def keys() -> list[tuple[str, str]]:
    return [
        (table, key)
        for table, model in models().items()
        for key in model.model_fields
        if key not in _tables(model)
    ]


def test_the_page_has_every_key_of_the_models_and_no_other() -> None:
    page = read(SERVER_PAGE)
    assert sorted((table, key) for table in page for key in page[table]) == sorted(keys())


@pytest.mark.parametrize(("table", "key"), keys(), ids=map(".".join, keys()))
def test_the_page_gives_the_default(table: str, key: str) -> None:
    model, rule = models()[table], read(SERVER_PAGE)[table][key].rule
    field = model.model_fields[key]
    if field.is_required():
        assert rule == "Required."
    elif field.default is None:
        assert rule == "Optional."
    else:
        documented = tomllib.loads(f"x = {re.fullmatch(r'Default (.*)[.]', rule)[1]}")["x"]  # type: ignore[index]
        needed = NEEDED.get(model, {"command": ["/bin/true"]} if "health" in table else {})
        given = model.model_validate({**needed, key: documented}, context="/")
        assert given == model.model_validate(needed, context="/")


@pytest.mark.parametrize(("table", "key"), keys(), ids=map(".".join, keys()))
def test_the_page_says_when_a_change_applies(table: str, key: str) -> None:
    launch = table == "apps.NAME" and key in plan.LAUNCH
    at_start = table == "server" and key in ONLY_AT_START
    expected = "launch" if launch else "restart" if at_start else "live"
    assert read(SERVER_PAGE)[table][key].when == expected


@pytest.mark.parametrize(("table", "key"), keys(), ids=map(".".join, keys()))
def test_the_page_gives_the_bounds(table: str, key: str) -> None:
    """Every number and duration that is out of its bounds is refused, and no other."""
    entry = read(SERVER_PAGE)[table][key]
    kind = entry.kind
    if kind.startswith("Duration"):
        positive, least = 'longer than "0s"' in kind, re.search('at least "(.+?)"', kind)
        limits = [("0s", not positive and not least)]
        limits += [(least[1], True)] if least else []
    elif match := re.match(r"Number from (-?\d+) to (\d+)", kind):
        low, high = int(match[1]), int(match[2])
        limits = [(low, True), (high, True), (low - 1, False), (high + 1, False)]  # type: ignore[list-item]
    else:
        limits = []
    for value, allowed in limits:
        assert _accepts(table, key, value) == allowed, f"{table}.{key} = {value!r}"


def _accepts(table: str, key: str, value: object) -> bool:
    shown = f'"{value}"' if isinstance(value, str) else value
    lines = ["[apps.NAME]", 'command = ["/bin/true"]']
    lines += ["[apps.NAME.health]", 'command = ["/bin/true"]'] if table.endswith("health") else []
    lines += [f"[{table}]"] if f"[{table}]" not in lines else []
    # Values that depend on another one are tried with that one out of the way.
    lines += ['delay = "0s"'] if key == "max_delay" else []
    lines += ['max_delay = "365d"'] if key == "delay" else []
    lines += ['ready = "0s"'] if table.endswith("start") and key == "timeout" else []
    text = "\n".join([*lines, f"{key} = {shown}"])
    parsed = parse("/x.toml", [Source("/x.toml", text)])
    return not parsed.problems


def test_the_page_names_every_limit() -> None:
    (line,) = re.findall(r"without RLIMIT_: (.*?)[.]$", SERVER_PAGE.read_text(), _DOT)
    assert tuple(re.split(r",\s", line)) == LIMITS


# The manager's file ------------------------------------------------------------------


def test_the_managers_page_has_every_key_and_no_other() -> None:
    page = read(MANAGER_PAGE)
    assert {table: set(page[table]) for table in page} == {
        "Top level": {"guest"},
        "guests.NAME": {"address", "server_name"},
        "tls": set(settings.Tls._fields),
        "manager": set(settings.Intervals._fields),
    }


@pytest.mark.parametrize("key", settings.Intervals._fields)
def test_the_managers_page_gives_defaults_and_bounds(key: str, tmp_path: Path) -> None:
    entry = read(MANAGER_PAGE)["manager"][key]
    bounds = re.fullmatch('Duration from "(.+?)" to "(.+?)"[.]', entry.kind)
    default = re.fullmatch('Default "(.+?)"[.]', entry.rule)
    assert bounds
    assert default
    given = _settings(tmp_path, f'{key} = "{default[1]}"')
    assert given == settings.Intervals()
    for value in bounds.groups():
        _settings(tmp_path, f'{key} = "{value}"')
    for value in ("99ms", "366d"):
        with pytest.raises(ConfigError):
            _settings(tmp_path, f'{key} = "{value}"')


def _settings(directory: Path, line: str) -> settings.Intervals:
    for name in ("c", "k", "a"):
        (directory / name).touch()
    file = directory / "cmappmgr.toml"
    file.write_text(f'[tls]\ncertificate = "c"\nkey = "k"\nca = "a"\n[manager]\n{line}\n')
    return settings.load(str(file)).intervals


HALTS = [
    "README.md",
    "man/cmappmgr.8",
    "docs/serviceguard.md",
    "docs/migration.md",
    "docs/failover-between-guests.md",
    "cluster/serviceguard/examples/services.conf",
    "cluster/serviceguard/examples/legacy.conf",
    "cluster/serviceguard/examples/two-guests.conf",
    "cluster/systemd/cmappmgr@.service.in",
]
SAYING_WHY = [*HALTS[1:-1], "man/cmappmgr.toml.5"]


@pytest.mark.parametrize("name", HALTS)
def test_a_manager_is_not_killed_while_it_stops_or_waits(name: str) -> None:
    found = re.findall(r"(?i)(?:halt_timeout +|TimeoutStopSec=)(\d+)", (ROOT / name).read_text())
    intervals = settings.Intervals()
    assert found
    assert all(int(seconds) > intervals.stop_timeout + intervals.lost_after for seconds in found)


@pytest.mark.parametrize("name", SAYING_WHY)
def test_that_rule_is_given_in_the_same_words(name: str) -> None:
    words = re.sub(r"\.Ic|[`#*]", "", (ROOT / name).read_text()).split()
    assert "longer than stop_timeout and lost_after together" in " ".join(words)


# The pages as such -------------------------------------------------------------------

PAGES = sorted((ROOT / "man").glob("*.[1-8]"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize("command", ["mandoc -Tlint -Wwarning", "groff -mandoc -ww -z -Tutf8"])
def test_a_page_has_no_errors(command: str, page: Path) -> None:
    words = command.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    result = subprocess.run([*words, page], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


# The other documents -------------------------------------------------------------------


def test_the_house_has_all_modules() -> None:
    """Those of a package below a floor may stand behind its name."""
    (house,) = re.findall(
        r"^## The house\n(.*?)^## ", (ROOT / "docs/architecture.md").read_text(), _DOT
    )
    drawn = set(re.findall(r"\w+/?", "".join(re.findall("^    .*\n", house, re.MULTILINE))))
    package = ROOT / "cmappd"
    missing = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.stem not in {*drawn, "__init__"} and f"{path.parent.name}/" not in drawn - FLOORS
    }
    assert not missing


def test_the_decisions_have_all_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    named = {re.split("[<>=]", one)[0] for group in groups for one in group}
    text = (ROOT / "docs/decisions.md").read_text()
    (table,) = re.findall(r"^## Dependencies\n(.*?)^## ", text, _DOT)
    first = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)[1:]
    assert {one for cell in first for one in cell.split(", ")} == named


# The README --------------------------------------------------------------------------


def _toml_blocks() -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", (ROOT / "README.md").read_text(), _DOT)


def test_the_readme_shows_configurations() -> None:
    assert len(_toml_blocks()) >= 2


@pytest.mark.parametrize("block", _toml_blocks(), ids=lambda block: block.partition("\n")[0])
def test_the_readmes_configurations_are_right(block: str, tmp_path: Path) -> None:
    if "[guests." in block:
        file = tmp_path / "cmappmgr.toml"
        file.write_text(block)
        for path in tomllib.loads(block)["tls"].values():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).touch()
        settings.load(str(file))
    else:
        path = "/etc/cmappd/cmappserver.toml"
        parsed = parse(path, [Source(path, block)])
        assert [str(problem) for problem in parsed.problems] == []
