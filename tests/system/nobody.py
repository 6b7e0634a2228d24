"""Root's files, and a user who has none, for the tests of who may do what."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 12345
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


@pytest.fixture
def trusted() -> Iterator[Path]:
    """A directory that root trusts and everybody can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_nobody(module: str, code: str, *arguments: str) -> str:
    """What code with the names of a module prints when an ordinary user runs it; the text of a
    ConfigError.
    """
    script = (
        f"import os, sys; from cmappd.errors import ConfigError; from {module} import *\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"try: {code}\n"
        "except ConfigError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
