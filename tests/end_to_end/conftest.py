"""The scene of a test."""

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
