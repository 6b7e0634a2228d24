"""Every reason and exit code that a manager can have now, each by really causing it."""

from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from cmappd import reasons
from tests.end_to_end.causes import Case, applications, identities, links, people
from tests.end_to_end.harness import Scene

CASES = (*applications.CASES, *identities.CASES, *links.CASES, *people.CASES)

# What takes more than this machine may have, and where it is caused instead.
ELSEWHERE = {
    reasons.OUT_OF_MEMORY: "tests/guest_vm: a kernel with controllers in cgroup v2",
}
# Caused below rather than in the table, because there is no application yet to report of.
BEFORE_THE_BEGINNING = {reasons.USAGE}


def _parameter(case: Case) -> ParameterSet:
    marks = [pytest.mark.root] if case.needs_root else []
    return pytest.param(case, id=case.title.replace(" ", "-"), marks=marks)


@pytest.mark.parametrize("case", [_parameter(case) for case in CASES])
def test_the_manager_exits_with_the_reason_and_its_code(case: Case, scene: Scene) -> None:
    manager = case.cause(scene)
    assert manager.wait() == case.code
    last = manager.said().splitlines()[-1]
    assert f"exit {case.code}, {case.reason.name}: " in last
    assert case.said in last
    report = manager.report()
    assert (report["reason"], report["code"]) == (case.reason.name, case.code)
    assert case.said in report["text"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "the following arguments are required: --app"),
        (("--app", ""), "cannot use --app '': it is not a name"),
        (("--app", "db", "--timeout", "5s"), "--timeout is for --start, --stop"),
        (("--app", "db", "--start", "--stop"), "not allowed with argument"),
        (("--app", "db", "--status", "--takeover"), "--takeover changes nothing"),
        (("--app", "db", "--stat"), "unrecognized arguments: --stat"),
        (("--app", "db", "--log-file", "/no/such/folder/log"), "No such file or directory"),
    ],
)
def test_wrong_arguments_are_a_usage_error(words: tuple[str, ...], said: str, scene: Scene) -> None:
    manager = scene.command(*words)
    assert manager.wait() == reasons.USAGE.code
    assert said in manager.said()


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (None, "cannot read"),
        ("[guests", "cannot read"),
        ("[gests.a]\n", "toml:1: gests: unknown key: did you mean 'guests'?"),
        (
            '[manager]\npoll_interval = "1h"\n',
            "toml:2: manager.poll_interval: must be",
        ),
        ("", "the table [tls] is required"),
    ],
)
def test_a_wrong_configuration_is_a_usage_error(
    toml: str | None, said: str, scene: Scene, tmp_path: Path
) -> None:
    config = tmp_path / "wrong.toml"
    if toml is not None:
        config.write_text(toml)
    manager = scene.manager("db", config=str(config))
    assert manager.wait() == reasons.USAGE.code
    assert said in manager.said()
    assert (manager.report()["reason"], manager.report()["code"]) == ("usage", 200)


def test_a_host_that_knows_several_guests_must_be_told_which(scene: Scene) -> None:
    config = Path(scene.host())
    config.write_text(config.read_text() + '[guests.guest2]\naddress = "192.0.2.1"\n')
    manager = scene.manager("db", config=str(config))
    assert manager.wait() == reasons.USAGE.code
    assert "give --guest (one of guest1, guest2)" in manager.said()


def test_the_table_has_every_reason() -> None:
    caused = {case.reason for case in CASES} | BEFORE_THE_BEGINNING
    assert caused.isdisjoint(ELSEWHERE)
    assert {*caused, *ELSEWHERE} == set(reasons.ALL)


def test_the_titles_tell_the_cases_apart() -> None:
    assert len({case.title for case in CASES}) == len(CASES)
