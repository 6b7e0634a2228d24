"""What ``make install`` puts where, and that it runs from there."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import cmappd
from tests.installed.conftest import ROOT

pytestmark = pytest.mark.timeout(60, func_only=True)  # the installation has a limit of its own

PROGRAMS = ("cmappctl", "cmappmgr", "cmappserver")
PAGES = sorted(path.name for path in (ROOT / "man").iterdir())
EXPECTED = {
    *(f"usr/bin/{name}" for name in PROGRAMS),
    *(f"usr/share/man/man{name[-1]}/{name}" for name in PAGES),
    "usr/lib/systemd/system/cmappserver.service",
    "usr/lib/systemd/system/cmappmgr@.service",
    "usr/lib/ocf/resource.d/cmappd/app",
    *(
        f"usr/share/cmappd/{path.relative_to(ROOT / 'cluster')}"
        for path in (ROOT / "cluster/serviceguard").rglob("*.*")
        if path.is_file()
    ),
    "usr/share/bash-completion/completions/cmappctl",
    "usr/share/bash-completion/completions/cmappmgr",
    *(f"usr/share/doc/cmappd/{name}" for name in ("README.md", "CHANGELOG.md", "LICENSE")),
    *(
        f"usr/share/doc/cmappd/{path.relative_to(ROOT)}"
        for path in (*(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.toml"))
    ),
}


def files(destdir: Path) -> set[str]:
    return {str(path.relative_to(destdir)) for path in destdir.rglob("*") if path.is_file()}


def test_everything_is_where_it_belongs_and_nothing_else_is(destdir: Path) -> None:
    packages = "usr/lib/cmappd/"
    assert {name for name in files(destdir) if not name.startswith(packages)} == EXPECTED


def test_nothing_speaks_of_where_it_was_staged(destdir: Path) -> None:
    folder = f"{destdir.name}/"
    for name in EXPECTED:
        assert folder not in (destdir / name).read_text(), name
    compiled = list((destdir / "usr/lib/cmappd/cmappd").rglob("*.pyc"))
    assert compiled
    assert not [path for path in compiled if folder.encode() in path.read_bytes()]


def test_the_version_is_that_of_the_programs(destdir: Path) -> None:
    (information,) = (destdir / "usr/lib/cmappd").glob("cmappd-*.dist-info")
    assert information.name == f"cmappd-{cmappd.__version__}.dist-info"


def test_everybody_may_read_it(destdir: Path) -> None:
    for path in destdir.rglob("*"):
        wanted = 0o755 if path.is_dir() or path.parent.name == "bin" else 0o444
        assert path.stat().st_mode & wanted == wanted, path


def test_units_name_the_programs_by_their_paths(destdir: Path) -> None:
    unit = (destdir / "usr/lib/systemd/system/cmappserver.service").read_text()
    assert "\nExecStart=/usr/bin/cmappserver\n" in unit
    assert "@" not in unit


def test_the_agent_looks_for_the_programs_where_they_are(destdir: Path) -> None:
    agent = (destdir / "usr/lib/ocf/resource.d/cmappd/app").read_text()
    assert "\nPATH=$PATH:/usr/bin:/opt/cmappd/bin\n" in agent
    assert "\n/usr/bin and /opt/cmappd/bin.\n" in agent  # as it says of itself
    assert "/usr/local" not in agent


def test_serviceguards_files_and_the_documents_name_what_is_installed_by_its_path(
    destdir: Path,
) -> None:
    folder = destdir / "usr/share/cmappd/serviceguard"
    assert os.access(folder / "cmappd.sh", os.X_OK)
    paths = [*folder.rglob("*.*"), *(destdir / "usr/share/doc/cmappd").rglob("*.md")]
    texts = [path.read_text() for path in paths if path.is_file()]
    assert not [text for text in texts if "/usr/local" in text]
    named = {word for text in texts for word in re.findall(r"/usr/[a-z/]+/cmapp[a-z.-]*\w", text)}
    named.remove("/usr/sbin/cmappmgr")  # the original's
    assert named
    assert not [path for path in named if not Path(f"{destdir}{path}").exists()]


def test_the_documents_refer_to_what_is_there(destdir: Path) -> None:
    pages = list((destdir / "usr/share/doc/cmappd").rglob("*.md"))
    links = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    ]
    assert len(links) > len(pages)
    assert not [link for page, link in links if not (page.parent / link).exists()]


def test_an_interpreter_that_is_named_is_not_one_of_an_earlier_installation(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv-install").mkdir()
    (tmp_path / ".venv-install/.ready").touch()
    words = ["make", "-C", str(tmp_path), "install", f"DESTDIR={tmp_path}/d", "PYTHON=/no/python"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "(tried: /no/python)" in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_run_whatever_surrounds_them(
    destdir: Path, tmp_path: Path, program: str
) -> None:
    """In a folder and an environment that would mislead another interpreter."""
    (tmp_path / "cmappd").mkdir()
    (tmp_path / "cmappd/__init__.py").write_text("raise SystemExit(99)\n")
    script = tmp_path / program
    text = (destdir / "usr/bin" / program).read_text()
    script.write_text(text.replace("/usr/lib/cmappd", f"{destdir}/usr/lib/cmappd"))
    script.chmod(0o755)
    done = subprocess.run(
        [script, "--version"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{program} ")


def test_uninstall_leaves_nothing(destdir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", destdir, copy], check=True)
    words = ["make", "-C", str(ROOT), "uninstall", f"DESTDIR={copy}", "prefix=/usr"]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    assert files(copy) == set()
    assert not list(copy.rglob("*cmappd*"))
