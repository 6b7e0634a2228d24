"""What tests leave on the machine is seen."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cmappd.system import hierarchy
from tests import left_behind

NAME = f"cmappd-test-left-{os.getpid()}"


@contextmanager
def made(make: str, remove: str) -> Iterator[None]:
    """What a command makes, until another one removes it."""
    subprocess.run(["/bin/sh", "-ec", make], check=True)
    try:
        yield
    finally:
        subprocess.run(["/bin/sh", "-ec", remove], check=True)


@pytest.mark.root
def test_a_namespace_with_a_name() -> None:
    with made(f"ip netns add {NAME}", f"ip netns delete {NAME}"):
        assert f"/run/netns/{NAME}" in left_behind.namespaces()
    assert f"/run/netns/{NAME}" not in left_behind.namespaces()


@pytest.mark.root
def test_a_mount(tmp_path: Path) -> None:
    with made(f"mount -t tmpfs tmpfs {tmp_path}", f"umount {tmp_path}"):
        assert len(left_behind.mounts(tmp_path)) == 1
        assert len(left_behind.mounts(tmp_path.parent)) == 1
        assert not left_behind.mounts(tmp_path.with_name(tmp_path.name[:-1]))
    assert not left_behind.mounts(tmp_path)


@pytest.mark.root
def test_a_cgroup(tmp_path: Path) -> None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines if " - cgroup2 " in line]
    if not points:
        pytest.skip("needs cgroup version 2")
    state = tmp_path / "state"
    state.mkdir()
    path = f"{points[0]}/cmappd-{hierarchy.name_of(str(state))}"
    with made(f"mkdir {path}", f"rmdir {path}"):
        assert left_behind.cgroups(tmp_path) == {path}
        assert not left_behind.cgroups(tmp_path / "another")
    assert not left_behind.cgroups(tmp_path)


def test_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = left_behind.Folders(monkeypatch)
    with tempfile.TemporaryDirectory() as name:
        assert folders.left() == {name}
    assert not folders.left()
    folders.close()


def test_a_folder_of_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = left_behind.Folders(monkeypatch)
    name = subprocess.check_output(["mktemp", "-d"], text=True).strip()
    assert folders.left() == {name}
    os.rmdir(name)
    assert not folders.left()
    folders.close()
