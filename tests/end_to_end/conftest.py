"""The scene of a test."""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.harness import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A guest and its host; ended afterwards, and seen to be gone."""
    tmp_path.chmod(0o700)
    scene = Scene(tmp_path)
    try:
        yield scene
    finally:
        scene.print_logs()
        scene.close()


@pytest.fixture
def database_cluster(postgres_programs: Path) -> Iterator[Path]:
    """A database cluster, in a folder where the user postgres may go."""
    account = pwd.getpwnam("postgres")
    with tempfile.TemporaryDirectory(prefix="cmappd-pg-") as name:
        os.chown(name, account.pw_uid, account.pw_gid)
        data = Path(name) / "data"
        subprocess.run(
            [postgres_programs / "initdb", "--no-sync", "--auth=trust", "-D", data],
            user="postgres",
            group=account.pw_gid,
            extra_groups=[],
            cwd=name,
            capture_output=True,
            check=True,
        )
        yield data
