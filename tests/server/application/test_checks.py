"""Health checks of many applications beside one another."""

import asyncio
from pathlib import Path

from cmappd.server.application.checks import check
from cmappd.system.process import Identity
from cmappd.system.tree import Forest
from tests.server.ground import ground

CHECKED = """
[apps.db]
command = ["/bin/sleep", "60"]
health = { command = ["/bin/true"] }
"""
MANY = 10


class Turns(Forest):
    """Counts the turns of the loop, and notes in which one each process was launched."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[int] = []
        self._turn = 0
        self._next()

    def _next(self) -> None:
        self._turn += 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()

    def plant(self, run: str, main: Identity) -> None:
        self.launches.append(self._turn)
        super().plant(run, main)


def test_checks_that_are_due_together_are_launched_one_a_turn(tmp_path: Path) -> None:
    """What else there is to do is done between them, and they do not stay together."""

    async def together() -> list[int]:
        async with ground(tmp_path, "") as made:
            made.world.forest = turns = Turns()
            definition = made.config(CHECKED).apps["db"]
            names = [f"app{number}" for number in range(MANY)]
            checks = (check(made.world, name, f"{name}.0.1", definition) for name in names)
            results = await asyncio.gather(*checks)
            turns.stop()
            assert [result.detail for result in results] == ["passed"] * MANY
            return turns.launches

    launches = asyncio.run(together())
    assert len(launches) == len(set(launches)) == MANY
