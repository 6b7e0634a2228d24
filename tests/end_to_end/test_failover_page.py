"""docs/failover-between-guests.md says what can be done: its files are loaded, its commands run."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmappd.client import settings
from cmappd.core.at_most_once import least_lost_after
from cmappd.core.config import Source, parse
from cmappd.core.units import parse_duration
from cmappd.server.application.status import ends_within
from tests.certificates import Authority
from tests.end_to_end.guest import Guest
from tests.end_to_end.programs import PATIENCE, PROGRAMS

PAGE = (Path(__file__).parents[2] / "docs" / "failover-between-guests.md").read_text()
FILES = dict(re.findall(r"^```toml\n# (/\S+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
APPS, MANAGER = FILES["/etc/cmappd/apps.d/orders.toml"], FILES["/etc/cmappd/cmappmgr.toml"]
LOST_AFTER = tomllib.loads(MANAGER)["manager"]["lost_after"]
COMMANDS = [shlex.split(line) for line in re.findall(r"^ {4}(cmapp.*)$", PAGE, re.MULTILINE)]


def test_every_configuration_of_the_page_is_one_of_these() -> None:
    assert PAGE.count("```toml") == len(FILES) == 2


def test_its_lost_after_is_what_its_formula_gives() -> None:
    path = "/etc/cmappd/apps.d/orders.toml"
    parsed = parse(path, [Source(path, APPS)])
    assert parsed.problems == ()
    orders = parsed.apps["orders"]
    assert orders.manager.on_lost == "stop"
    assert not orders.autostart
    lease, stop = orders.manager.lease, orders.stop.timeout
    assert least_lost_after(ends_within(orders)) == pytest.approx((lease + stop + 1) * 1.01 / 0.99)
    formula = "lost_after  \u2265  (lease + stop.timeout + 1 s) \u00d7 1.01 / 0.99"
    assert f"\n    {formula}\n" in PAGE
    assert 0 <= parse_duration(LOST_AFTER) - least_lost_after(ends_within(orders)) < 1


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    tmp_path.chmod(0o700)
    return Authority(tmp_path / "pki")


@pytest.fixture
def guests(tmp_path: Path, authority: Authority) -> Iterator[dict[str, Guest]]:
    """The guests of the page, which run what it declares."""
    found = {}
    try:
        for name in tomllib.loads(MANAGER)["guests"]:
            (tmp_path / name).mkdir()
            guest = found[name] = Guest(tmp_path / name, authority)
            guest.identity = authority.guest(name)
            guest.apps = tomllib.loads(APPS)["apps"]
            guest.apps["orders"] |= {
                "command": ["/bin/sleep", "600"],
                "log": {"destination": "none"},
            }
            guest.start()
        yield found
    finally:
        for guest in found.values():
            guest.close()


def host(folder: Path, authority: Authority, guests: dict[str, Guest]) -> Path:
    """The file of the page, with the places of this test."""
    text, shown, identity = MANAGER, tomllib.loads(MANAGER), authority.manager("vmhost1")
    places = {shown["guests"][name]["address"]: f"127.0.0.1:{one.port}"
              for name, one in guests.items()}  # fmt: skip
    ours = {"certificate": identity.certificate, "key": identity.key, "ca": authority.ca}
    places |= {path: str(ours[key]) for key, path in shown["tls"].items()}
    for place, here in places.items():
        text = text.replace(f'"{place}"', f'"{here}"')
    file = folder / "cmappmgr.toml"
    file.write_text(text)
    return file


def run(words: list[str], *more: str) -> str:
    """What a command says that must succeed."""
    done = subprocess.run(
        [PROGRAMS / words[0], *words[1:], *more],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_its_commands_find_nothing_wrong_and_do_find_a_lost_after_that_is_too_short(
    tmp_path: Path, authority: Authority, guests: dict[str, Guest]
) -> None:
    config = host(tmp_path, authority, guests)
    assert settings.load(str(config)).intervals.lost_after == parse_duration(LOST_AFTER)
    (check,) = (words for words in COMMANDS if words[0] == "cmappctl")
    for guest in guests.values():
        said = run(check, str(guest.config))
        assert f'lost_after = "{LOST_AFTER}"' in said
        assert "autostart" not in said
    checks = [words for words in COMMANDS if words[0] == "cmappmgr"]
    assert [words[words.index("--guest") + 1] for words in checks] == list(guests)
    for words in checks:
        said = run(words, "--config", str(config))
        assert "defined in" in said
        assert "lost_after" not in said
    config.write_text(config.read_text().replace(LOST_AFTER, "41s"))
    for words in checks:
        assert f"lost_after must be {LOST_AFTER} at least" in run(words, "--config", str(config))
