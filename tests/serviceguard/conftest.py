"""A guest that is the VM of packages, and two hosts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serviceguard.stage import Stage, staged


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Nothing runs yet."""
    with staged(tmp_path) as stage:
        try:
            yield stage
        finally:
            stage.print_logs()
