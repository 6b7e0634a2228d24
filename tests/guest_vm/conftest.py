"""The guest of these tests: booted once, for all of them."""

from collections.abc import Iterator

import pytest

from tests.certificates import Authority
from tests.guest_vm.image import CannotError, image
from tests.guest_vm.vm import Vm


@pytest.fixture(scope="package")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    """A guest with cgroups of version 2, and nothing else on it."""
    folder = tmp_path_factory.mktemp("vm")
    try:
        made = Vm(folder, image(folder))
    except CannotError as error:
        pytest.skip(str(error))
    with made:
        yield made


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))
