"""The completions, asked as bash asks them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installed.conftest import ROOT
from tests.server.harness import Guest, stanza

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def complete(program: str, *words: str, path: str = PATH) -> set[str]:
    """What is offered for the last of the words."""
    script = (
        'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _"$1"; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, str(ROOT / "completions" / program), program, *words],
        env={"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_verbs() -> None:
    assert complete("cmappctl", "st") == {"start", "status", "stop"}
    assert {"check", "pki", "reload"} <= complete("cmappctl", "")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("status", "--v"), {"--verbose"}),
        (("--socket", "/run/x", "stop", "--t"), {"--timeout"}),
        (("check", ""), set[str]()),
        (("pki", "issue", "guest", "vm1", "--"), {"--address", "--dir", "--help"}),
        (("pki", "issue", "manager", "vmhost1", "--d"), {"--dir"}),
        (("pki", "revoke", "--d"), {"--dir"}),
        (("maintenance", "db", "on", "--"), {"--for", "--help", "--reason"}),
    ],
)
def test_options(words: tuple[str, ...], offered: set[str]) -> None:
    assert complete("cmappctl", *words) == offered


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("",), {"init", "issue", "revoke"}),
        (("--dir", "pki", "i"), {"init", "issue"}),
        (("issue", ""), {"guest", "manager"}),
        (("issue", "guest", ""), set[str]()),
        (("issue", "guest", "vm1", "--address", ""), set[str]()),
        (("revoke", ""), set[str]()),
    ],
)
def test_words_of_pki(words: tuple[str, ...], offered: set[str]) -> None:
    assert complete("cmappctl", "pki", *words) == offered


def test_options_of_cmappmgr() -> None:
    assert complete("cmappmgr", "--st") == {"--start", "--status", "--stop"}
    assert complete("cmappmgr", "--app", "") == set()


ALL = {"db", "db2", "bad"}
NAMES: tuple[tuple[str, set[str]], ...] = (
    ("stop d", {"db", "db2"}),
    ("stop db ", ALL),
    ("stop --timeout 5s ", ALL),
    ("stop --timeout = 5s ", ALL),  # as bash splits --timeout=5s
    ("status ", ALL),
    ("logs -n 5 ", ALL),
    ("maintenance ", ALL),
    ("maintenance db ", {*ALL, "on", "off"}),
    ("maintenance db o", {"on", "off"}),
    # Where no name may stand:
    ("stop --timeout ", set()),
    ("stop --timeout = 5", set()),
    ("logs -n ", set()),
    ("logs db ", set()),
    ("history db ", set()),
    ("maintenance db on ", set()),
    ("maintenance db on --for ", set()),
    ("version ", set()),
    ("reload ", set()),
    ("upgrade ", set()),
    ("pki issue guest ", set()),
)


def test_names_of_applications(tmp_path: Path) -> None:
    """By a cmappctl that asks the server of this test, wherever the usual one would be."""
    apps = stanza("db", "/bin/sleep", "600") + stanza("db2", "/bin/sleep", "600")
    with Guest(tmp_path, apps + "[apps.bad]\nspelling = 1\n").started() as guest:
        program = tmp_path / "bin/cmappctl"
        program.parent.mkdir()
        real = Path(sys.executable).parent / "cmappctl"
        program.write_text(f'#!/bin/sh\nexec {real} --socket {guest.control_path} "$@"\n')
        program.chmod(0o755)
        path = f"{program.parent}:{os.environ['PATH']}"
        for words, offered in NAMES:
            assert complete("cmappctl", *words.split(" "), path=path) == offered, words
