"""Whether applications go together, across files and reloads: what they require, and their logs."""

import pytest

from cmappd.core.config import Config, Parsed, Source, parse, settle

MAIN = "/etc/cmappd/cmappserver.toml"
WEB = "/etc/cmappd/apps.d/web.toml"


def stanza(name: str, *requires: str, command: str = "/run") -> str:
    return f"[apps.{name}]\ncommand = ['{command}']\nrequires = {list(requires)}\n"


class Files:
    """Two files that are read again and again, as cmappserver does."""

    def __init__(self) -> None:
        self.config: Config | None = None
        self._parsed: Parsed | None = None

    def read(self, main: str, web: str = "") -> Config:
        sources = [Source(MAIN, main), Source(WEB, web)]
        self._parsed = parse(MAIN, sources, (), self._parsed)
        self.config = settle(self.config, self._parsed, "/var/log/cmappd")
        return self.config


def in_force(config: Config) -> dict[str, tuple[str, ...]]:
    return {name: app.requires for name, app in sorted(config.apps.items())}


def test_what_is_required_may_stand_in_any_file() -> None:
    config = Files().read(stanza("web", "redis") + stanza("db"), stanza("redis", "db"))
    assert config.problems == ()
    assert in_force(config) == {"db": (), "redis": ("db",), "web": ("redis",)}


@pytest.mark.parametrize(
    ("apps", "line", "sentence"),
    [
        (stanza("web", "rdis") + stanza("redis"), 3, "there is no good definition of 'rdis'"),
        (stanza("web", "a", "redis", "b") + stanza("redis"), 3, "definition of 'a', 'b'"),
        (stanza("redis") + stanza("web", "web"), 6, "it requires itself: web requires web"),
        ("[apps.db]\ncommand = []\n" + stanza("web", "db"), 5, "no good definition of 'db'"),
    ],
)
def test_what_cannot_be_had_is_a_problem_of_who_requires_it(
    apps: str, line: int, sentence: str
) -> None:
    config = Files().read(apps)
    problem = config.problem_of("web") or ""
    assert problem.startswith(f"{MAIN}:{line}: apps.web.requires: ")
    assert problem.endswith(sentence)
    assert "web" not in config.apps


def test_all_of_a_circle_are_refused_and_who_requires_one_of_them() -> None:
    circle = stanza("a", "b") + stanza("b", "c", "free") + stanza("c", "a")
    config = Files().read(circle + stanza("free"), stanza("above", "c") + stanza("other", "free"))
    assert in_force(config) == {"free": (), "other": ("free",)}
    problems = {problem.app: problem.message for problem in config.problems}
    assert problems == {
        "a": "it requires itself: a requires b requires c requires a",
        "b": "it requires itself: b requires c requires a requires b",
        "c": "it requires itself: c requires a requires b requires c",
        "above": "there is no good definition of 'c'",
    }


def test_two_circles_are_both_told() -> None:
    config = Files().read(stanza("a", "b") + stanza("b", "a") + stanza("x", "y") + stanza("y", "x"))
    assert in_force(config) == {}
    assert {problem.app for problem in config.problems} == {"a", "b", "x", "y"}


def test_a_stanza_becomes_wrong_and_right_because_another_one_changes() -> None:
    files = Files()
    files.read(stanza("web", "redis") + stanza("free"), stanza("redis"))
    without = files.read(stanza("web", "redis") + stanza("free"))
    assert in_force(without) == {"free": (), "web": ("redis",)}  # the last good one
    assert without.problem_of("web") is not None
    again = files.read(stanza("web", "redis") + stanza("free"), stanza("redis"))
    assert again.problems == ()


def test_an_edit_that_closes_a_circle_leaves_what_was_in_force() -> None:
    files = Files()
    files.read(stanza("web", "redis"), stanza("redis"))
    config = files.read(stanza("web", "redis", command="/new"), stanza("redis", "web"))
    assert in_force(config) == {"redis": (), "web": ("redis",)}
    assert config.apps["web"].command == ("/run",)
    assert {problem.app for problem in config.problems} == {"web", "redis"}


def test_requiring_what_is_quarantined_is_right_while_it_has_a_last_good_definition() -> None:
    files = Files()
    files.read(stanza("web", "redis"), stanza("redis"))
    config = files.read(stanza("web", "redis"), "[apps.redis]\ncommand = []\n")
    assert config.problem_of("web") is None
    assert in_force(config) == {"redis": (), "web": ("redis",)}


def test_a_last_good_definition_may_close_a_circle_too() -> None:
    files = Files()
    files.read(stanza("a", "b"), stanza("b"))
    config = files.read("[apps.a]\ncommand = []\n", stanza("b", "a"))
    assert in_force(config) == {"a": ("b",), "b": ()}
    assert (config.problem_of("b") or "").endswith("it requires itself: b requires a requires b")


def test_all_that_is_wrong_with_what_one_requires_is_told_at_once() -> None:
    config = Files().read(stanza("a", "b", "nix") + stanza("b", "a"))
    said = [problem.message for problem in config.problems if problem.app == "a"]
    assert said == [
        "there is no good definition of 'nix'",
        "it requires itself: a requires b requires a",
    ]


def logging(name: str, path: str) -> str:
    return f"[apps.{name}]\ncommand = ['/run']\nlog.path = '{path}'\n"


def test_two_applications_do_not_write_to_one_log() -> None:
    config = Files().read(logging("a", "/log/x") + logging("b", "/log/x"), logging("c", "/log/c"))
    assert sorted(config.apps) == ["c"]
    said = "apps.b.log.path: is the log of 'a', too: lines would be lost; choose another file"
    assert config.problem_of("b") == f"{MAIN}:6: {said}"
    assert config.problem_of("a") is not None


def test_who_has_a_log_keeps_it() -> None:
    files = Files()
    files.read(logging("a", "/log/a") + logging("b", "/log/b"))
    config = files.read(logging("a", "/log/b") + logging("b", "/log/b") + logging("c", "/log/a"))
    assert {name: app.log.path for name, app in config.apps.items()} == {
        "a": "/log/a",
        "b": "/log/b",
    }
    assert {problem.app for problem in config.problems} == {"a", "c"}
    swapped = files.read(logging("a", "/log/b") + logging("b", "/log/a"))
    assert swapped.problems == ()


@pytest.mark.parametrize(
    "path",
    [
        "/var/log/cmappd/a.log",
        "/var/log/x/../cmappd/./a.log",
        "//var/log/cmappd/a.log",
        "../../var/log/cmappd/a.log",
    ],
)
def test_a_log_is_a_file_however_it_is_named(path: str) -> None:
    """That of ``a`` is where it is when nobody says where."""
    a = "[apps.a]\ncommand = ['/run']\n"
    files = Files()
    assert in_force(files.read(a)) == {"a": ()}
    config = files.read(a + logging("b", path))
    said = "apps.b.log.path: is the log of 'a', too: lines would be lost; choose another file"
    assert [str(problem) for problem in config.problems] == [f"{MAIN}:5: {said}"]
    assert in_force(config) == {"a": ()}
    assert Files().read(a + logging("b", "/var/log/a.log")).problems == ()


def test_who_comes_to_where_another_one_is_is_wrong_also_without_a_path() -> None:
    files = Files()
    files.read(logging("b", "/var/log/cmappd/a.log"))
    config = files.read(logging("b", "/var/log/cmappd/a.log"), "[apps.a]\ncommand = ['/run']\n")
    (problem,) = config.problems
    assert str(problem) == (
        f"{WEB}:1: apps.a.log.path: is /var/log/cmappd/a.log, which is the log of 'b', too: "
        "lines would be lost; choose another file"
    )
    assert in_force(config) == {"b": ()}


def test_a_log_is_no_backup_of_another_one() -> None:
    few = "log.backups = 2\n"
    config = Files().read(logging("a", "/log/a") + few + logging("b", "/log/x/../a.2"))
    said = "apps.b.log.path: is a backup of the log of 'a': lines would be lost"
    assert (config.problem_of("b") or "").startswith(f"{MAIN}:7: {said}")
    assert in_force(config) == {"a": ()}
    files = Files()
    beside = logging("b", "/log/a.3")
    assert files.read(logging("a", "/log/a") + few + beside).problems == ()
    config = files.read(logging("a", "/log/a") + beside)
    assert [problem.message for problem in config.problems] == [
        "would have the log of 'b' for a backup: lines would be lost; choose another file"
    ]
    assert config.apps["a"].log.backups == 2


def test_what_goes_elsewhere_takes_no_file() -> None:
    a = "[apps.a]\ncommand = ['/run']\nlog.destination = 'none'\n"
    assert Files().read(a + logging("b", "/var/log/cmappd/a.log")).problems == ()


def test_a_device_is_for_all() -> None:
    assert Files().read(logging("a", "/dev/console") + logging("b", "/dev/console")).problems == ()
