"""The manual pages say what the programs do: checked against the code."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cmappd import reasons
from cmappd.client import arguments, control_arguments, settings
from cmappd.system.paths import DEFAULT_CONFIG

MAN = Path(__file__).parents[1] / "man"


def page(name: str) -> str:
    return (MAN / name).read_text()


def test_the_table_of_exit_codes_is_that_of_reasons() -> None:
    rows = re.findall(r"^\.It (\S+) Ta (\S+) Ta (.+)$", page("cmappmgr.8"), re.MULTILINE)
    assert rows == [
        ("1\\(en199" if one.code is None else str(one.code), one.name, one.meaning)
        for one in reasons.ALL
    ]


def options(text: str) -> set[str]:
    """The long options in a help text or a manual page."""
    return set(re.findall(r"--[a-z-]*[a-z]", text.replace("\\-", "--")))


def test_every_option_of_cmappmgr_has_its_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments.parse(["--help"])
    paragraphs = re.findall(r"^\.It Fl (.*)$", page("cmappmgr.8"), re.MULTILINE)
    assert options(" ".join(paragraphs)) == options(capsys.readouterr().out)


def test_every_verb_of_cmappctl_has_its_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        control_arguments.parse(["--help"])
    verbs = set(re.findall(r"^    ([a-z]+) ", capsys.readouterr().out, re.MULTILINE))
    assert set(re.findall(r"^\.It Ic ([a-z]+)", page("cmappctl.8"), re.MULTILINE)) == verbs


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (settings.DEFAULT_FILE, "cmappmgr.8"),
        (DEFAULT_CONFIG, "cmappctl.8"),
        (control_arguments.DEFAULT_PKI, "cmappctl.8"),
    ],
)
def test_default_files(path: str, name: str) -> None:
    assert f"Pa {path}" in page(name)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")
@pytest.mark.parametrize("name", ["cmappmgr.8", "cmappctl.8"])
def test_mandoc_has_nothing_to_say(name: str) -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", str(MAN / name)],
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
