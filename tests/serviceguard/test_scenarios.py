"""What happens to packages by the rules of Serviceguard: every scenario once."""

import pytest

from tests.serviceguard.scenarios import SCENARIOS, Scenario
from tests.serviceguard.stage import Stage

pytestmark = pytest.mark.serviceguard


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
def test_it_ends_well(scenario: Scenario, stage: Stage) -> None:
    seconds = scenario(stage)
    print(f"{scenario.__name__}: {seconds:.2f} s")
