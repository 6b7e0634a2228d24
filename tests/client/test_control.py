"""cmappctl as a process, with a real peer on a unix socket."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cmappd.core.messages import (
    AppStatus,
    Done,
    Hello,
    Logs,
    Message,
    Refused,
    Reload,
    Restart,
    Start,
    State,
    Status,
    Stop,
    Text,
)
from cmappd.core.state import Cause, ExitStatus, Goal, Health, Outcome, Phase
from tests.client.peer import (
    PROGRAM,
    RUNNING,
    Conversation,
    Script,
    finish,
    run,
    start,
    unix_peer,
)

FAILED = AppStatus(
    "web",
    Goal.DOWN,
    Phase.FAILED,
    health=Health.UNHEALTHY,
    restarts=3,
    restart_limit=3,
    last=Outcome("r2", Cause.EXIT, ExitStatus(signal=9), success=False),
)


def answers(expected: type[Message], *replies: Message) -> Script:
    """One request of this type, answered by these, as if they were for it."""

    def script(peer: Conversation) -> None:
        peer.greet()
        request = peer.hear()
        assert isinstance(request, expected)
        assert request.seq == 2
        peer.say(*replies)

    return script


def control(tmp_path: Path, script: Script, *words: str) -> tuple[int, str, str]:
    path = tmp_path / "s"
    with unix_peer(path, script):
        return run("control", "--socket", path, *words)


def state(status: AppStatus) -> State:
    return State(2, status, "b", "e")


def test_status_is_an_aligned_table(tmp_path: Path) -> None:
    script = answers(Status, state(RUNNING), state(FAILED), Done(2, "x.toml:3: bad"))
    code, output, errors = control(tmp_path, script, "status")
    assert (code, errors) == (0, "")
    assert output == (
        "guest1: cmappserver 0.1, 2 applications\n"
        "problem: x.toml:3: bad\n"
        "NAME    STATE    HEALTH     PID  SINCE  OWNER  RESTARTS  NOTE\n"
        "oracle  running  -          7    -      -      -\n"
        "web     failed   unhealthy  -    -      -      3/3       "
        "ended by itself, SIGKILL (signal 9)\n"
    )


def test_status_as_json(tmp_path: Path) -> None:
    script = answers(Status, state(FAILED), Done(2))
    code, output, _ = control(tmp_path, script, "status", "--json", "web")
    told = json.loads(output)
    assert code == 0
    assert told["guest"] == "guest1"
    assert told["apps"][0]["last"]["status"]["signal"] == 9
    assert told["apps"][0]["removed"] is False


def test_status_of_what_is_not_there(tmp_path: Path) -> None:
    script = answers(Status, Refused(2, "unknown-app", "there is no 'x'"))
    assert control(tmp_path, script, "status", "x") == (1, "", "cmappctl: there is no 'x'\n")


@pytest.mark.parametrize(("verb", "kind"), [("start", Start), ("stop", Stop), ("restart", Restart)])
def test_changes_are_waited_for_one_by_one(
    tmp_path: Path, verb: str, kind: Callable[[int, str], Message]
) -> None:
    def script(peer: Conversation) -> None:
        peer.greet()
        first = peer.hear()
        assert first == kind(2, "a")
        peer.say(Refused(2, "busy", "a is broken"))
        second = peer.hear()
        assert second == kind(3, "b")
        peer.say(Done(3, "b is so"))

    assert control(tmp_path, script, verb, "a", "b") == (
        1,
        "b is so\n",
        f"cmappctl: cannot {verb} a: a is broken\n",
    )


@pytest.mark.parametrize(
    ("cause", "said"),
    [(Cause.NOT_READY, "cmappctl: last health output: no \\x1b route\n"), (Cause.EXIT, "")],
)
def test_a_start_that_fails_says_where_to_look(tmp_path: Path, cause: Cause, said: str) -> None:
    last = Outcome("r2", cause, ExitStatus(code=1), success=False)
    status = msgspec.structs.replace(FAILED, last=last, health_output="no \x1b route\n")

    def script(peer: Conversation) -> None:
        peer.greet()
        assert isinstance(peer.hear(), Start)
        peer.say(Refused(2, "not-ready", "web did not"))
        assert peer.hear() == Status(3, ("web",))
        peer.say(State(3, status, "b", "e"), Done(3))

    code, output, errors = control(tmp_path, script, "start", "web")
    assert (code, output) == (1, "")
    assert errors == (
        f"cmappctl: cannot start web: web did not\n{said}cmappctl: see cmappctl logs web\n"
    )


def test_what_was_not_tried_has_no_log_to_see(tmp_path: Path) -> None:
    script = answers(Start, Refused(2, "unknown-app", "there is no 'x'"))
    code, _, errors = control(tmp_path, script, "start", "x")
    assert (code, errors) == (1, "cmappctl: cannot start x: there is no 'x'\n")


def test_a_maintenance_whose_server_goes_away(tmp_path: Path) -> None:
    def script(peer: Conversation) -> None:
        peer.greet()
        peer.hear()

    code, _, errors = control(tmp_path, script, "maintenance", "a", "on")
    assert code == 1
    assert (
        "cannot tell how the request to change the maintenance of a ended: the peer closed"
        in errors
    )


def test_a_change_that_takes_longer_than_its_timeout(tmp_path: Path) -> None:
    def script(peer: Conversation) -> None:
        peer.greet()
        peer.hear()
        peer.hear()

    code, _, errors = control(tmp_path, script, "stop", "--timeout", "200ms", "a")
    assert code == 1
    assert "no answer in time" in errors


def test_reload(tmp_path: Path) -> None:
    assert control(tmp_path, answers(Reload, Done(2, "1 changed")), "reload") == (
        0, "1 changed\n", "",
    )  # fmt: skip


def test_reload_of_a_broken_configuration(tmp_path: Path) -> None:
    script = answers(Reload, Refused(2, "usage", "x.toml:1: bad\nx.toml:2: worse"))
    assert control(tmp_path, script, "reload") == (
        1, "", "cmappctl: x.toml:1: bad\ncmappctl: x.toml:2: worse\n",
    )  # fmt: skip


def test_logs_command_no_terminal(tmp_path: Path) -> None:
    text = "a\tb\x1b]0;title\x07\x9b2J\x08forged\nc\n"
    script = answers(Logs, Text(2, text), Done(2))
    assert control(tmp_path, script, "logs", "a") == (0, text, "")
    (tmp_path / "s").unlink()
    terminal, end = os.openpty()
    with unix_peer(tmp_path / "s", script):
        process = start("control", "--socket", tmp_path / "s", "logs", "a", stdout=end)
        code, _, errors = finish(process)
    os.close(end)
    output = os.read(terminal, 4096).replace(b"\r\n", b"\n")
    os.close(terminal)
    assert (code, errors) == (0, "")
    assert output == b"a\tb\\x1b]0;title\\x07\\x9b2J\\x08forged\nc\n"


def test_logs(tmp_path: Path) -> None:
    def script(peer: Conversation) -> None:
        peer.greet()
        assert peer.hear() == Logs(2, "a", 3)
        peer.say(Text(2, "one\nt"), Text(2, "wo\n"), Done(2))

    assert control(tmp_path, script, "logs", "a", "-n", "3") == (0, "one\ntwo\n", "")


def test_nobody_at_the_socket(tmp_path: Path) -> None:
    code, _, errors = run("control", "--socket", tmp_path / "none", "status")
    assert code == 4
    assert f"cannot reach cmappserver at {tmp_path}/none: it is not running, or" in errors


def test_the_usual_socket_of_a_user(tmp_path: Path) -> None:
    from cmappd.system.paths import default_paths

    expected = default_paths(False, {"XDG_RUNTIME_DIR": str(tmp_path)}).control
    program = "import os; os.geteuid = lambda: 1; " + PROGRAM.format("control")
    done = subprocess.run(
        [sys.executable, "-c", program, "status"],
        env={"XDG_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    assert expected in done.stderr


def test_version_without_a_server(tmp_path: Path) -> None:
    assert run("control", "--socket", tmp_path / "none", "version") == (0, "cmappctl 0.1.0\n", "")


def test_nobody_listens_at_the_socket_of_one_that_was_killed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unheard:
        unheard.bind(str(tmp_path / "s"))
    code, _, errors = run("control", "--socket", tmp_path / "s", "status")
    assert code == 4
    assert errors == f"cmappctl: cannot reach cmappserver at {tmp_path}/s: it is not running\n"


def test_who_may_not_ask_is_told_so(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    mortal = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []
    command = [*mortal, sys.executable, "-c", PROGRAM.format("control"), "--socket", path, "status"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0)
        listener.listen()
        done = subprocess.run(command, capture_output=True, text=True, timeout=15)
    assert done.returncode == 4
    assert "you may not ask it: root may, and the user that it runs as\n" in done.stderr


def test_one_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        code, _, errors = run("control", "--socket", tmp_path / "s", "status")
    assert code == 4
    assert f"no answer in time (pid {os.getpid()} listens there)\n" in errors


def test_version_with_one(tmp_path: Path) -> None:
    def script(peer: Conversation) -> None:
        peer.greet()

    output = control(tmp_path, script, "version")[1]
    assert output == "cmappctl 0.1.0\ncmappserver 0.1\n"


@pytest.mark.parametrize(
    "words", [(), ("frobnicate",), ("start",), ("logs", "a", "-n", "0"), ("status", "--json", "-v")]
)
def test_wrong_arguments(words: tuple[str, ...]) -> None:
    assert run("control", *words)[0] == 2


def test_wrong_words_of_maintenance_are_told_its_own_usage() -> None:
    for words, said in (
        (("on",), "which applications?"),
        (("a", "off", "--for", "1h"), "--for and --reason go with on"),
        (("a", "on", "--for", "8d"), "--for may be at most 7d"),
    ):
        code, _, errors = run("control", "maintenance", *words)
        assert code == 2
        assert errors.startswith("usage: cmappctl maintenance [APP ... [on")
        assert f"cmappctl maintenance: error: {said}" in errors


def test_a_closed_pipe_ends_it_quietly(tmp_path: Path) -> None:
    states = [state(AppStatus(f"app{n}", Goal.DOWN, Phase.STOPPED)) for n in range(3000)]
    path = tmp_path / "s"
    command = [sys.executable, "-c", PROGRAM.format("control"), "--socket", str(path), "status"]
    with unix_peer(path, answers(Status, *states, Done(2))):
        shell = ["/bin/bash", "-o", "pipefail", "-c", '"$@" | head -1', "bash", *command]
        done = subprocess.run(shell, capture_output=True, text=True, timeout=15)
    assert done.returncode == 0
    assert done.stdout == "guest1: cmappserver 0.1, 3000 applications\n"
    assert done.stderr == ""


def test_hello_says_who_it_is(tmp_path: Path) -> None:
    hellos: list[object] = []

    def script(peer: Conversation) -> None:
        hellos.append(peer.hear())

    control(tmp_path, script, "version")
    (hello,) = hellos
    assert isinstance(hello, Hello)
    assert hello.software == "cmappctl/0.1.0"
    assert len(hello.instance) == 16


# Without the server ------------------------------------------------------------------------


def test_check(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    app = '[apps.a]\ncommand = ["/bin/true"]\n'
    good.write_text(app)
    bad.write_text(app + "colour = 3\n")
    code, output, errors = run("control", "check", good)
    assert (code, errors) == (0, "")
    assert output.startswith(f"{good}: ok, 1 application\ncgroups: ")
    assert "\nresources: " in output
    code, output, errors = run("control", "check", bad)
    assert code == 1
    assert output.startswith("cgroups: ")
    assert f"{bad}:3: apps.a.colour" in errors


MACHINE = {
    'command = ["/no"]': ("command", "cannot execute '/no': it is missing, or not executable"),
    'stop = { after = ["/no"] }': ("stop.after", "cannot execute '/no'"),
    'user = "no-such"': ("user", "cannot run as user 'no-such': there is no such user"),
    f'user = "{os.geteuid()}"\ngroup = "no-such"': ("group", "cannot run as group 'no-such'"),
    'environment_file = "/no"': ("environment_file", "cannot read /no"),
    'directory = "/no"': ("directory", "cannot enter '/no': there is no such directory"),
    'log.path = "/no/log"': ("log.path", "cannot open /no/log: No such file or directory"),
}


# Who is not root cannot have any, whatever they are.
GROUPS = 'user = "0"\nsupplementary_groups = ["no-such"]'
MACHINE[GROUPS] = "supplementary_groups", "cannot run as group 'no-such'"


@pytest.mark.parametrize(
    "text",
    [pytest.param(text, marks=pytest.mark.root if text == GROUPS else ()) for text in MACHINE],
)
def test_check_says_where_it_asks_for_what_the_machine_does_not_have(
    text: str, tmp_path: Path
) -> None:
    key, said = MACHINE[text]
    command = "" if key == "command" else 'command = ["/bin/true"]\n'
    main, included = tmp_path / "main.toml", tmp_path / "apps.toml"
    main.write_text('[server]\ninclude = ["apps.toml"]\n[apps.a]\ncommand = ["/bin/true"]\n')
    included.write_text(f"# A comment\n[apps.b]\n{command}{text}\n")
    code, output, errors = run("control", "check", main)
    assert (code, "ok" in output) == (1, False)
    line = included.read_text().count("\n")
    assert errors.startswith(f"cmappctl: {included}:{line}: apps.b.{key}: {said}")
    assert errors.count("\n") == 1


def test_check_says_where_a_certificate_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "main.toml"
    path.write_text('\n[tls]\ncertificate = "/no.pem"\nkey = "/no.key"\nca = "/ca.pem"\n')
    code, _, errors = run("control", "check", path)
    assert code == 1
    assert errors.startswith(f"cmappctl: {path}:2: tls: cannot read /no.pem")


@pytest.mark.root
def test_check_says_that_a_log_could_be_led_elsewhere(tmp_path: Path) -> None:
    path, link = tmp_path / "app.toml", tmp_path / "link"
    path.write_text(f'[apps.a]\ncommand = ["/bin/true"]\nlog.path = "{link}/log"\n')
    link.symlink_to(tmp_path)
    assert run("control", "check", path)[0] == 0
    os.chown(link, 12345, 12345, follow_symlinks=False)
    code, _, errors = run("control", "check", path)
    assert code == 1
    said = f"{path}:3: apps.a.log.path: cannot open {link}/log: the symbolic link {link} belongs"
    assert said in errors


def test_check_says_what_managers_must_know(tmp_path: Path) -> None:
    path = tmp_path / "app.toml"
    path.write_text(
        '[apps.a]\ncommand = ["/bin/true"]\nstop = { timeout = "20s" }\n'
        'manager = { on_lost = "stop", lease = "20s" }\n'
    )
    code, output, errors = run("control", "check", path)
    assert (code, errors) == (0, "")
    assert "\napps.a: may run for 41s after its manager is cut off" in output
    assert 'lost_after = "42s"' in output
    path.write_text(path.read_text() + 'directory = "/no"\n')
    code, output, errors = run("control", "check", path)
    assert (code, "apps.a.directory" in errors) == (1, True)
    assert "\nresources: " in output
    assert 'lost_after = "42s"' in output


@pytest.mark.parametrize(
    ("on_lost", "autostart", "said"),
    [("stop", True, True), ("stop", False, False), ("keep", True, False)],
)
def test_check_says_what_a_guest_that_boots_must_not_start(
    tmp_path: Path, on_lost: str, autostart: bool, said: bool
) -> None:
    path = tmp_path / "app.toml"
    path.write_text(
        f'[apps.a]\ncommand = ["/bin/true"]\nautostart = {str(autostart).lower()}\n'
        f'manager.on_lost = "{on_lost}"\n'
    )
    code, output, _ = run("control", "check", path)
    assert code == 0
    assert ("\napps.a: autostart = true starts it when this guest boots" in output) == said


@pytest.mark.parametrize(("on_lost", "said"), [("keep", True), ("stop", False)])
def test_check_says_what_outlives_the_lease_of_who_requires_it(
    tmp_path: Path, on_lost: str, said: bool
) -> None:
    path = tmp_path / "app.toml"
    path.write_text(
        '[apps.web]\ncommand = ["/bin/true"]\nrequires = ["db"]\nmanager.on_lost = "stop"\n'
        f'[apps.db]\ncommand = ["/bin/true"]\nmanager.on_lost = "{on_lost}"\n'
    )
    code, output, errors = run("control", "check", path)
    assert (code, errors) == (0, "")
    assert ("apps.web: 'db', which it requires, runs on when its lease is over" in output) is said


def test_pki(tmp_path: Path) -> None:
    folder = str(tmp_path / "pki")
    for words in (
        ("init",),
        ("issue", "guest", "g1", "--address", "127.0.0.1", "--address", "localhost"),
        ("issue", "manager", "m1"),
        ("revoke", "m1"),
    ):
        code, _, errors = run("control", "pki", *words, "--dir", folder)
        assert code == 0, errors
    assert (tmp_path / "pki" / "crl.pem").exists()
    code, _, errors = run("control", "pki", "init", "--dir", folder)
    assert code == 1
    assert errors.startswith("cmappctl: cannot ")
