from collections.abc import Mapping
from dataclasses import replace

import pytest

from cmappd.core.config import Application, Manager, Parsed, Problem, Server, Source, Stop, parse
from cmappd.core.config import settle as settle_with
from cmappd.core.config.plan import (
    LAUNCH,
    LIVE,
    NO_LACKS,
    Change,
    Config,
    Lacks,
    Plan,
    compare,
    definition_hash,
    launch_hash,
)
from cmappd.errors import ConfigError

MAIN = "/etc/cmappd/cmappserver.toml"
WEB = "/etc/cmappd/apps.d/web.toml"
TLS = '[tls]\ncertificate = "a"\nkey = "b"\nca = "c"\n'
OK = TLS + "[managers.host]\napps = ['*']\n[apps.db]\ncommand = ['/db']\n"
OK_WEB = "[managers.web]\napps = ['web']\n[apps.web]\ncommand = ['/web']\n"


def parsed(main: str | None, web: str | None = None, failed: str | None = None) -> Parsed:
    """What the main file and the included one say; None where there is no such file."""
    texts = {MAIN: main, WEB: web}
    sources = [Source(path, text) for path, text in texts.items() if text is not None]
    failures = [Problem(failed, None, "", "cannot read this: permission denied")] if failed else []
    return parse(MAIN, sources, failures)


def settle(last: Config | None, parsed: Parsed, lacks: Mapping[str, Lacks] = NO_LACKS) -> Config:
    return settle_with(last, parsed, "/var/log/cmappd", lacks)


@pytest.fixture
def last() -> Config:
    return settle(None, parsed(OK, OK_WEB))


def test_every_key_of_an_application_is_live_or_for_the_launch() -> None:
    assert Application.model_fields.keys() == LIVE | LAUNCH
    assert not LIVE & LAUNCH


# settle ---------------------------------------------------------------------------------


def test_at_first_what_is_right_is_in_force() -> None:
    config = settle(None, parsed(OK, "[apps.web]\ncommand = []\n[apps.ok]\ncommand = ['/ok']"))

    assert config.apps.keys() == {"db", "ok"}
    assert config.origins == {"db": MAIN, "web": WEB, "ok": WEB}
    assert config.managers == {"host": Manager(apps=("*",))}
    assert config.problem_of("web") == f"{WEB}:2: apps.web.command: must not be empty"
    assert config.problem_of("db") is None
    assert config.problem_of("nobody") is None


@pytest.mark.parametrize(
    ("main", "lines"),
    [
        ("a = = 1", [f"{MAIN}:1: cannot read this as TOML: Invalid value"]),
        (
            "[server]\nlog_format = 1\n[tls]\nkey = 'a'\nca = 'b'\n[apps.db]\ncommand = []",
            [
                f'{MAIN}:2: server.log_format: must be "text" or "json"',
                f"{MAIN}:3: tls.certificate: is required",
                f"{MAIN}:7: apps.db.command: must not be empty",
            ],
        ),
        ("[tsl]\n", [f"{MAIN}:1: tsl: unknown key: did you mean 'tls'?"]),
    ],
)
def test_at_first_a_wrong_program_is_an_error(main: str, lines: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        settle(None, parsed(main))
    assert str(caught.value).split("\n") == lines


def test_at_first_an_unreadable_main_file_is_an_error() -> None:
    with pytest.raises(ConfigError, match="permission denied"):
        settle(None, parsed(None, failed=MAIN))


def test_the_same_again_is_the_same(last: Config) -> None:
    assert settle(last, parsed(OK, OK_WEB)) == last


def test_a_broken_stanza_keeps_the_last_good_one(last: Config) -> None:
    broken = OK.replace("['/db']", "'/db2'") + "[apps.new]\ncommand = ['/new']\n"
    config = settle(last, parsed(broken, OK_WEB.replace("/web", "/web2")))

    assert config.apps["db"] == last.apps["db"]
    assert config.apps["new"].command == ("/new",)
    assert config.apps["web"].command == ("/web2",)
    assert (config.problem_of("db") or "").startswith(f"{MAIN}:8: apps.db.command: must be an arr")
    assert config.problem_of("web") is None


def test_a_stanza_broken_twice_still_keeps_the_last_good_one(last: Config) -> None:
    broken = parsed(OK.replace("['/db']", "1"), OK_WEB)
    assert settle(settle(last, broken), broken).apps == last.apps


def test_what_the_machine_lacks_keeps_the_last_good_one_of_a_right_stanza(last: Config) -> None:
    new = parsed(OK + "user = 'nobdy'\n", OK_WEB.replace("/web", "/web2"))
    config = settle(last, new, {"db": [("user", "there is none\nnor any like it")]})
    assert config.apps == {"db": last.apps["db"], "web": Application(command=("/web2",))}
    assert config.problem_of("db") == (
        f"{MAIN}:9: apps.db.user: there is none\n{MAIN}:9: apps.db.user: nor any like it"
    )
    mended = settle(config, new)
    assert (mended.apps["db"].user, mended.problems) == ("nobdy", ())


def test_what_is_held_back_is_asked_for_nothing_with_the_others(last: Config) -> None:
    new = parsed(OK + "requires = ['nobody']\n", OK_WEB + "requires = ['db']\n")
    config = settle(last, new, {"db": [("command", "it is missing")]})
    assert [problem.key for problem in config.problems] == ["apps.db.command"]
    assert config.apps["web"].requires == ("db",)


def test_an_application_in_two_files_keeps_the_last_good_one(last: Config) -> None:
    config = settle(last, parsed(OK, OK_WEB + "[apps.db]\ncommand = ['/other']\n"))
    assert config.apps == last.apps
    assert config.problem_of("db") == (
        f"{WEB}:5: apps.db: is defined in {MAIN}:7 too: remove one of them"
    )


def test_what_a_readable_file_no_longer_defines_is_removed(last: Config) -> None:
    config = settle(last, parsed(TLS, OK_WEB))
    assert config.apps.keys() == config.origins.keys() == {"web"}
    assert config.managers.keys() == config.manager_origins.keys() == {"web"}


def test_what_a_file_that_is_gone_defined_is_removed(last: Config) -> None:
    config = settle(last, parsed(OK))
    assert config.apps.keys() == {"db"}
    assert config.managers.keys() == {"host"}


def test_an_application_that_moved_is_defined_anew(last: Config) -> None:
    config = settle(last, parsed(OK + "[apps.web]\ncommand = ['/moved']\n", "="))
    assert config.apps["web"].command == ("/moved",)
    assert config.origins["web"] == MAIN


def test_what_was_defined_nobody_knows_where_is_kept_while_anything_is_hidden(last: Config) -> None:
    recalled = replace(last, origins={"db": "", "web": ""})
    config = settle(recalled, parsed(OK, "[apps.web\n"))
    assert config.apps == last.apps
    assert config.origins == {"db": MAIN, "web": ""}
    assert "cannot read this as TOML" in (config.problem_of("web") or "")
    assert settle(config, parsed(OK)).apps.keys() == {"db"}


def test_an_unreadable_file_keeps_what_it_defined(last: Config) -> None:
    config = settle(last, parsed(OK, "[apps.web\n"))
    assert config.apps == last.apps
    assert config.managers == last.managers
    assert config.origins == last.origins
    assert config.manager_origins == last.manager_origins
    assert (config.problem_of("web") or "").startswith(f"{WEB}:1: cannot read this as TOML: ")
    assert config.problem_of("db") is None


@pytest.mark.parametrize("failed", [WEB, "/etc/cmappd/apps.d"])
def test_a_file_or_directory_that_cannot_be_read_keeps_what_it_defined(
    last: Config, failed: str
) -> None:
    config = settle(last, parsed(OK, failed=failed))
    assert config.apps == last.apps
    assert config.managers == last.managers
    assert config.problem_of("web") == f"{failed}: cannot read this: permission denied"
    assert config.problem_of("db") is None


def test_an_unreadable_file_does_not_keep_what_others_no_longer_define(last: Config) -> None:
    config = settle(last, parsed(TLS, "="))
    assert config.apps.keys() == {"web"}
    assert config.managers.keys() == {"web"}


def test_a_misspelt_table_removes_nothing_of_its_file(last: Config) -> None:
    config = settle(last, parsed(OK, OK_WEB.replace("[apps.web]", "[aps.web]")))
    assert config.apps == last.apps
    assert config.problem_of("web") == f"{WEB}:3: aps: unknown key: did you mean 'apps'?"


@pytest.mark.parametrize("failed", [None, MAIN])
def test_an_unreadable_main_file_changes_nothing(last: Config, failed: str | None) -> None:
    config = settle(last, parsed(None if failed else "=", failed=failed))
    assert replace(config, problems=()) == last
    assert len(config.problems) == 1


def test_an_included_file_does_not_take_the_place_of_the_main_one(last: Config) -> None:
    web = OK_WEB.replace("'/web'", "'/web2'") + "[server]\nlisten = []\n"
    config = settle(last, parsed(None, web, failed=MAIN))
    assert (config.server, config.tls) == (last.server, last.tls)
    assert config.managers == last.managers
    assert config.apps == {**last.apps, "web": Application(command=("/web2",))}
    assert list(map(str, config.problems)) == [
        f"{MAIN}: cannot read this: permission denied",
        f"{WEB}:5: server: belongs in the main file: an included one has apps and managers only",
    ]


def test_wrong_includes_remove_nothing(last: Config) -> None:
    config = settle(last, parsed("[server]\ninclude = 1\n" + OK))
    assert replace(config, problems=()) == last


@pytest.mark.parametrize(
    "wrong",
    [
        "[server]\nlog_format = 'x'\n" + OK,
        "[server]\nlog_format = 'json'\n" + OK.replace("ca =", "c ="),
        "[server]\nlisten = ['a:1']\n" + OK.replace(TLS, ""),
        "[server]\nlog_format = 'json'\n" + OK.replace("[tls]", "[tsl]"),
    ],
)
def test_a_wrong_program_keeps_the_last_good_one(last: Config, wrong: str) -> None:
    config = settle(last, parsed(wrong.replace("'/db'", "'/db2'"), OK_WEB))
    assert (config.server, config.tls) == (last.server, last.tls)
    assert config.apps["db"].command == ("/db2",)


def test_tls_that_is_removed_is_removed(last: Config) -> None:
    config = settle(last, parsed(OK.replace(TLS, ""), OK_WEB))
    assert (config.server, config.tls) == (Server(), None)


def test_a_wrong_manager_keeps_the_last_good_one(last: Config) -> None:
    config = settle(last, parsed(OK.replace("['*']", "'*'").replace("/db", "/db2"), OK_WEB))
    assert config.managers == last.managers
    assert config.apps["db"].command == ("/db2",)
    assert config.problem_of("db") is None


# compare --------------------------------------------------------------------------------

NOTHING = Plan((), (), {}, server_changed=False, tls_changed=False, managers_changed=False)


def plan(main: str, web: str | None = OK_WEB) -> Plan:
    return compare(settle(None, parsed(OK, OK_WEB)), settle(None, parsed(main, web)))


def test_equal_definitions_are_no_change() -> None:
    assert plan("# a comment\n" + OK + "stop.timeout = '30s'\n") == NOTHING


def test_added_and_removed_applications_are_sorted() -> None:
    added = "".join(f"[apps.{name}]\ncommand = ['/x']\n" for name in "cab")
    assert plan(OK + added) == replace(NOTHING, added=("a", "b", "c"))
    assert plan(TLS, added) == replace(
        NOTHING, added=("a", "b", "c"), removed=("db", "web"), managers_changed=True
    )


@pytest.mark.parametrize(
    ("line", "live", "launch"),
    [
        ("user = 'a'", (), ("user",)),
        ("environment.A = '1'\numask = '077'", (), ("environment", "umask")),
        ("log.path = '/x'", ("log",), ()),
        ("resources.cpu = 1.5", ("resources",), ()),
        ("stop.tree = true\nautostart = true", ("stop", "autostart"), ()),
        ("group = 'g'\nhealth.command = ['/x']", ("health",), ("group",)),
        ("health.tcp = 'a:1'\nnice = 1\nlimits.core = 0", ("health",), ("nice", "limits")),
        ("type = 'oneshot'\nstart.command = ['/x']", ("start",), ("type",)),
        ("type = 'forking'\npid_file = '/x'", (), ("type", "pid_file")),
        ("stop.command = ['/x']\nstop.after = ['/y']", ("stop",), ()),
        ("health.watchdog = '5s'", ("health",), ("health.watchdog",)),
        ("start.ready = 'notify'", ("start",), ("start.ready",)),
        ("start.ready = '2s'", ("start",), ()),
        (
            "environment_file = '/x'\nno_new_privileges = true",
            (),
            ("environment_file", "no_new_privileges"),
        ),
    ],
)
def test_changed_keys_are_live_or_for_the_launch(
    line: str, live: tuple[str, ...], launch: tuple[str, ...]
) -> None:
    change = Change(frozenset(live), frozenset(launch))
    assert plan(OK + line) == replace(NOTHING, changed={"db": change})


@pytest.mark.parametrize(
    ("before", "after", "launch"),
    [
        ("health.watchdog = '5s'", "", ()),
        ("start.ready = 'notify'", "", ()),
        ("health.watchdog = '5s'", "health.watchdog = '6s'", ("health.watchdog",)),
        ("health.watchdog = '5s'", "health.watchdog = '5s'\nhealth.interval = '6s'", ()),
        # It has NOTIFY_SOCKET already.
        ("health.watchdog = '5s'", "health.watchdog = '5s'\nstart.ready = 'notify'", ()),
    ],
)
def test_what_it_need_not_be_told_waits_for_no_launch(
    before: str, after: str, launch: tuple[str, ...]
) -> None:
    old, new = (settle(None, parsed(OK + line, OK_WEB)) for line in (before, after))
    change = compare(old, new).changed["db"]
    assert change.live
    assert change.launch == frozenset(launch)


def test_changes_of_the_program_and_the_managers() -> None:
    assert plan("[server]\ncontrol = '/c'\n" + OK) == replace(NOTHING, server_changed=True)
    assert plan(OK.replace('"a"', '"d"')) == replace(NOTHING, tls_changed=True)
    assert plan(OK.replace("'*'", "'db'")) == replace(NOTHING, managers_changed=True)


# Hashes ---------------------------------------------------------------------------------


def test_hashes_are_stable() -> None:
    app = Application(command=("/db", "é"), environment={"B": "1", "A": "2"}, umask=0o022)
    assert launch_hash(app) == "551436ab66688327"
    assert definition_hash(app) == launch_hash(app)


def test_equal_definitions_have_equal_hashes() -> None:
    one = Application(command=("/db",), environment={"A": "1", "B": "2"}, stop=Stop(timeout=30.0))
    other = Application(command=("/db",), environment={"B": "2", "A": "1"}, type="simple")
    assert launch_hash(one) == launch_hash(other)
    assert definition_hash(one) == definition_hash(other)


@pytest.mark.parametrize(
    ("keys", "launches_differ"),
    [
        ({"command": ("/db", "")}, True),
        ({"user": "a"}, True),
        ({"group": "a"}, True),
        ({"supplementary_groups": ()}, True),
        ({"directory": "/a"}, True),
        ({"environment": {"A": ""}}, True),
        ({"umask": 0}, True),
        ({"environment_file": "/a"}, True),
        ({"limits": {"core": (0, 0)}}, True),
        ({"nice": 0}, True),
        ({"no_new_privileges": True}, True),
        ({"type": "oneshot"}, True),
        ({"type": "forking"}, True),
        ({"autostart": True}, False),
        ({"stop": {"tree": True}}, False),
        ({"start": {"command": ("/a",)}}, False),
        ({"stop": {"command": ("/a",)}}, False),
        ({"stop": {"after": ("/a",)}}, False),
        ({"health": {"http": "http://a"}}, False),
        ({"health": {"command": ("/a",)}}, False),
        ({"health": {"watchdog": 5.0}}, False),
        ({"start": {"ready": "notify"}}, False),
        ({"start": {"ready": 2.0}}, False),
        ({"log": {"path": "/a"}}, False),
    ],
)
def test_hashes_differ_with_their_keys(keys: dict[str, object], launches_differ: bool) -> None:
    base = Application(command=("/db",))
    other = Application.model_validate({"command": ("/db",), **keys})
    assert (launch_hash(other) != launch_hash(base)) is launches_differ
    assert definition_hash(other) != definition_hash(base)


def test_the_pid_file_is_part_of_the_launch() -> None:
    base = Application(command=("/db",), type="forking")
    other = Application(command=("/db",), type="forking", pid_file="/a")
    assert launch_hash(other) != launch_hash(base)
