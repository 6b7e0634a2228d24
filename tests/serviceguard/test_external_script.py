"""cmappd.sh, the external script, and cmappd-legacy.sh: what they start, stop, and answer."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.causes.people import STUBBORN
from tests.end_to_end.programs import wait_for
from tests.serviceguard.runner import SHIPPED, Definition, Package, read
from tests.serviceguard.stage import Stage

pytestmark = pytest.mark.serviceguard


def in_a_guest_that_runs(stage: Stage, **parameters: str) -> Package:
    """The example without the script of the VM, which is there already."""
    given = {"APPS": "db", **parameters}
    definition = stage.external(**given)
    stage.guest.start()
    return stage.package(definition._replace(scripts=definition.scripts[1:]))


def test_start_and_stop_may_be_repeated(stage: Stage) -> None:
    stage.guest.define("db", "/bin/sleep", "600")
    package = in_a_guest_that_runs(stage)
    assert package.run()
    pid = stage.guest.pid_of("db")
    assert package.run()
    assert stage.guest.pids("db") == [pid]
    assert package.halt() == 0
    assert package.run()
    assert package.halt() == 0


# Starts that fail ------------------------------------------------------------------------


def test_what_no_guest_has_is_tried_at_no_other_node(stage: Stage) -> None:
    package = in_a_guest_that_runs(stage)
    assert not package.run()
    assert package.been_at == ["vmhost1"]
    assert "exit 205, unknown-app" in package.said()


@pytest.mark.parametrize("parameter", ["START_TIMEOUT", "ANSWER_TIMEOUT"])
@pytest.mark.parametrize("value", ["5m", "0"])
def test_a_wrong_parameter_is_wrong_at_every_node(stage: Stage, parameter: str, value: str) -> None:
    package = in_a_guest_that_runs(stage, **{parameter: value})
    assert not package.run()
    assert package.been_at == ["vmhost1"]
    assert f"CMAPPD_{parameter} is '{value}', which is no number of seconds" in package.said()


def denied(stage: Stage) -> None:
    stage.guest.managers["vmhost1"] = {"apps": ["web"]}


def without_the_program(stage: Stage) -> None:
    stage.nodes[0].cmappmgr.unlink()


def without_a_configuration(stage: Stage) -> None:
    (stage.nodes[0].folder.parent / "cmappmgr.toml").unlink()


def with_a_strange_certificate(stage: Stage) -> None:
    path = stage.nodes[0].folder.parent / "cmappmgr.toml"
    path.write_text(path.read_text().replace("guest1", "another"))


@pytest.mark.parametrize(
    "trouble", [denied, without_the_program, without_a_configuration, with_a_strange_certificate]
)
def test_what_is_wrong_on_one_host_is_tried_at_the_next(stage: Stage, trouble: object) -> None:
    trouble(stage)  # type: ignore[operator]
    stage.guest.define("db", "/bin/sleep", "600")
    package = in_a_guest_that_runs(stage)
    assert package.run()
    assert package.been_at == ["vmhost1", "vmhost2"]
    assert package.halt() == 0


def test_an_application_that_does_not_start_is_tried_at_the_next_and_the_others_are_stopped(
    stage: Stage,
) -> None:
    stage.guest.define("db", "/bin/sleep", "600")
    stage.guest.shell("web", "echo no licence; exit 4", start={"ready": "10s"})
    package = in_a_guest_that_runs(stage, APPS="db web")
    assert not package.run()
    assert package.been_at == ["vmhost1", "vmhost2"]
    assert "ERROR: web was not started; stopping web db" in package.said()
    assert "last log: no licence" in package.said()
    assert not stage.guest.pids()


def test_a_guest_that_does_not_boot_in_time(stage: Stage) -> None:
    stage.nodes = tuple(
        stage.node(name, connect_timeout="300ms") for name in ("vmhost1", "vmhost2")
    )
    parameters = {"START_TIMEOUT": "3", "ANSWER_TIMEOUT": "1"}
    package = stage.package(stage.external(**parameters)._replace(scripts=(script(),)))
    assert not package.run()
    assert package.been_at == ["vmhost1", "vmhost2"]
    assert "db is tried again" in package.said()


@pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["alone", "with all of it"])
def test_a_start_that_is_killed_is_not_gone_on_with_and_leaves_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, kill: Callable[[int, int], None]
) -> None:
    """While it waits for a guest that boots."""
    temporary = stage.folder / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    stage.nodes = (stage.node("vmhost1", connect_timeout="500ms"),)
    package = stage.package(stage.external()._replace(scripts=(script(),)))
    with package.begin("start") as starting:
        wait_for(lambda: "db is tried again" in package.said(), "the second try")
        assert list(temporary.iterdir())
        kill(starting.pid, signal.SIGTERM)
    wait_for(lambda: not list(temporary.iterdir()), "the end of its folder")


def script() -> str:
    return str(SHIPPED / "cmappd.sh")


def test_the_lease_of_a_manager_that_is_gone_is_waited_for(stage: Stage) -> None:
    stage.guest.define("db", "/bin/sleep", "600", manager={"lease": "5s"})
    stage.guest.managers["vmhost3"] = {"apps": ["*"]}
    package = in_a_guest_that_runs(stage)
    config = stage.scene.host(stage.scene.authority.manager("vmhost3"))
    other = stage.scene.manager("db", config=config)
    other.wait_said("running")
    pid = stage.guest.pid_of("db")
    other.kill()
    assert package.run()
    assert "'db' is owned by vmhost3" in package.said()
    assert stage.guest.pids("db") == [pid]


def test_a_failure_of_before_does_not_fail_the_start(stage: Stage) -> None:
    """The manager that was to hear of it was killed first; so this one does, and goes on."""
    stage.guest.define("db", "/bin/sleep", "600")
    package = in_a_guest_that_runs(stage)
    config = stage.nodes[0].folder.parent / "cmappmgr.toml"
    manager = stage.scene.manager("db", config=str(config))
    manager.wait_said("running")
    manager.kill()
    os.kill(stage.guest.pid_of("db"), signal.SIGKILL)
    stage.guest.wait_status("db", phase="failed")
    assert package.run()
    assert package.been_at == ["vmhost1"]
    assert "137, app: ended by itself" in package.said()
    assert stage.guest.pid_of("db")


# Stops ------------------------------------------------------------------------------------


def test_an_application_that_would_not_stop_is_a_failure_and_the_others_are_stopped(
    stage: Stage,
) -> None:
    stage.guest.define("db", "/bin/sleep", "600")
    stage.guest.shell("web", STUBBORN, stop={"timeout": "60s"})
    parameters = {"APPS": "db web", "STOP_TIMEOUT": "2"}
    package = in_a_guest_that_runs(stage, **parameters)
    assert package.run()
    assert package.halt() == 1
    assert "ERROR: web would not stop" in package.said()
    assert stage.guest.status("db")["phase"] == "stopped"


@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGKILL])
def test_a_guest_that_does_not_answer_has_its_vm_stopped(
    stage: Stage, signum: signal.Signals
) -> None:
    """After the answer timeout, however long a guest that boots is waited for."""
    stage.nodes = (stage.node("vmhost1", connect_timeout="10m"),)
    stage.guest.define("db", "/bin/sleep", "600")
    package = in_a_guest_that_runs(stage)
    assert package.run()
    assert stage.guest.server is not None
    stage.guest.server.signal(signum)
    assert package.halt() == 0
    assert (
        "db was not asked to stop, or did not answer: the stop of its VM ends it" in package.said()
    )


def test_what_another_manager_has_taken_over_is_left_alone(stage: Stage) -> None:
    stage.guest.define("db", "/bin/sleep", "600")
    package = in_a_guest_that_runs(stage)
    assert package.run()
    other = stage.scene.manager(
        "db", config=stage.scene.host(stage.scene.authority.manager("vmhost2"))
    )
    other.wait_said("running")
    assert package.halt() == 0
    assert "db is another manager's by now, and is left alone" in package.said()
    assert stage.guest.pids("db")
    assert other.stop() == 0


# Validation -------------------------------------------------------------------------------


def service(command: str) -> Definition:
    text = f"package_name vm1\nexternal_script {script()}\n"
    service = f'service_name db\nservice_cmd "{command}"\n'
    return read(f"{text}{service}service_restart 1\nservice_halt_timeout 360\n")


def test_the_examples_are_valid_and_nothing_is_changed(stage: Stage) -> None:
    for name in ("db", "web"):
        stage.guest.define(name, "/bin/sleep", "600")
    stage.guest.start()
    for definition in (stage.services(), stage.external()):
        code, said = stage.package(definition).validate(stage.nodes[0])
        assert (code, said.count("defined in ")) == (0, 2)
    assert not stage.guest.pids()


def test_the_attributes_are_added_to_a_package(stage: Stage) -> None:
    """As they are, but for the applications and where they are; what is empty is the default."""
    attributes = (SHIPPED / "cmappd.conf").read_text()
    made = "package_name vm1\nexternal_script /etc/cmcluster/vm1/vm.sh\n"
    definition = read(made + attributes)
    assert len(definition.scripts) == 2
    code, said = stage.package(definition).validate(stage.nodes[0])
    assert (code, said.count("neither PEV_CMAPPD_APPS nor")) == (1, 1)
    here = {"APPS": "db web", "GUEST": "vm1", "PROGRAM": "/usr/local/bin/cmappmgr"}
    given = {f"PEV_CMAPPD_{name}": value for name, value in here.items()}
    package = stage.package(read(made + attributes, **given))
    for name in ("db", "web"):
        stage.guest.define(name, "/bin/sleep", "600")
    stage.guest.start()
    assert package.validate(stage.nodes[0])[0] == 0
    assert package.run()
    assert stage.guest.pids("web")
    assert package.halt() == 0
    assert not stage.guest.pids()


@pytest.mark.parametrize("way", ["services", "external"])
def test_a_guest_that_is_down_is_no_mistake(stage: Stage, way: str) -> None:
    definition = getattr(stage, way)()
    code, said = stage.package(definition).validate(stage.nodes[0])
    assert (code, said.count("the guest does not answer, so nothing is known")) == (0, 2)


MISTAKES = {
    "no absolute path": ("cmappmgr --app db", "needs its whole path"),
    "an unknown application": ("/usr/local/bin/cmappmgr --app mail", "exit 205"),
    "a wrong option": ("/usr/local/bin/cmappmgr --application db", "exit 200"),
    "a variable": ("/usr/local/bin/cmappmgr --app $SG_PACKAGE_NAME", "expected one argument"),
    "a verb": ("/usr/local/bin/cmappmgr --app db --start", "not allowed with"),
    "no such program": ("/nowhere/cmappmgr --app db", "exit 127"),
    "no cmappmgr": ("/usr/bin/sleep 600", "neither PEV_CMAPPD_APPS nor"),
    "two commands": ("/usr/local/bin/cmappmgr --app db; /usr/bin/touch made", "one simple command"),
    "one beside": ("/usr/local/bin/cmappmgr --app db & /usr/bin/touch made", "one simple command"),
    "one within": ("/usr/local/bin/cmappmgr --app $(touch made; echo db)", "one simple command"),
    "one in another way": ("/usr/local/bin/cmappmgr --app `touch made`", "one simple command"),
    "one outside of the words": (
        "/usr/local/bin/cmappmgr --app db); touch made; echo (x",
        "one simple command",
    ),
}
# What a shell makes cmappmgr --app db of, whatever else is there for the manager that will run.
FORMS = (
    "/usr/local/bin/cmappmgr --app db --takeover",
    "/usr/local/bin/cmappmgr --takeover --app db --report made --guest vm1",
    "/usr/local/bin/cmappmgr --report=made --app db",
    "/usr/local/bin/cmappmgr --app db # its listener is another service; see (1)",
    "/usr/local/bin/cmappmgr --app db >made 2>&1",
    "/usr/local/bin/cmappmgr --app db >>made 2>>made # both",
    "/usr/local/bin/cmappmgr --app 'db'",
    "'/usr/local/bin/cmappmgr' --app db",
    "exec /usr/local/bin/cmappmgr --app db",
    "LANG=C exec /usr/local/bin/cmappmgr --app db",
    "/usr/bin/env X=1 LANG=C /usr/local/bin/cmappmgr --app db",
)


def test_mistakes_in_a_service(stage: Stage) -> None:
    """Nothing of them is run, either."""
    stage.guest.define("db", "/bin/sleep", "600")
    stage.guest.start()
    for mistake, (command, wanted) in MISTAKES.items():
        made = command.replace("made", f"{stage.folder}/made")
        code, said = stage.package(service(made)).validate(stage.nodes[0])
        assert (code, wanted in said, "ERROR: " in said) == (1, True, True), f"{mistake}: {said}"
    assert not (stage.folder / "made").exists()


def test_a_service_may_be_written_in_other_ways(stage: Stage) -> None:
    """It is the manager of none of them that is run, and no file of it is written."""
    stage.guest.define("db", "/bin/sleep", "600")
    stage.guest.start()
    for command in FORMS:
        made = command.replace("made", f"{stage.folder}/made")
        code, said = stage.package(service(made)).validate(stage.nodes[0])
        assert (code, said.count("defined in ")) == (0, 1), f"{command}: {said}"
    assert not (stage.folder / "made").exists()
    assert not stage.guest.pids()


def test_mistakes_in_parameters(stage: Stage) -> None:
    """All of them are said, and none of it waits for another."""
    stage.guest.define("db", "/bin/sleep", "600")
    stage.guest.start()
    apps = {"APPS": "mail db news"}
    code, said = stage.package(stage.external(**apps)).validate(stage.nodes[0])
    assert (code, said.count("cannot be run from this node")) == (1, 2)


# Where Serviceguard is --------------------------------------------------------------------


def run_bare(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, env={}, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.skipif(
    Path("/etc/cmcluster.conf").exists(), reason="needs a host without Serviceguard"
)
def test_without_serviceguard_it_says_what_is_missing() -> None:
    done = run_bare(script(), "start")
    assert (done.returncode, "/etc/cmcluster.conf" in done.stderr) == (2, True)


@pytest.mark.root
def test_serviceguard_is_found_by_its_own_file(stage: Stage) -> None:
    """Where nothing at all is in the environment, as in cmcheckconf."""
    package = stage.package(stage.external(APPS="db"))
    etc, scripts = stage.folder / "etc", stage.folder / "scripts/mscripts"
    etc.mkdir()
    scripts.mkdir(parents=True)
    (etc / "cmcluster.conf").write_text(f"SGCONF={stage.folder}\n")
    for name in ("utils.sh", "package.env"):
        (scripts / name).write_text((package.nodes[0].folder / name).read_text())
    (scripts / "utils.sh").write_text(
        (scripts / "utils.sh").read_text().replace("$SG_PACKAGE_NAME", "vm1")
    )
    overlay = f"mount -t overlay overlay -o lowerdir={etc}:/etc /etc"
    inner = f"{overlay} && exec env -i {script()} validate"
    done = run_bare("/usr/bin/unshare", "--mount", "/bin/sh", "-c", inner)
    assert (done.returncode, "nothing is known of it there" in done.stdout) == (0, True), done


# Legacy packages --------------------------------------------------------------------------


def test_a_legacy_package_that_would_not_stop_says_so_and_its_vm_is_stopped(stage: Stage) -> None:
    stage.guest.shell("db", STUBBORN, stop={"timeout": "3s"})
    stage.guest.define("web", "/bin/sleep", "600")
    stage.guest.write()
    package = stage.package(stage.legacy(STOP_TIMEOUT="1"))
    assert package.run()
    assert package.halt() == 1
    assert "ERROR: db would not stop" in package.said()
    assert not stage.guest.pids()


def test_a_legacy_package_that_cannot_start_fails(stage: Stage) -> None:
    stage.guest.write()
    package = stage.package(stage.legacy(START_TIMEOUT="soon"))
    assert not package.run()
    assert "CMAPPD_START_TIMEOUT is 'soon'" in package.said()
    assert "ERROR: customer defined function, 51" in package.said()


def test_what_is_logged_is_what_was_said() -> None:
    """Also where echo would make something else of it."""
    said = r"cannot read C:\new\table"
    script = '. "$0" && cmappd_log "$1"'
    words = ["bash", "-O", "xpg_echo", "-c", script, str(SHIPPED / "cmappd-legacy.sh"), said]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.endswith(f"cmappd: {said}\n")
