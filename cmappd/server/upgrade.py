"""Asks the program on disk whether it can take the place of this cmappserver.

Until it says yes, nothing has changed; what follows then is told in `succession`.
"""

import asyncio
import os
from collections.abc import Callable

from cmappd import __version__
from cmappd.core.messages import Done, Refused
from cmappd.errors import CmappdError, LaunchError
from cmappd.server.application.sidetrees import SideTrees
from cmappd.server.registry import Registry
from cmappd.server.rehearsal import Rehearsed, answer_of
from cmappd.server.shared.world import World
from cmappd.system.handover import own_command
from cmappd.system.probe import probe
from cmappd.system.process import Launch

REHEARSE = "--rehearse"
REHEARSAL_LIMIT = 30.0  # seconds for the new program to say whether it can


class UpgradeError(CmappdError):
    """The program on disk cannot take over."""


class Upgrader:
    """Asks the program on disk, one request at a time; ``agree`` is called when it can."""

    def __init__(self, world: World, registry: Registry, agree: Callable[[], None]) -> None:
        self._world = world
        self._registry = registry
        self._agree = agree
        self._task: asyncio.Task[None] | None = None

    def ask(self, seq: int, tell: Callable[[Done | Refused], None]) -> None:
        """Upgrade. Done is told when the new program has agreed, and is executed next."""
        if self._task is not None and not self._task.done():
            tell(Refused(seq, "busy", "an upgrade is under way already"))
            return
        self._task = asyncio.create_task(self._try(seq, tell))

    async def _try(self, seq: int, tell: Callable[[Done | Refused], None]) -> None:
        log = self._world.log
        try:
            found = await self._rehearse()
        except UpgradeError as error:
            gist = str(error).rpartition("\n")[2]
            log.error("cannot upgrade, nothing has changed: %s", gist)
            tell(Refused(seq, "usage", f"cannot upgrade, nothing has changed: {error}"))
            return
        log.info("cmappserver %s is replaced by %s", __version__, found.software)
        tell(Done(seq, found.software))
        self._agree()

    async def _rehearse(self) -> Rehearsed:
        """The new program's answer. Raises UpgradeError with its words."""
        self._save()
        mark = f"cmappserver.{self._world.epoch}.upgrade"
        command = own_command(REHEARSE)
        spec = Launch(command, None, dict(os.environ), None, None, None, None, output=-1)
        trees = SideTrees(self._world, "cmappserver")
        try:
            result = await probe(
                spec, mark, REHEARSAL_LIMIT, reaper=self._world.reaper, trees=trees
            )
        except (LaunchError, OSError) as error:
            raise UpgradeError(f"the program on disk could not start: {error}") from error
        if not result.passed:
            raise UpgradeError(f"the program on disk {result.detail}: {result.output.strip()}")
        answer = answer_of(result.output)
        if answer is None:
            raise UpgradeError(f"the program on disk cannot upgrade: it says {result.output!r}")
        if answer.state_directory != self._world.state_directory:
            raise UpgradeError(
                f"the configuration now names another state directory, {answer.state_directory}; "
                f"what runs is recorded in {self._world.state_directory}"
            )
        if self._world.ending:
            raise UpgradeError(self._world.ending)
        return answer

    def _save(self) -> None:
        for supervisor in self._registry.supervisors():
            supervisor.save(always=True)
            if supervisor.notes.unsaved:
                raise UpgradeError(f"{supervisor.app.name}: {supervisor.notes.unsaved}")
