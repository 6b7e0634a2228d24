from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.client.peer import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, Authority(tmp_path / "pki"))
