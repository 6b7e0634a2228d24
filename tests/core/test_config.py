import json
import signal
import string
import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from cmappd.core.config import (
    Address,
    Application,
    Health,
    Log,
    Manager,
    Ownership,
    Parsed,
    Problem,
    Resources,
    Restart,
    Server,
    Source,
    Start,
    Stop,
    Tls,
    includes,
    parse,
    state_directory,
)
from cmappd.core.config.stanzas import decode
from cmappd.core.config.values import LIMITS, SIGNALS

MAIN = "/etc/cmappd/cmappserver.toml"
TLS = '[tls]\ncertificate = "pki/a.pem"\nkey = "pki/a.key"\nca = "/ca.pem"\n'
APP = '[apps.db]\ncommand = ["/bin/db"]\n'


def parse_main(text: str) -> Parsed:
    return parse(MAIN, [Source(MAIN, text)])


def problems(text: str) -> list[str]:
    """The problems of a main file, without its name."""
    return [str(problem).removeprefix(MAIN) for problem in parse_main(text).problems]


def app(text: str = "") -> Application:
    parsed = parse_main(APP + text)
    assert parsed.problems == ()
    return parsed.apps["db"]


# What is accepted ----------------------------------------------------------------------


def test_an_empty_file_is_a_server_with_the_defaults() -> None:
    parsed = parse_main("")

    assert parsed.problems == ()
    assert parsed.server == Server(
        listen=(),
        include=(),
        on_shutdown="stop",
        control=None,
        state_directory=None,
        log_format="text",
    )
    assert (parsed.tls, parsed.managers, parsed.apps) == (None, {}, {})


def test_with_tls_it_listens_and_paths_start_from_the_file() -> None:
    parsed = parse_main(TLS)

    assert parsed.problems == ()
    assert parsed.server == Server(listen=(Address("0.0.0.0", 5315),))
    assert parsed.tls == Tls(
        certificate="/etc/cmappd/pki/a.pem", key="/etc/cmappd/pki/a.key", ca="/ca.pem", crl=None
    )


def test_a_full_server() -> None:
    parsed = parse_main(
        '[server]\nlisten = ["[::]:5315", "guest1:0"]\ninclude = ["apps.d/*.toml", "/x/*.toml"]\n'
        'on_shutdown = "stop"\ncontrol = "run/control"\nstate_directory = "/var/lib/cmappd"\n'
        'log_format = "json"\n' + TLS + 'crl = "crl.pem"\n[managers.vmhost1]\napps = ["*"]\n'
        '[managers."vm.host2"]\napps = ["db", "web"]\n'
    )

    assert parsed.problems == ()
    assert parsed.server == Server(
        listen=(Address("::", 5315), Address("guest1", 0)),
        include=("/etc/cmappd/apps.d/*.toml", "/x/*.toml"),
        control="/etc/cmappd/run/control",
        state_directory="/var/lib/cmappd",
        log_format="json",
    )
    assert [str(address) for address in parsed.server.listen] == ["[::]:5315", "guest1:0"]
    assert parsed.tls is not None
    assert parsed.tls.crl == "/etc/cmappd/crl.pem"
    assert parsed.managers == {
        "vmhost1": Manager(apps=("*",)),
        "vm.host2": Manager(apps=("db", "web")),
    }


def test_an_explicit_listen_stays_even_if_empty() -> None:
    parsed = parse_main("[server]\nlisten = []\n" + TLS)
    assert parsed.server is not None
    assert parsed.server.listen == ()


def test_a_manager_drives_what_it_may() -> None:
    assert Manager(apps=("*",)).allows("db")
    assert Manager(apps=("db", "web")).allows("web")
    assert not Manager(apps=("db",)).allows("web")
    assert not Manager(apps=("db",)).allows("*")


def test_the_defaults_of_an_application() -> None:
    definition = app()

    assert definition == Application(
        description="",
        command=("/bin/db",),
        user=None,
        group=None,
        supplementary_groups=None,
        directory=None,
        environment={},
        umask=None,
        environment_file=None,
        limits={},
        nice=None,
        no_new_privileges=False,
        type="simple",
        pid_file=None,
        autostart=False,
        reload="pending",
        start=Start(command=None, ready=1.0, timeout=120.0),
        stop=Stop(command=None, signal="SIGTERM", tree=False, timeout=30.0, after=None),
        restart=Restart(
            policy="never",
            success_codes=(0,),
            limit=3,
            window=600.0,
            delay=1.0,
            max_delay=30.0,
        ),
        health=None,
        manager=Ownership(on_lost="keep", lease=30.0),
        log=Log(destination="file", path=None, max_size=50 * 1024**2, backups=5),
    )


def test_a_full_application() -> None:
    definition = app(
        'description = "Orders"\nuser = "oracle"\ngroup = "dba"\nsupplementary_groups = ["a"]\n'
        'directory = "work"\nenvironment = { SID = "PROD" }\numask = "022"\ntype = "simple"\n'
        'autostart = true\nreload = "restart"\n'
        'start = { ready = "health", timeout = "1m30s" }\n'
        'stop = { signal = "SIGINT", tree = true, timeout = "500ms" }\n'
        'restart = { policy = "always", success_codes = [0, 3], limit = 0, window = "1h", '
        'delay = "2s", max_delay = "2s" }\n'
        'manager = { on_lost = "stop", lease = "5s" }\n'
        'log = { destination = "file", path = "db.log", max_size = 4096, backups = 0 }\n'
        '[apps.db.health]\ncommand = ["/bin/ping", ""]\ninterval = "1s"\ntimeout = "2s"\n'
        'failures = 1\nsuccesses = 2\nstart_period = "0s"\naction = "report"\n'
    )

    assert definition == Application(
        description="Orders",
        command=("/bin/db",),
        user="oracle",
        group="dba",
        supplementary_groups=("a",),
        directory="/etc/cmappd/work",
        environment={"SID": "PROD"},
        umask=0o022,
        autostart=True,
        reload="restart",
        start=Start(ready="health", timeout=90.0),
        stop=Stop(signal="SIGINT", tree=True, timeout=0.5),
        restart=Restart(
            policy="always",
            success_codes=(0, 3),
            limit=0,
            window=3600.0,
            delay=2.0,
            max_delay=2.0,
        ),
        health=Health(
            command=("/bin/ping", ""),
            interval=1.0,
            timeout=2.0,
            failures=1,
            successes=2,
            start_period=0.0,
            action="report",
        ),
        manager=Ownership(on_lost="stop", lease=5.0),
        log=Log(path="/etc/cmappd/db.log", max_size=4096, backups=0),
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('type = "oneshot"', {"type": "oneshot"}),
        ('type = "oneshot"\nhealth.tcp = "a:1"', {"type": "oneshot", "health": {"tcp": "a:1"}}),
        ('type = "forking"', {"type": "forking"}),
        (
            'pid_file = "run/db.pid"\ntype = "forking"',
            {"type": "forking", "pid_file": "/etc/cmappd/run/db.pid"},
        ),
        ('start.command = ["/bin/a", ""]', {"start": {"command": ("/bin/a", "")}}),
        (
            'start = { command = ["/a"], timeout = "5s" }\ntype = "oneshot"',
            {"start": {"command": ("/a",), "timeout": 5.0, "ready": 0.0}, "type": "oneshot"},
        ),
        ('stop.command = ["/a", "b"]', {"stop": {"command": ("/a", "b")}}),
        ('stop.after = ["/a", "b"]', {"stop": {"after": ("/a", "b")}}),
        ('environment_file = "db.env"', {"environment_file": "/etc/cmappd/db.env"}),
        ('environment_file = "/db.env"', {"environment_file": "/db.env"}),
        ("nice = -20", {"nice": -20}),
        ("nice = 0", {"nice": 0}),
        ("nice = 19", {"nice": 19}),
        ("no_new_privileges = true", {"no_new_privileges": True}),
        ("limits = {}", {}),
        ("resources = {}", {}),
        ('resources.memory = "1M"', {"resources": {"memory": 1024**2}}),
        ("resources.cpu = 2", {"resources": {"cpu": 2.0}}),
        ("resources.cpu = 0.01", {"resources": {"cpu": 0.01}}),
        ("resources.cpu = 1e1", {"resources": {"cpu": 10.0}}),
        ("resources.processes = 1", {"resources": {"processes": 1}}),
        ("limits.core = 0", {"limits": {"core": (0, 0)}}),
        ("limits.nofile = [10, 20]", {"limits": {"nofile": (10, 20)}}),
        ("limits.nofile = [20, 20]", {"limits": {"nofile": (20, 20)}}),
        (f"limits.as = {2**63 - 1}", {"limits": {"as": (2**63 - 1, 2**63 - 1)}}),
        ('limits.core = "unlimited"', {"limits": {"core": (-1, -1)}}),
        ('limits.stack = [1, "unlimited"]', {"limits": {"stack": (1, -1)}}),
        (
            'limits.core = ["unlimited", "unlimited"]\nlimits.nproc = 7',
            {"limits": {"core": (-1, -1), "nproc": (7, 7)}},
        ),
        ('health.tcp = "localhost:1521"', {"health": {"tcp": "localhost:1521"}}),
        ('health.tcp = "[::1]:65535"', {"health": {"tcp": "[::1]:65535"}}),
        (
            'start.ready = "health"\nhealth.http = "https://[::1]:8443/"',
            {"start": {"ready": "health"}, "health": {"http": "https://[::1]:8443/"}},
        ),
        (
            'health = { http_body = "ok", http_status = [100, 599], http_redirects = true, '
            'http_verify = false, http = "http://a/?b" }',
            {
                "health": {
                    "http": "http://a/?b",
                    "http_status": (100, 599),
                    "http_body": "ok",
                    "http_redirects": True,
                    "http_verify": False,
                }
            },
        ),
        (
            'health = { tcp = "a:1", http_redirects = false, http_verify = true }',
            {"health": {"tcp": "a:1"}},
        ),
    ],
)
def test_each_way_to_run_and_to_check(line: str, expected: dict[str, object]) -> None:
    definition = app(line).model_dump(exclude_defaults=True)
    assert definition == {"command": ("/bin/db",), **expected}


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_has_a_name(name: str) -> None:
    assert app(f"limits.{name} = 5").limits == {name: (5, 5)}


def test_definitions_cannot_be_changed_and_can_be_hashed() -> None:
    definition = app('environment = { A = "1" }')
    with pytest.raises(ValidationError, match="frozen"):
        setattr(definition, "autostart", True)  # noqa: B010 - mypy knows it, too
    assert hash(definition) == hash(app('environment = { A = "1" }'))


def test_tables_left_out_or_equal_are_one_instance() -> None:
    parsed = parse_main(
        '[apps.a]\ncommand = ["/a"]\nstop.timeout = "7s"\n'
        '[apps.b]\ncommand = ["/b"]\nstop.timeout = "7s"\n'
    )
    a, b = parsed.apps["a"], parsed.apps["b"]
    assert a.stop is b.stop
    assert a.restart is b.restart
    assert a.log is b.log


def test_the_signals_are_those_of_linux() -> None:
    names = {name for name in dir(signal) if name.startswith("SIG") and name.isalnum()}
    assert names - {"SIGRTMIN", "SIGRTMAX", "SIGCLD", "SIGIOT"} == SIGNALS


# Records ------------------------------------------------------------------------------

# Between them they have another value than the default for every key that may have one.
FULL = [
    """
    description = "Orders"
    user = "oracle"
    group = "dba"
    supplementary_groups = ["a"]
    directory = "/work"
    environment = { SID = "PROD" }
    environment_file = "/db.env"
    umask = "022"
    limits = { core = "unlimited", nofile = [10, 20], stack = [10, "unlimited"] }
    nice = -5
    no_new_privileges = true
    type = "forking"
    pid_file = "/db.pid"
    autostart = true
    reload = "restart"
    start = { command = ["/prepare"], ready = "health", timeout = "5m" }
    stop = { command = ["/a"], signal = "SIGINT", tree = true, timeout = "1s", after = ["/b", ""] }
    restart.policy = "always"
    restart.success_codes = [0, 3]
    restart.limit = 0
    restart.window = "1h"
    restart.delay = "2s"
    restart.max_delay = "9s"
    manager = { on_lost = "stop", lease = "5s" }
    resources = { memory = "4G", cpu = 2.5, processes = 500 }
    log = { path = "/db.log", max_size = 4096, backups = 0, format = "json" }
    [apps.db.health]
    watchdog = "1m"
    http = "http://localhost/"
    http_status = [200, 204]
    http_body = "ok"
    http_redirects = true
    http_verify = false
    interval = "1s"
    timeout = "2s"
    failures = 1
    successes = 2
    start_period = "1m"
    action = "report"
    """,
    'type = "oneshot"\nstart.command = ["/prepare"]\nhealth.command = ["/bin/ping", ""]',
    'requires = ["listener", "db"]',
    'start.ready = "5s"\nhealth.tcp = "[::1]:1521"\nlog.destination = "journal"',
    'start.ready = "notify"\nhealth.watchdog = "30s"',
]


@pytest.mark.parametrize("text", FULL)
def test_a_record_in_json_gives_the_definition_back(text: str) -> None:
    """The records of running applications depend on this."""
    definition = app(text)
    record = definition.model_dump_json(exclude_defaults=True)
    assert Application.model_validate(json.loads(record)) == definition


def test_those_have_every_key() -> None:
    used = {key for text in FULL for key in _keys(app(text).model_dump(exclude_defaults=True))}
    tables: dict[str, type[BaseModel]] = {"start": Start, "stop": Stop, "restart": Restart}
    tables |= {"health": Health, "manager": Ownership, "log": Log, "resources": Resources}
    every = {f"{name}.{key}" for name, table in tables.items() for key in table.model_fields}
    every |= Application.model_fields.keys()
    assert every <= used


def _keys(dumped: dict[str, object]) -> Iterator[str]:
    for key, value in dumped.items():
        yield key
        if isinstance(value, dict):
            yield from (f"{key}.{inner}" for inner in value)


# What is refused, and in which words ----------------------------------------------------

DURATION = 'must be a duration such as "10s", "1m30s" or "500ms"'
WORDS = 'must be an array of words, such as ["/opt/db/run", "PROD"]: no shell reads it'
SIZE = 'must be a size such as "512K", "64M" or "2G", or a number of bytes'
MASK = 'must be an octal number in quotes, such as "022"'
READY = 'must be "health", "notify", or a duration such as "10s" to survive'
ONESHOT = "must not have ready: a oneshot is ready when its command has succeeded"
LIMIT = 'must be a number, "unlimited", or an array of a soft and a hard one'
SOFT_LIMIT = "must have a soft limit that is not above the hard one"
LIMIT_NAME = f"must be a limit: {', '.join(LIMITS)}"
URL = 'must be a URL such as "http://127.0.0.1:8080/healthz" or "https://[::1]:8443/"'
OF_HTTP = "is for a check by http"
ONE_WAY = (
    "one of command, http and tcp is required, unless there is a watchdog, and no more than one"
)
NEEDED = 'is required, with a check: start.ready is "health"'
NUMBER = "must be a number, such as 2 or 0.5"
NO_NUMBERS = ("nan", "-inf", "1e999", "true", '"2"', "[]")
ARRAY = "must be an array"
EMPTY = "must not be empty"


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ("comand = 1", "comand", "unknown key: did you mean 'command'?"),
        ("qqq = 1", "qqq", "unknown key"),
        ("stop.timout = 1", "stop.timout", "unknown key: did you mean 'timeout'?"),
        ("start.redy = 1", "start.redy", "unknown key: did you mean 'ready'?"),
        ("manager.leese = 1", "manager.leese", "unknown key: did you mean 'lease'?"),
        ("description = 1", "description", "must be a string"),
        ('description = "a\\nb"', "description", "must be one line, without control characters"),
        (f'description = "{"a" * 501}"', "description", "must be at most 500 characters"),
        ('user = ""', "user", "must not be empty"),
        ("user = 0", "user", "must be a string"),
        ("group = []", "group", "must be a string"),
        ('supplementary_groups = "a"', "supplementary_groups", "must be an array"),
        ("supplementary_groups = [1]", "supplementary_groups[0]", "must be a string"),
        ('directory = "a\\u0000"', "directory", "must not contain a NUL character"),
        ("environment = 1", "environment", "must be a table"),
        ("environment.A = 1", "environment.A", "must be a string"),
        ('environment.A = "\\u0000"', "environment.A", "must not contain a NUL character"),
        (
            'environment."A=B" = ""',
            'environment."A=B"',
            "must be a name of letters, digits and _, the first not a digit",
        ),
        (
            'environment.CMAPPD_RUN = ""',
            "environment.CMAPPD_RUN",
            "must not begin with CMAPPD_: those variables are set by cmappserver",
        ),
        ("umask = 22", "umask", MASK),
        ('umask = "088"', "umask", MASK),
        ('umask = "1777"', "umask", MASK),
        ('type = "simpel"', "type", 'must be "simple", "forking" or "oneshot"'),
        ('pid_file = "/p"', "pid_file", 'is for type = "forking"'),
        ("environment_file = 1", "environment_file", "must be a string"),
        ('environment_file = ""', "environment_file", "must not be empty"),
        ("limits = 1", "limits", "must be a table"),
        ("limits.nofil = 1", "limits.nofil", LIMIT_NAME),
        ("limits.NOFILE = 1", "limits.NOFILE", LIMIT_NAME),
        ('limits.as = "2G"', "limits.as", LIMIT),
        ("limits.nofile = -1", "limits.nofile", LIMIT),
        ("limits.nofile = true", "limits.nofile", LIMIT),
        ("limits.nofile = 1.0", "limits.nofile", LIMIT),
        (f"limits.nofile = {2**63}", "limits.nofile", LIMIT),
        ("limits.nofile = []", "limits.nofile", LIMIT),
        ("limits.nofile = [1]", "limits.nofile", LIMIT),
        ("limits.nofile = [1, -1]", "limits.nofile", LIMIT),
        ("limits.nofile = [1, 2, 3]", "limits.nofile", LIMIT),
        ("limits.nofile = [[1], 2]", "limits.nofile", LIMIT),
        ("limits.nofile = [5, 2]", "limits.nofile", SOFT_LIMIT),
        ('limits.nofile = ["unlimited", 2]', "limits.nofile", SOFT_LIMIT),
        ("nice = -21", "nice", "must be at least -20"),
        ("nice = 20", "nice", "must be at most 19"),
        ("nice = true", "nice", "must be a whole number"),
        ('no_new_privileges = "yes"', "no_new_privileges", "must be true or false"),
        ("autostart = 1", "autostart", "must be true or false"),
        ('autostart = "true"', "autostart", "must be true or false"),
        ('reload = "now"', "reload", 'must be "pending" or "restart"'),
        ("start = 1", "start", "must be a table"),
        ('start.ready = "soon"', "start.ready", READY),
        ("start.ready = 5", "start.ready", READY),
        ('start.timeout = "0s"', "start.timeout", 'must be longer than "0s"'),
        ('start.timeout = "500ms"', "start.timeout", 'must be at least start.ready, "1s"'),
        ('start.ready = "3m"', "start.timeout", 'must be at least start.ready, "3m"'),
        ('start.ready = "health"', "health", NEEDED),
        ('start.ready = "notify"\ntype = "oneshot"', "start", ONESHOT),
        ('health.watchdog = "0s"', "health.watchdog", 'must be longer than "0s"'),
        ('start.command = "/bin/a -b"', "start.command", WORDS),
        ('start = { ready = "1s" }\ntype = "oneshot"', "start", ONESHOT),
        ('start = { ready = "health" }\ntype = "oneshot"', "start", ONESHOT),
        ("stop.command = []", "stop.command", "must not be empty"),
        ('stop.after = ["a"]', "stop.after", "must begin with the absolute path of a program"),
        ("stop.timeout = 30", "stop.timeout", DURATION),
        ("stop.timeout = 30.0", "stop.timeout", DURATION),
        ("stop.timeout = inf", "stop.timeout", DURATION),
        ('stop.timeout = "30"', "stop.timeout", DURATION),
        ('stop.timeout = "400d"', "stop.timeout", "must be at most 365d"),
        (
            'stop.signal = "TERM"',
            "stop.signal",
            'must be the name of a signal, such as "SIGTERM": did you mean "SIGTERM"?',
        ),
        ("stop.signal = 15", "stop.signal", "must be a string"),
        ('stop.tree = "yes"', "stop.tree", "must be true or false"),
        ('restart.policy = "no"', "restart.policy", 'must be "never", "on-failure" or "always"'),
        ("restart.success_codes = 0", "restart.success_codes", "must be an array"),
        (
            "restart.success_codes = [0, 256]",
            "restart.success_codes[1]",
            "must be an exit code from 0 to 255",
        ),
        (
            "restart.success_codes = [true]",
            "restart.success_codes[0]",
            "must be a whole number",
        ),
        ("restart.limit = -1", "restart.limit", "must be at least 0"),
        ("restart.limit = 1000001", "restart.limit", "must be at most 1000000"),
        (f"restart.limit = {'9' * 99}", "restart.limit", "must be at most 1000000"),
        ("restart.limit = true", "restart.limit", "must be a whole number"),
        ("restart.limit = 3.0", "restart.limit", "must be a whole number"),
        ('restart.delay = "1m"', "restart.max_delay", 'must be at least restart.delay, "1m"'),
        ('restart.max_delay = "0s"', "restart.max_delay", 'must be longer than "0s"'),
        ('manager.lease = "4s"', "manager.lease", 'must be at least "5s"'),
        ('manager.on_lost = "x"', "manager.on_lost", 'must be "keep" or "stop"'),
        ('log.max_size = "50MB"', "log.max_size", SIZE),
        ("log.max_size = true", "log.max_size", SIZE),
        ("log.max_size = 1.5", "log.max_size", SIZE),
        ("log.max_size = 1023", "log.max_size", "must be at least 1024"),
        ('log.max_size = "1025G"', "log.max_size", "must be at most 1099511627776"),
        ("log.backups = -1", "log.backups", "must be at least 0"),
        ("resources.memory = 1048575", "resources.memory", "must be at least 1048576"),
        ("resources.memory = 1e9", "resources.memory", SIZE),
        ("resources.cpu = 0.009", "resources.cpu", "must be at least 0.01"),
        ("resources.cpu = 10001", "resources.cpu", "must be at most 10000"),
        *((f"resources.cpu = {wrong}", "resources.cpu", NUMBER) for wrong in NO_NUMBERS),
        ("resources.processes = 0", "resources.processes", "must be at least 1"),
        ("resources.processes = 2.0", "resources.processes", "must be a whole number"),
        ("resources.swap = 1", "resources.swap", "unknown key"),
        ("stop.timeout = 2.0", "stop.timeout", DURATION),
        ("start.ready = 2.0", "start.ready", READY),
        ('log.path = ""', "log.path", "must not be empty"),
        ("health = { }", "health.tcp", ONE_WAY),
        ('health = { interval = "1s" }', "health.tcp", ONE_WAY),
        ('health = { tcp = "a:1", http = "http://a" }', "health.tcp", ONE_WAY),
        ('health = { tcp = "a:1", command = ["/a"] }', "health.tcp", ONE_WAY),
        ('health = { command = ["/a"], http = "http://a" }', "health.tcp", ONE_WAY),
        ('health.command = "/bin/ping"', "health.command", WORDS),
        ("health.http = 1", "health.http", "must be a string"),
        ('health.http = "ftp://a"', "health.http", URL),
        (
            'health.http = "http://u:p@a"',
            "health.http",
            "must not have a user or a password: they would show in every message",
        ),
        ('health = { command = ["/a"], http_status = [200] }', "health.http_status", OF_HTTP),
        ('health = { tcp = "a:1", http_body = "ok" }', "health.http_body", OF_HTTP),
        ('health = { tcp = "a:1", http_redirects = true }', "health.http_redirects", OF_HTTP),
        ('health = { tcp = "a:1", http_verify = false }', "health.http_verify", OF_HTTP),
        ('health = { http = "http://a", http_status = 200 }', "health.http_status", ARRAY),
        ('health = { http = "http://a", http_status = [] }', "health.http_status", EMPTY),
        ('health = { http = "http://a", http_body = 1 }', "health.http_body", "must be a string"),
        (
            'health = { http = "http://a", http_verify = 1 }',
            "health.http_verify",
            "must be true or false",
        ),
        ("health.tcp = 1521", "health.tcp", "must be a string"),
        ('health.tcp = "a:0"', "health.tcp", "must have a port from 1 to 65535"),
        ('requires = ["db", "a b"]', "requires", "must be an array of names of applications"),
        ('requires = ["db", "x", "db"]', "requires", "names 'db' twice"),
        ('requires = "db"', "requires", "must be an array"),
        (
            'log.destination = "nowhere"',
            "log.destination",
            'must be "file", "journal", "syslog" or "none"',
        ),
        (
            'log = { destination = "none", path = "/a" }',
            "log.path",
            'is for destination = "file"',
        ),
        (
            'log = { destination = "syslog", format = "json" }',
            "log.format",
            'is for destination = "file"',
        ),
        (
            'log = { destination = "journal", backups = 4 }',
            "log.backups",
            'is for destination = "file"',
        ),
    ],
)
def test_each_wrong_key_of_an_application(line: str, key: str, message: str) -> None:
    parsed = parse_main(f"{APP}{line}\n[apps.web]\ncommand = ['/web']\n")

    # A key that is not written is reported at the table around it.
    at = 1 if key == "health" else 3
    assert parsed.problems == (Problem(MAIN, at, f"apps.db.{key}", message, "db"),)
    assert list(parsed.apps) == ["web"]
    assert parsed.origins == {"db": MAIN, "web": MAIN}
    assert parsed.server is not None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('start.ready = "health"', NEEDED),
        ('type = "oneshot"', "must not have watchdog: a oneshot has ended when it is up"),
    ],
)
def test_a_watchdog_is_no_check_and_not_for_every_type(line: str, message: str) -> None:
    parsed = parse_main(f'{APP}health.watchdog = "1s"\n{line}\n')
    assert [problem.message for problem in parsed.problems] == [message]


@pytest.mark.parametrize(
    ("command", "key", "message"),
    [
        ('"/bin/db --fast"', "command", WORDS),
        ("[]", "command", "must not be empty"),
        ('["db"]', "command", "must begin with the absolute path of a program"),
        ("1", "command", "must be an array"),
        ('["/bin/db", 1]', "command[1]", "must be a string"),
        ('["/bin/db", "\\u0000"]', "command[1]", "must not contain a NUL character"),
    ],
)
def test_each_wrong_command(command: str, key: str, message: str) -> None:
    assert problems(f"[apps.db]\ncommand = {command}") == [f":2: apps.db.{key}: {message}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[servr]", [":1: servr: unknown key: did you mean 'server'?"]),
        ("x = 1", [":1: x: unknown key"]),
        ("server = 1", [":1: server: must be a table"]),
        ("[server]\nlisen = 1", [":2: server.lisen: unknown key: did you mean 'listen'?"]),
        (
            '[server]\non_shutdown = "kep"',
            [':2: server.on_shutdown: must be "stop" or "keep"'],
        ),
        ("[server]\nlog_format = 1", [':2: server.log_format: must be "text" or "json"']),
        ('[server]\ninclude = "*"', [":2: server.include: must be an array"]),
        ('[server]\nlisten = ["0.0.0.0:1"]', [":2: server.listen: needs a [tls] table"]),
        ("[tls]\nkey = 1", None),
        ("[[tls]]", [":1: tls: must be a table"]),
    ],
)
def test_each_wrong_part_of_the_program_leaves_it_undefined(
    text: str, expected: list[str] | None
) -> None:
    if expected is None:
        expected = [
            ":1: tls.certificate: is required",
            ":1: tls.ca: is required",
            ":2: tls.key: must be a string",
        ]
    assert problems(text) == expected
    parsed = parse_main(f"{text}\n{APP}")
    assert (parsed.server, parsed.tls) == (None, None)
    assert list(parsed.apps) == ["db"]


@pytest.mark.parametrize(
    "address",
    ["5315", ":5315", "host", "host:", "host:65536", "::1:5315", "[::1]", "[x]:1", "a b:1", "h:٣"],
)
def test_each_wrong_address(address: str) -> None:
    assert problems(f'{TLS}[server]\nlisten = ["a:1", "{address}"]') == [
        ':6: server.listen[1]: must be "host:port", such as "0.0.0.0:5315" or "[::]:5315"'
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("managers = 1", ":1: managers: must be a table"),
        ("[managers.a]", ":1: managers.a.apps: is required"),
        (
            '[managers."a.b"]\napps = "*"',
            ':2: managers."a.b".apps: must be an array',
        ),
        (
            '[managers.a]\napps = ["*", "b"]',
            ':2: managers.a.apps: must be an array of application names, or ["*"] for all',
        ),
        ("[managers.a]\napps = []\nx = 1", ":3: managers.a.x: unknown key"),
        ("apps = 1", ":1: apps: must be a table"),
        ("[apps]\ndb = 1", ":2: apps.db: must be a table"),
        (
            '[apps."-a"]',
            ":1: apps.-a: must be a name of 1 to 64 letters, digits, "
            '".", "_" or "-", the first a letter or digit',
        ),
        (
            '[managers."a\\u001b"]',
            ':1: managers."a\\u001b": must be a name of 1 to 64 letters, digits, '
            '".", "_" or "-", the first a letter or digit',
        ),
    ],
)
def test_each_wrong_table_leaves_the_program_defined(text: str, expected: str) -> None:
    assert problems(text) == [expected]
    assert parse_main(text).server == Server()


def test_all_problems_of_a_stanza_are_told_in_the_order_of_their_lines() -> None:
    text = '[apps.db]\numask = 1\nx = 1\n[apps.db.stop]\nsignal = ""\ntimeout = ""\n'
    assert problems(text) == [
        ":1: apps.db.command: is required",
        f":2: apps.db.umask: {MASK}",
        ":3: apps.db.x: unknown key",
        ':5: apps.db.stop.signal: must be the name of a signal, such as "SIGTERM"',
        f":6: apps.db.stop.timeout: {DURATION}",
    ]


# Several files --------------------------------------------------------------------------


def test_includes_are_absolute_wherever_server_stands() -> None:
    text = APP + '[server]\ninclude = ["apps.d/*.toml", "/other/*.toml"]\n' + APP
    expected = ("/etc/cmappd/apps.d/*.toml", "/other/*.toml")
    assert includes(Source(MAIN, text)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "[server]", "server = 1", "[server]\ninclude = 1", "[server]\ninclude = [1]", "include"],
)
def test_wrong_includes_are_none(text: str) -> None:
    assert includes(Source(MAIN, text)) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server\n  state_directory = 'a/b' # here\n=", "/etc/cmappd/a/b"),
        ("[sever]\nstate_directory = 1\nstate_directory = '/c'\n", "/c"),
        ("[server]\nstate_directory = ['/c'\n", None),
        ("state_directory_ = '/c'\nlisten = []", None),
    ],
)
def test_the_state_directory_is_found_in_a_wrong_file(text: str, expected: str | None) -> None:
    assert state_directory(Source(MAIN, text)) == expected


def test_included_files_add_applications_and_managers() -> None:
    parsed = parse(
        MAIN,
        [
            Source(MAIN, APP),
            Source("/etc/cmappd/apps.d/web.toml", '[apps.web]\ncommand=["/w"]\ndirectory="d"'),
            Source("/etc/cmappd/apps.d/managers.toml", '[managers.host]\napps=["*"]'),
        ],
    )
    assert parsed.problems == ()
    assert parsed.apps["web"].directory == "/etc/cmappd/apps.d/d"
    assert parsed.origins == {"db": MAIN, "web": "/etc/cmappd/apps.d/web.toml"}
    assert parsed.managers == {"host": Manager(apps=("*",))}
    assert parsed.manager_origins == {"host": "/etc/cmappd/apps.d/managers.toml"}


def test_included_files_may_not_hold_the_program() -> None:
    parsed = parse(
        MAIN, [Source(MAIN, ""), Source("/a.toml", "[server]\n" + TLS + "[app.x]\n" + APP)]
    )
    message = "belongs in the main file: an included one has apps and managers only"
    assert parsed.problems == (
        Problem("/a.toml", 1, "server", message),
        Problem("/a.toml", 2, "tls", message),
        Problem("/a.toml", 6, "app", "unknown key: did you mean 'apps'?"),
    )
    assert parsed.server == Server()
    assert list(parsed.apps) == ["db"]


def test_an_application_in_several_files_is_defined_by_none() -> None:
    parsed = parse(
        MAIN,
        [Source(MAIN, "\n" + APP), Source("/a.toml", APP), Source("/b.toml", "[apps.db]\nx=1")],
    )
    message = f"is defined in {MAIN}:2 too: remove one of them"
    assert parsed.problems == (
        Problem("/a.toml", 1, "apps.db", message, "db"),
        Problem("/b.toml", 1, "apps.db", message, "db"),
    )
    assert parsed.apps == {}
    assert parsed.origins == {"db": MAIN}


def test_a_manager_in_several_files_is_defined_by_none() -> None:
    text = "[managers.host]\napps = []"
    parsed = parse(MAIN, [Source(MAIN, text), Source("/a.toml", text)])
    message = f"is defined in {MAIN}:1 too: remove one of them"
    assert parsed.problems == (Problem("/a.toml", 1, "managers.host", message),)
    assert parsed.managers == {}


def test_a_file_given_twice_counts_once() -> None:
    assert parse(MAIN, [Source(MAIN, APP), Source(MAIN, APP)]).problems == ()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a = 1\nb = = 2\n", 2, "Invalid value"),
        ("a = 1\n\nb = [1\n", 3, "Unclosed array"),
        ("[apps.a]\nx = 1\nx = 2\n", 3, "Cannot overwrite a value"),
        ("[apps.a]\n[apps.b]\n[apps.a]\n", 3, "Cannot declare ('apps', 'a') twice"),
        ("apps = {}\n[apps.a]\n", 2, "Cannot declare ('apps', 'a') twice"),
        ("[apps]\n[apps.a]\n[apps]\n", 3, "Cannot declare ('apps',) twice"),
    ],
)
def test_a_file_that_is_not_toml(text: str, line: int, message: str) -> None:
    parsed = parse(MAIN, [Source(MAIN, APP), Source("/a.toml", text)])
    (problem,) = parsed.problems
    assert problem[:3] == ("/a.toml", line, "")
    assert problem.message.startswith(f"cannot read this as TOML: {message}")
    assert "(at " not in problem.message
    assert parsed.unreadable == {"/a.toml"}
    assert list(parsed.apps) == ["db"]


def test_a_file_nested_too_deep() -> None:
    parsed = parse_main("a = " + "[" * 100_000)
    assert parsed.unreadable == {MAIN}
    assert parsed.server is None
    (problem,) = parsed.problems
    assert problem.key == ""
    assert problem.message.startswith("cannot read this as TOML: ")


def test_a_number_with_too_many_digits_is_not_read() -> None:
    assert parse_main("a = " + "9" * 10_000).unreadable == {MAIN}


def test_failures_are_unreadable_files() -> None:
    failure = Problem(MAIN, None, "", "cannot read this: permission denied")
    parsed = parse(MAIN, [], [failure])
    assert str(failure) == f"{MAIN}: cannot read this: permission denied"
    assert parsed.problems == (failure,)
    assert parsed.unreadable == {MAIN}
    assert parsed.server is None


# Stanzas --------------------------------------------------------------------------------


def test_a_header_in_a_string_is_no_header() -> None:
    text = '[apps.db]\ndescription = ""\ncommand = ["/db", """\n[apps.web]\n"""]\n'
    assert parse_main(text).apps == {"db": Application(command=("/db", "[apps.web]\n"))}


def test_tables_of_one_application_may_be_apart() -> None:
    text = APP + '[apps.web]\ncommand=["/w"]\n[apps.db.stop]\ntimeout="9s"\nx=1\n'
    assert problems(text) == [":7: apps.db.stop.x: unknown key"]
    assert list(parse_main(text).apps) == ["web"]


def test_what_did_not_change_is_taken_from_before() -> None:
    web = '[apps.web]\ncommand = ["/web"]\n'
    before = parse_main(APP + web)

    after = parse(
        MAIN, [Source(MAIN, "[server]\n" + APP + web.replace("/web", "/new"))], (), before
    )

    assert after.apps["db"] is before.apps["db"]
    assert after.apps["web"].command == ("/new",)
    assert before.apps["web"].command == ("/web",)


def test_what_was_known_of_a_broken_file_is_known_when_it_is_mended() -> None:
    before = parse_main(APP)
    broken = parse(MAIN, [Source(MAIN, APP + "[apps.web\n")], (), before)
    broken = parse(MAIN, [Source(MAIN, "=\n" + APP)], (), before)
    assert broken.apps == {}

    assert parse(MAIN, [Source(MAIN, APP)], (), broken).apps["db"] is before.apps["db"]


def test_the_same_text_in_another_directory_is_another_definition() -> None:
    text = APP + 'directory = "x"'
    before = parse("/a/main.toml", [Source("/a/main.toml", text)])
    after = parse("/b/main.toml", [Source("/b/main.toml", text)], (), before)
    assert after.apps["db"].directory == "/b/x"


def test_duplicates_are_found_among_what_was_known() -> None:
    before = parse(MAIN, [Source(MAIN, ""), Source("/a.toml", APP)])
    both = parse(
        MAIN, [Source(MAIN, ""), Source("/a.toml", APP), Source("/b.toml", APP)], (), before
    )
    assert [problem.app for problem in both.problems] == ["db"]
    assert both.apps == {}
    assert parse(MAIN, [Source(MAIN, ""), Source("/b.toml", APP)], (), both).apps == before.apps


# Whatever comes -------------------------------------------------------------------------

LINES = [
    "[server]", "[tls]", "[apps]", "[apps.a]", "[apps.a.stop]", '[apps."b c"]', "[[apps.a.log]]",
    "[managers.m]", "[[managers]]", 'apps = ["*"]', "apps.x.command = ['/a']", "a = {b = [1]}",
    'command = ["/a"]', "command = '/a'", 'timeout = "1s"', "timeout = 3", "listen = [1, ':']",
    'include = ["*"]', "health = { command = ['/x'], failures = -1 }", "environment = {'=' = 1}",
    "environment.A = inf", "umask = 1979-05-27", '"""', "'''", "[x", "start = { ready = 'health' }",
    "type = 'oneshot'", "pid_file = '/p'", "limits = {core = [1, 0], nofile = 'unlimited'}",
    "health = { http = 'http://[', http_status = [99] }", "health.tcp = ':1'", "nice = 99",
    "stop.signal = ['''", "[apps.a.stop.b.c.d]", "restart.success_codes = [[]]", "log = nan",
]  # fmt: skip


@given(st.lists(st.sampled_from(LINES) | st.text(max_size=9), max_size=14))
def test_parse_never_raises_and_says_what_is_wrong(lines: list[str]) -> None:
    text = "\n".join(lines)
    first = parse(MAIN, [Source(MAIN, text)])
    included = parse(MAIN, [Source(MAIN, ""), Source("/a.toml", text)], (), first)
    includes(Source(MAIN, text))

    assert parse(MAIN, [Source(MAIN, text)], (), first) == first
    for problem in (*first.problems, *included.problems):
        assert problem.message != "has a value that is not allowed"
        assert problem.line is None or 1 <= problem.line <= len(text.split("\n"))
    assert first.apps.keys() <= first.origins.keys()
    assert first.apps.keys().isdisjoint({problem.app for problem in first.problems})


@given(st.text(alphabet=st.characters(categories=None), max_size=30))
def test_parse_never_raises_for_any_text(text: str) -> None:
    for value in (text, f"[apps.a]\ncommand = ['{text}']", f'[apps.a]\n"{text}" = "{text}"'):
        parse(MAIN, [Source(MAIN, value)], (), parse(MAIN, [Source(MAIN, value)]))


STANZAS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["", ".stop", ".log"]),
        st.sampled_from(["", 'command = ["/x"]', 'timeout = "1s"', "command = ['''/", "''']"]),
    ),
    max_size=6,
)


HEADS = ["", "[server]\n", "[apps.a.log]\n", "apps.c.umask = '1'\n", "apps = {}\n", "[apps]\n"]


@given(STANZAS, st.sampled_from(HEADS), st.sampled_from(["", "[tls]\n", "[apps]\n"]))
def test_stanzas_mean_what_the_whole_means(
    stanzas: list[tuple[str, ...]], head: str, end: str
) -> None:
    text = head + "".join(f"[apps.{n}{table}]\n{line}\n" for n, table, line in stanzas) + end
    try:
        whole = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        with pytest.raises(tomllib.TOMLDecodeError):
            decode(Source(MAIN, text), {})
        return
    documents = [document for _, document in decode(Source(MAIN, text), {})]
    merged = {key: value for document in documents for key, value in document.items()}
    if "apps" in merged:
        merged["apps"] = {n: v for d in documents for n, v in d.get("apps", {}).items()}
    assert merged == whole


@given(st.text(alphabet=string.printable, min_size=1, max_size=66))
def test_names_are_what_the_wire_and_file_names_can_carry(name: str) -> None:
    quoted = (
        name.replace("\\", "\\\\")
        .replace('"', '\\"')
        .translate({code: f"\\u{code:04x}" for code in range(32)})
    )
    parsed = parse_main(f'[apps."{quoted}"]\ncommand = ["/a"]')
    plain = set(name) <= set(string.ascii_letters + string.digits + "._-")
    fits = plain and name[0].isalnum() and len(name) <= 64
    assert (name in parsed.apps) is fits
    assert (parsed.problems == ()) is fits
