"""cmappd as ``make install`` puts it, below a DESTDIR; installed once for all tests here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def destdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is installed with prefix=/usr, from a copy of the sources beside it."""
    folder = tmp_path_factory.mktemp("install")
    sources, found = folder / "sources", folder / "destdir"
    left_out = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, sources, ignore=left_out)
    words = ["make", "-C", str(sources), "install", f"DESTDIR=../{found.name}", "prefix=/usr"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        words, env=environment, umask=0o077, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(sources)
    return found
