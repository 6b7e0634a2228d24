"""A package runner, which does to packages what Serviceguard does, as its manuals say.

Serviceguard is not to be had here. Its rules, as far as applications depend on them:

- External scripts run in their order, with SG_PACKAGE, SG_NODE and SG_UTILS as their whole
  environment; then services are started. A halt goes the other way.
- A script that exits with 1 at start halts the package; with 2 it is tried at the next node.
- A service is run by /bin/sh with no environment at all. Whatever it exits with, it has failed:
  it is run again until its restarts are used up, and then the package goes to the next node.
- To halt a service, SIGTERM goes to its process and to the process group; after the halt timeout
  SIGKILL does. The service is over when its process is.
- What scripts and services write is the package log.

The guest and the programs are real. A node is a folder, with what would be at the same path on each
host: cmappmgr, and the scripts of the package.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from tests.end_to_end.programs import PATIENCE, PROGRAMS, wait_for

SHIPPED = Path(__file__).parents[2] / "cluster" / "serviceguard"
EXAMPLES = SHIPPED / "examples"
INSTALLED = "/usr/local/share/cmappd/serviceguard"
SH = "/bin/bash"  # as on the systems of Serviceguard; for a simple command it makes no child

# The tests look at what is left in the folder for temporary files.
UTILS = """
export TMPDIR={temporary}
sg_log() {{
    [ "$1" -gt 0 ] || echo "$(date '+%b %d %T') - ${{SG_PACKAGE:-$SG_PACKAGE_NAME}}: ${{*:2}}"
}}
sg_source_pkg_env() {{
    . "${{SG_UTILS%/*}}/package.env"
}}
"""


class Service(NamedTuple):
    """One service of a package; ``restarts`` is None for "unlimited"."""

    name: str
    command: str
    restarts: int | None
    halt_timeout: float


class Definition(NamedTuple):
    """What a package is. ``parameters`` are those of a modular one, as its scripts get them.

    ``nodes`` are the names of those that may run it; all of them where there is none.
    """

    name: str
    scripts: tuple[str, ...]
    services: tuple[Service, ...]
    parameters: dict[str, str]
    nodes: tuple[str, ...] = ()


class Node:
    """A host: where its things are, instead of at ``/usr/local/bin`` and the like."""

    def __init__(self, folder: Path, name: str, config: str, files: dict[str, str]) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.cmappmgr = self.folder / "cmappmgr"
        self.cmappmgr.write_text(f'#!/bin/sh\nexec {PROGRAMS}/cmappmgr --config {config} "$@"\n')
        self.cmappmgr.chmod(0o755)
        self._files = {
            "/usr/local/bin/cmappmgr": str(self.cmappmgr),
            INSTALLED: str(SHIPPED),
            **files,
        }

    def here(self, text: str) -> str:
        """A text in which paths are as they are on this node."""
        for path, replacement in self._files.items():
            text = text.replace(path, replacement)
        return text


def read(text: str, **parameters: str) -> Definition:
    """A modular package, from its configuration file and further parameters."""
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip() and line[0] != "#"]
    pairs = [(name, value.strip().strip('"')) for name, value in lines]
    blocks: list[dict[str, str]] = []
    for name, value in pairs:
        if name == "service_name":
            blocks.append({})
        if name.startswith("service_"):
            blocks[-1][name] = value
    services = tuple(_service(block) for block in blocks)
    given = {name: value for name, value in pairs if name.startswith("PEV_")}
    scripts = tuple(value for name, value in pairs if name == "external_script")
    nodes = tuple(value for name, value in pairs if name == "node_name")
    given |= parameters
    return Definition(dict(pairs)["package_name"], scripts, services, given, nodes)


def _service(block: dict[str, str]) -> Service:
    restart = block["service_restart"]
    return Service(
        block["service_name"],
        block["service_cmd"],
        None if restart == "unlimited" else 0 if restart == "none" else int(restart),
        float(block["service_halt_timeout"]),
    )


class Package:
    """A package that is up on a node, or down; ``tend`` is what the cluster does meanwhile."""

    def __init__(self, folder: Path, definition: Definition, nodes: Sequence[Node]) -> None:
        self.definition = definition
        named = definition.nodes or [node.name for node in nodes]
        self.nodes = [node for node in nodes if node.name in named]
        self.node: Node | None = None
        self.been_at: list[str] = []
        self.log = folder / "package.log"
        self.log.touch()
        self.restarts: dict[str, int] = {}
        self._running: dict[Service, subprocess.Popen[bytes]] = {}
        for node in self.nodes:
            self._equip(node)

    def said(self) -> str:
        """The package log."""
        return self.log.read_text()

    def pid_of(self, service: str) -> int:
        """The process of a service."""
        return next(one.pid for which, one in self._running.items() if which.name == service)

    def validate(self, node: Node) -> tuple[int, str]:
        """What cmcheckconf does, and shows: the worst exit code, and all that was said."""
        code, said = 0, ""
        for script in self.definition.scripts:
            environment = {"SG_PACKAGE_NAME": self.definition.name, **self._utils(node)}
            done = self._script(node, script, "validate", environment, subprocess.PIPE)
            code, said = max(code, done.returncode), said + done.stdout.decode()
        return code, said

    def begin(self, action: str) -> "subprocess.Popen[bytes]":
        """Begin an action of its last script on the first node, in a process group of its own."""
        node = self.nodes[0]
        environment = {"SG_PACKAGE": self.definition.name, "SG_NODE": node.name}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [node.here(self._scripts[-1]), action],
                env={**environment, **self._utils(node)},
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def run(self, node: str = "") -> bool:
        """Run it at that node, or at the first one that takes it; whether there was one."""
        return self._run_at([each for each in self.nodes if node in ("", each.name)])

    def halt(self) -> int:
        """Halt it; the worst exit code of its scripts."""
        node, self.node = self.node, None
        assert node is not None
        for service in reversed(list(self._running)):
            self._halt_service(service)
        return max((self._act(node, one, "stop") for one in reversed(self._scripts)), default=0)

    def lose_node(self) -> None:
        """Its node is gone with all that ran there: no script runs, and the next one takes it."""
        node, self.node = self.node, None
        assert node is not None
        self._say(f"{node.name} is lost")
        self.close()
        self._running.clear()
        self._run_after(node)

    def tend(self) -> None:
        """Look after the services: those that have ended have failed."""
        for service, process in list(self._running.items()):
            if process.poll() is None:
                continue
            self._say(f"service {service.name} has failed, exit code {process.returncode}")
            if service.restarts is None or self.restarts[service.name] < service.restarts:
                self.restarts[service.name] += 1
                self._start_service(service)
                continue
            del self._running[service]
            self._fail_over()
            return

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Tend to it until something is the case."""

        def tended() -> bool:
            self.tend()
            return bool(condition())

        wait_for(tended, what)

    def close(self) -> None:
        """Leave nothing behind, whatever the test has come to."""
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)

    # Nodes ---------------------------------------------------------------------------

    def _run_at(self, nodes: Sequence[Node]) -> bool:
        for node in nodes:
            code = self._start(node)
            if code == 0:
                return True
            self._say(f"cannot be run on {node.name}: its scripts exit with {code}")
            if code == 1:
                break
        return False

    def _start(self, node: Node) -> int:
        self.been_at.append(node.name)
        for number, script in enumerate(self._scripts):
            code = self._act(node, script, "start")
            if code:
                for each in reversed(self._scripts[:number]):
                    self._act(node, each, "stop")
                return code
        self.node = node
        self.restarts = {service.name: 0 for service in self.definition.services}
        for service in self.definition.services:
            self._start_service(service)
        return 0

    def _fail_over(self) -> None:
        node = self.node
        assert node is not None
        self._say(f"fails over from {node.name}")
        self.halt()
        self._run_after(node)

    def _run_after(self, node: Node) -> None:
        self._run_at(self.nodes[self.nodes.index(node) + 1 :])

    # Scripts -------------------------------------------------------------------------

    @property
    def _scripts(self) -> tuple[str, ...]:
        return self.definition.scripts

    def _equip(self, node: Node) -> None:
        definition = self.definition
        lines = [f"export {key}='{value}'" for key, value in definition.parameters.items()]
        for number, service in enumerate(definition.services):
            lines.append(f"SG_SERVICE_NAME[{number}]='{service.name}'")
            lines.append(f"SG_SERVICE_CMD[{number}]={shlex.quote(service.command)}")
        (node.folder / "package.env").write_text(node.here("\n".join(lines) + "\n"))
        utils = UTILS.format(temporary=_temporary())
        (node.folder / "utils.sh").write_text(utils)

    def _utils(self, node: Node) -> dict[str, str]:
        return {"SG_UTILS": str(node.folder / "utils.sh")}

    def _act(self, node: Node, script: str, action: str) -> int:
        environment = {"SG_PACKAGE": self.definition.name, "SG_NODE": node.name}
        with self.log.open("ab") as log:
            done = self._script(node, script, action, {**environment, **self._utils(node)}, log)
        return done.returncode

    def _script(
        self,
        node: Node,
        script: str,
        action: str,
        environment: dict[str, str],
        output: int | IO[bytes],
    ) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            [node.here(script), action],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )

    # Services ------------------------------------------------------------------------

    def _start_service(self, service: Service) -> None:
        assert self.node is not None
        command = self.node.here(service.command)
        with self.log.open("ab") as log:
            self._running[service] = subprocess.Popen(
                ["sh", "-c", command],
                executable=SH,
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def _halt_service(self, service: Service) -> None:
        process = self._running.pop(service)
        for signum, patience in (
            (signal.SIGTERM, service.halt_timeout),
            (signal.SIGKILL, PATIENCE),
        ):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signum)
                os.killpg(process.pid, signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(patience)
                self._say(f"service {service.name} is halted, exit code {code}")
                return

    def _say(self, text: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{time.strftime('%b %d %T')} - {self.definition.name}: {text}\n")


# Legacy packages -----------------------------------------------------------------------

# What of the template of control scripts is of consequence, around what a package fills in.
CONTROL = """#!/bin/bash
test_return() {{
    [ $? -ne 0 ] || return 0
    echo "ERROR: customer defined function, $1"
    exit_value=1
    [ "$1" = 52 ] || exit 1
}}
exit_value=0
export TMPDIR={temporary}
{filled_in}
case $1 in
    start) customer_defined_run_cmds ;;
    stop) customer_defined_halt_cmds ;;
    services)
        for each in "${{!SERVICE_NAME[@]}}"; do
            echo "${{SERVICE_NAME[each]}}|${{SERVICE_CMD[each]}}|${{SERVICE_RESTART[each]}}"
        done
        ;;
esac
exit $exit_value
"""


def read_legacy(configuration: str, filled_in: str, nodes: Sequence[Node]) -> Definition:
    """A legacy package: its configuration, and what is filled into its control script.

    ``SERVICE_RESTART`` is "-r N", "-R" for unlimited, or empty.
    """
    pairs = re.findall(r"^([A-Z_]+) +(\S+)$", configuration, re.MULTILINE)
    script = dict(pairs)["RUN_SCRIPT"]
    for node in nodes:
        path = Path(node.here(script))
        path.write_text(_control(node.here(filled_in)))
        path.chmod(0o755)
    halt_timeout = float(dict(pairs)["SERVICE_HALT_TIMEOUT"])
    services = []
    for line in _run_bash(_control(filled_in.replace(INSTALLED, str(SHIPPED)))):
        name, command, restart = line.split("|")
        restarts = None if restart == "-R" else int(restart.removeprefix("-r") or 0)
        services.append(Service(name, command, restarts, halt_timeout))
    return Definition(dict(pairs)["PACKAGE_NAME"], (script,), tuple(services), {})


def _control(filled_in: str) -> str:
    return CONTROL.format(filled_in=filled_in, temporary=_temporary())


def _temporary() -> str:
    return os.environ.get("TMPDIR", "/tmp")


def _run_bash(script: str) -> list[str]:
    words = ["/bin/bash", "-c", script, "control", "services"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
