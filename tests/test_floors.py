"""The floors of the house: what each module may import, and how large anything may become.

Imports run downward only: errors, reasons < core < system < server, client; and in server:
shared < application < the rest. They are read from the source; what really gets loaded is then
seen in a fresh interpreter.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
MAX_MODULE, MAX_FUNCTION = 350, 45  # lines

# What each floor may import from; the modules at the ground know only each other's names.
BELOW = {
    "ground": {"ground"},
    "core": {"ground", "core"},
    "system": {"ground", "core", "system"},
    "server.shared": {"ground", "core", "system", "server.shared"},
    "server.application": {"ground", "core", "system", "server.shared", "server.application"},
    "server": {"ground", "core", "system", "server.shared", "server.application", "server"},
    "client": {"ground", "core", "system", "client"},
}
# `cmappctl check` reads the guest's files as the server does. It imports that when asked to.
UPWARD = {("client.control", "server.check")}
# System modules do not know each other, but for these.
ACROSS = {
    # A tree is made of identified processes, and process.py is where identities come from.
    ("system.tree", "system.process"),
    ("system.tree", "system.proc"),
    ("system.tree", "system.attribution"),
    # Whose a process is, is read from it.
    ("system.attribution", "system.marks"),
    ("system.attribution", "system.proc"),
    ("system.marks", "system.proc"),
    ("system.daemons", "system.proc"),
    ("system.cgroup", "system.marks"),
    ("system.hierarchy", "system.marks"),
    ("system.pidwatch", "system.proc"),
    # The two halves of one subject, /proc: reading it, and acting on what it says.
    ("system.process", "system.proc"),
    # Two parts of a launch: what comes before the exec, and what the kernel says to it.
    ("system.process", "system.limits"),
    ("system.process", "system.executable"),
    # A revocation list is replaced as all files are that must be whole.
    ("system.pki", "system.files"),
    # What is refused there is told as with all files.
    ("system.trust", "system.files"),
    ("system.lock", "system.files"),
    # A health check is launched as an application is.
    ("system.probe", "system.process"),
    # A cgroup is filled with processes and their children, and emptied of them.
    ("system.cgroup", "system.process"),
    ("system.cgroup", "system.proc"),
    # A cgroup, and where it is made.
    ("system.cgroupfs", "system.cgroup"),
    ("system.hierarchy", "system.cgroup"),
    ("system.hierarchy", "system.cgroupfs"),
    ("system.hierarchy", "system.proc"),
    # Health checks have one kind of result; those by a network speak TLS as all others do.
    ("system.netprobe", "system.probe"),
    ("system.netprobe", "system.connect"),
    ("system.netprobe", "system.tls"),
    ("system.connect", "system.tls"),
    # A log may lie where others can write.
    ("system.log.file", "system.directory"),
}
# Core decides: what touches the world, or would make it depend on the hour or on luck, stays out.
IMPURE = {
    *("asyncio", "socket", "ssl", "subprocess", "os", "time", "random", "logging", "threading"),
    *("select", "selectors", "signal", "shutil", "tempfile", "glob", "fcntl", "secrets", "uuid"),
    *("multiprocessing", "concurrent", "psutil", "watchfiles", "sys"),
}
# They cost megabytes and milliseconds, in each of hundreds of managers on a host.
TOO_HEAVY_FOR_CLIENTS = {"asyncio", "pydantic", "logging", "psutil", "watchfiles", "cryptography"}


class Module(NamedTuple):
    """One module; ``name`` leaves ``cmappd.`` out."""

    name: str
    source: str

    @property
    def floor(self) -> str:
        head, _, rest = self.name.partition(".")
        package = ".".join(self.name.split(".")[:2])
        if package in BELOW:
            return package
        return head if rest or head in BELOW else "ground"

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)


def _modules() -> Iterator[Module]:
    for path in sorted((ROOT / "cmappd").rglob("*.py")):
        parts = path.relative_to(ROOT / "cmappd").with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__") or "__init__"
        yield Module(name, path.read_text())


MODULES = list(_modules())
NAMES = {module.name for module in MODULES}
each = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)


def imported(tree: ast.AST) -> Iterator[str]:
    """All that is imported anywhere, by its full name; ``from a import b`` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


class _RunTime(ast.NodeTransformer):
    """Leaves out what only a type checker reads."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else node


def top_level(tree: ast.Module) -> ast.Module:
    """What is carried out when the module is loaded."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    body = [node for node in _RunTime().visit(tree).body if not isinstance(node, functions)]
    return ast.Module(body, [])


def own(module: Module, *, at_run_time: bool = False) -> Iterator[str]:
    """The modules of cmappd that a module imports."""
    for name in imported(_RunTime().visit(module.tree) if at_run_time else module.tree):
        head, _, rest = name.partition(".")
        if head == "cmappd":
            while rest and rest not in NAMES:
                rest = rest.rpartition(".")[0]
            yield rest or "__init__"


def foreign(tree: ast.AST) -> set[str]:
    """The top-level packages of others that are imported."""
    return {name.partition(".")[0] for name in imported(tree)} - {"cmappd"}


def test_the_floors_are_all_there() -> None:
    assert {module.floor for module in MODULES} == BELOW.keys()
    assert {"core.lifecycle.table", "server.main", "client.manager", "client.control"} <= NAMES


@each
def test_imports_run_downward(module: Module) -> None:
    for name in own(module):
        allowed = Module(name, "").floor in BELOW[module.floor]
        assert allowed or (module.name, name) in UPWARD, name


@each
def test_system_modules_do_not_know_each_other(module: Module) -> None:
    if module.floor == "system":
        package = module.name.rpartition(".")[0]
        others = {name for name in own(module) if name.startswith("system.")}
        # The modules of one package below system are parts of one touch of the world.
        strangers = {name for name in others if package == "system" or package not in name}
        across = {(module.name, name) for name in strangers}
        assert across <= ACROSS


@each
def test_core_touches_nothing(module: Module) -> None:
    if module.floor in ("core", "ground"):
        assert not foreign(module.tree) & IMPURE
        assert not {"pathlib", "pathlib.Path"} & set(imported(module.tree))
        nodes = list(ast.walk(module.tree))
        assert not {one.id for one in nodes if isinstance(one, ast.Name)} & {"open", "print"}
        assert not {one.attr for one in nodes if isinstance(one, ast.Attribute)} & {"now", "today"}


@cache
def imports_at_run_time() -> dict[str, set[str]]:
    return {one.name: set(own(one, at_run_time=True)) for one in MODULES}


@each
def test_nothing_imports_in_a_circle(module: Module) -> None:
    by_name = imports_at_run_time()
    seen: set[str] = set()
    waiting = set(by_name[module.name])
    while waiting:
        name = waiting.pop()
        assert name != module.name
        seen.add(name)
        waiting |= by_name.get(name, set()) - seen


@each
def test_clients_are_light_in_their_source(module: Module) -> None:
    if module.floor == "client":
        top = top_level(module.tree)
        assert not foreign(top) & TOO_HEAVY_FOR_CLIENTS


@pytest.mark.parametrize("name", ["cmappd.client.manager", "cmappd.client.control"])
def test_clients_are_light_when_loaded(name: str) -> None:
    program = f"import {name}, sys; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(ran.stdout.split())
    assert name in loaded
    assert not {one.partition(".")[0] for one in loaded} & TOO_HEAVY_FOR_CLIENTS
    assert not {one for one in loaded if one.startswith("cmappd.server")}
    assert "cmappd.core.config" not in loaded


# Sizes -------------------------------------------------------------------------------


@each
def test_modules_stay_readable(module: Module) -> None:
    assert module.source.count("\n") <= MAX_MODULE


@each
def test_functions_stay_readable(module: Module) -> None:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines"
