"""The health checks of an application, in whichever way its definition says."""

import asyncio
from collections.abc import Callable

from cmappd.core.config import Application
from cmappd.core.config.values import Address
from cmappd.core.events import Checked
from cmappd.core.lifecycle import App
from cmappd.core.lifecycle.app import CHECKED_PHASES
from cmappd.core.printable import printable
from cmappd.core.url import parse_url
from cmappd.errors import CmappdError
from cmappd.server.application.launches import Launches
from cmappd.server.application.sidetrees import SideTrees, health_tree
from cmappd.server.shared.world import World
from cmappd.system import limits
from cmappd.system.netprobe import HttpCheck, http_probe, tcp_probe
from cmappd.system.probe import ProbeResult, probe

SUMMARY = 200  # characters of what a check printed, in a line of the log


class Checks:
    """One check at a time; its end is posted, and its output kept."""

    __slots__ = (
        "_cleared",
        "_launches",
        "_name",
        "_post",
        "_task",
        "_trees",
        "_world",
        "failure",
        "output",
        "problem",
    )

    def __init__(
        self,
        world: World,
        name: str,
        launches: Launches,
        trees: SideTrees,
        post: Callable[[Checked], None],
        cleared: Callable[[str], None],
    ) -> None:
        """``cleared`` is called when nothing is left of a check of this run, however it ended."""
        self._world = world
        self._name = name
        self._launches = launches
        self._trees = trees
        self._post = post
        self._cleared = cleared
        self._task: asyncio.Task[None] | None = None
        self.output = ""  # of the last one of this run
        self.failure = ""  # the last one, in a line
        self.problem = ""  # why the last one could not be made

    def start(self, run: str, definition: Application) -> None:
        """Start one."""
        self._task = asyncio.create_task(self._run(run, definition))

    async def _run(self, run: str, definition: Application) -> None:
        try:
            result = await check(self._world, self._launches, self._trees, run, definition)
            if not result.passed:
                # What fails while we have no descriptor to spare says nothing of the application.
                limits.check_spare_descriptors()
                self.failure = _in_a_line(result)
        except Exception as error:  # noqa: BLE001  without its end there is no next one
            self._not_made(run, error)
            return
        finally:
            self._cleared(run)
        self.output, self.problem = result.output, ""
        self._post(Checked(run, result.passed, result.detail))

    def _not_made(self, run: str, error: Exception) -> None:
        """What we cannot do says nothing of the application; that it is not checked is told."""
        expected = isinstance(error, OSError | CmappdError)
        why = error.strerror if isinstance(error, OSError) else error if expected else repr(error)
        told, self.problem = self.problem, f"its health cannot be checked: {why}"
        self.output = self.problem
        if not told:
            log = self._world.log_of(self._name)
            log.error("%s", self.problem, exc_info=None if expected else error)
        self._post(Checked(run, None, self.problem))

    def heed(self, app: App) -> None:
        """End the one under way where the application, as it is now, is not to be checked."""
        health = app.definition.health
        if app.run is None or app.phase not in CHECKED_PHASES:
            self.close()
        if self._task is None or health is None or not health.checks:
            self.problem = ""

    def close(self) -> None:
        """End the one under way."""
        if self._task is not None:
            self._task.cancel()
            self._task = None


def _in_a_line(result: ProbeResult) -> str:
    """How it came out, and the end of what it printed."""
    words = " ".join(result.output.split())
    end = words if len(words) <= SUMMARY else f"...{words[-SUMMARY:]}"
    return printable(f"its health check {result.detail}" + (f": {end}" if end else ""))


async def check(
    world: World, launches: Launches, trees: SideTrees, run: str, definition: Application
) -> ProbeResult:
    """Check the health of a run. Raises CmappdError and OSError where that cannot be done here."""
    health = definition.health
    assert health is not None, "the lifecycle asks for what is defined"
    if health.http is not None:
        status = (range(200, 400),) if health.http_status is None else health.http_status
        asked = HttpCheck(
            parse_url(health.http), status, health.http_redirects, health.http_body,
            health.http_verify,
        )  # fmt: skip
        return await http_probe(asked, health.timeout)
    if health.tcp is not None:
        address = Address.parse(health.tcp)
        return await tcp_probe(address.host, address.port, health.timeout)
    assert health.command is not None, "one of the three is there"
    mark = health_tree(run)
    spec = launches.of(run, mark, definition, health.command)
    # One a turn of the loop. Launched together they would hold it up, be found to have ended
    # together, and so be due together for ever after.
    async with world.turn:
        await asyncio.sleep(0)
    return await probe(spec, mark, health.timeout, reaper=world.reaper, trees=trees)
