"""What the pages on Serviceguard say can be done: it is loaded and run."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from cmappd import reasons
from cmappd.client import settings
from cmappd.reasons import Reason
from tests.end_to_end.programs import PATIENCE, PROGRAMS, Program
from tests.ports import free_port
from tests.serviceguard.runner import EXAMPLES, SHIPPED, Definition, Node, Package, read
from tests.serviceguard.stage import Stage

pytestmark = pytest.mark.serviceguard

DOCS = Path(__file__).parents[2] / "docs"
SERVICEGUARD = (DOCS / "serviceguard.md").read_text()
MIGRATION = (DOCS / "migration.md").read_text()
FAILOVER = (DOCS / "failover-between-guests.md").read_text()
ADDRESS = "192.0.2.10"

# Programs of the page that the tests have not got.
APPLICATION = {'"/opt/db/bin/run", "PROD"': '"/bin/sleep", "600"', "/opt/db/bin/ping": "/bin/true"}


def files(page: str) -> dict[str, str]:
    """The configurations that a page shows, by the paths at their heads."""
    return dict(re.findall(r"^```toml\n# (/\S+)\n(.*?)^```", page, re.DOTALL | re.MULTILINE))


def commands(page: str) -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(r"^ {4}(cmapp.*)$", page, re.MULTILINE)]


def service(page: str) -> Definition:
    """A package with the service whose lines the page shows."""
    (lines,) = re.findall(r"(?:^ {4}service_.*\n)+", page, re.MULTILINE)
    return read("package_name vm1\n" + re.sub("^ +", "", lines, flags=re.MULTILINE))


def run(words: list[str], folder: Path) -> None:
    done = subprocess.run(
        [PROGRAMS / words[0], *words[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", [SERVICEGUARD, MIGRATION])
def test_the_service_of_a_page_is_that_of_the_example(stage: Stage, page: str) -> None:
    assert service(page).services == stage.services().services[1:]


@pytest.mark.parametrize("name", ["two-guests.conf", "two-guests-vm.conf"])
def test_the_packages_of_two_guests_are_those_of_the_examples(name: str) -> None:
    example = read((EXAMPLES / name).read_text())
    blocks = re.findall(r"^ {4}package_name .*\n(?: {4}.*\n)+", FAILOVER, re.MULTILINE)
    assert example in [read(re.sub("^ +", "", each, flags=re.MULTILINE)) for each in blocks]


def test_the_host_of_two_guests_keeps_what_the_page_says_of_its_intervals(tmp_path: Path) -> None:
    shown = files(FAILOVER)["/etc/cmappd/cmappmgr.toml"]
    (tmp_path / "pki").mkdir()
    for path in tomllib.loads(shown)["tls"].values():
        (tmp_path / path).touch()
    file = tmp_path / "cmappmgr.toml"
    file.write_text(shown)
    host = settings.load(str(file))
    assert host.guest(None).name == "vm1"
    assert host.intervals.connect_timeout >= host.intervals.lost_after
    halt_timeout = read((EXAMPLES / "two-guests.conf").read_text()).services[0].halt_timeout
    assert halt_timeout > host.intervals.stop_timeout + host.intervals.lost_after


def test_the_attributes_are_those_of_the_page_and_of_the_script() -> None:
    """With the same defaults."""
    attributes = (SHIPPED / "cmappd.conf").read_text()
    shown = dict(re.findall(r"^\| `(PEV_CMAPPD_\w+)` \| (.*?) \|", SERVICEGUARD, re.MULTILINE))
    told = re.findall(
        r"(?:D|no d)efault(?:: (.*?))?\.\n(PEV_\w+) +\"(.*)\"$", attributes, re.MULTILINE
    )
    assert [name for _, name, _ in told] == list(shown)
    assert {value for _, _, value in told if value} == {"300", "10"}
    for default, name, value in told:
        assert value in ("", default), name
        assert re.fullmatch(r"\d+|/\S+", default) is None or default == shown[name].strip("`"), name
    script = (SHIPPED / "cmappd.sh").read_text()
    assert set(re.findall(r"^CMAPPD_\w+=\$(\w+)$", script, re.MULTILINE)) == set(shown)


def test_the_service_lines_of_a_legacy_package_are_those_of_the_example(stage: Stage) -> None:
    (lines,) = re.findall(r"(?:^ {4}SERVICE_.*\n)+", SERVICEGUARD, re.MULTILINE)
    example = (DOCS.parent / "cluster/serviceguard/examples/legacy.cntl").read_text()
    assert re.sub("^ +", "", lines, flags=re.MULTILINE) in example


def test_the_commands_on_serviceguard_run_beside_its_service(stage: Stage) -> None:
    stage.guest.define("db", "/bin/sleep", "600")
    stage.guest.start()
    package = stage.package(service(SERVICEGUARD))
    assert package.run()
    stage.guest.wait_status("db", phase="running")
    given = commands(SERVICEGUARD)
    assert len(given) >= 7
    for program, *words in given:
        if program == "cmappmgr":
            done = subprocess.run(
                [package.nodes[0].cmappmgr, *words], timeout=PATIENCE, check=False
            )
        else:
            done = stage.guest.ctl(*words)  # type: ignore[assignment]
        assert done.returncode == 0, words
        if "--detach" not in words:
            package.tend()
            assert package.restarts == {"db": 0}, words
    package.until(lambda: package.restarts == {"db": 1}, "the end of the detached manager")


# The migration ----------------------------------------------------------------------------


class Reader:
    """Does what a page says, with its own folder for /etc/cmappd."""

    def __init__(self, folder: Path, page: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._page = page
        (folder / "apps.d").mkdir()

    def here(self, text: str) -> str:
        server = f'[server]\nlisten = ["127.0.0.1:{self.port}"]\nstate_directory = "state"\n'
        app = f'[apps.db]\nlog = {{ path = "{self.folder}/db.log" }}\n'
        places = {"[server]\n": server, "[apps.db]\n": app}
        places |= {f'"{ADDRESS}"': f'"127.0.0.1:{self.port}"'}
        places |= {ADDRESS: "127.0.0.1", "/etc/cmappd": str(self.folder), **APPLICATION}
        for shown, here in places.items():
            text = text.replace(shown, here)
        return text

    def write_files(self) -> None:
        for path, text in files(self._page).items():
            Path(self.here(path)).write_text(self.here(text))

    def follow(self, *, until: str) -> None:
        """Run the commands that begin with these words."""
        for words in commands(self._page):
            if " ".join(words).startswith(until):
                run([self.here(word) for word in words], self.folder)


def test_the_steps_of_the_migration_lead_to_a_package_that_runs(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    reader = Reader(tmp_path, MIGRATION)
    reader.follow(until="cmappctl pki")
    reader.write_files()
    server_config, manager_config = tmp_path / "cmappserver.toml", str(tmp_path / "cmappmgr.toml")
    assert ["cmappctl", "check"] in commands(MIGRATION)
    run(["cmappctl", "check", str(server_config)], tmp_path)
    words = ("--config", str(server_config))
    server = Program("cmappserver", *words, folder=tmp_path, log=tmp_path / "server.log")
    package = None
    try:
        server.wait_said(" is ready, ")
        node = Node(tmp_path, "vmhost1", manager_config, {})
        (check,) = (words for words in commands(MIGRATION) if "--check" in words)
        subprocess.run([node.cmappmgr, *check[1:]], timeout=PATIENCE, check=True)
        package = Package(tmp_path, service(MIGRATION), [node])
        assert package.run()
        package.until(lambda: "running, pid" in package.said(), "the application")
        assert package.halt() == 0
        assert "is halted, exit code 0" in package.said()
    finally:
        if package is not None:
            package.close()
        assert server.stop() == 0


# What becomes of each reason ---------------------------------------------------------------

STUB = """#!/bin/sh
# Ends as it is told; the state of an application it always knows.
case " $* " in *" --status "*) exit 0 ;; esac
while [ $# -gt 0 ]; do
    [ "$1" != --report ] || printf '{{\\n  "reason": "{reason}",\\n  "earlier": false\\n}}\\n' >"$2"
    shift
done
exit {code}
"""


def documented(action: str, code: int) -> int:
    """The exit code of the script, as the table of the page has it."""
    table = SERVICEGUARD.partition("| at start | exit |")[2]
    start, _, stop = table.partition("| **at stop** |")
    rows = re.findall(
        r"^\| (.*?) \| (\d)\b.*\|$", start if action == "start" else stop, re.MULTILINE
    )
    found = {int(exit_) for text, exit_ in rows if code in _codes(text)}
    if code == 0 or action == "stop":  # success has no code there, nor has what no stop ends with
        found = found or {0}
    (answer,) = found
    return answer


def _codes(text: str) -> set[int]:
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:\u2013(\d+))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


@pytest.mark.parametrize("reason", reasons.ALL, ids=lambda reason: reason.name)
def test_the_script_answers_as_the_page_says(stage: Stage, reason: Reason) -> None:
    code = 7 if reason.code is None else reason.code
    program = stage.folder / "stub"
    program.write_text(STUB.format(code=code, reason=reason.name))
    program.chmod(0o755)
    definition = stage.external(APPS="db", PROGRAM=str(program), START_TIMEOUT="1")
    package = stage.package(definition._replace(scripts=definition.scripts[1:]))
    started = package.run()
    tried = len(package.been_at)
    answer = 0 if started else 1 if tried == 1 else 2
    assert answer == documented("start", code)
    if reason is not reasons.APP:  # which --stop does not exit with
        package.node = package.nodes[0]
        assert package.halt() == documented("stop", code)
