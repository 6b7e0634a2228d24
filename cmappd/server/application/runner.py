"""Carries out what the lifecycle decides, for one application: launch, signal, check."""

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from cmappd.core.config import Application
from cmappd.core.events import Asked, Event, Launched, MainFound, Notified, NotLaunched
from cmappd.core.lifecycle import App
from cmappd.core.lifecycle.app import CHECKED_PHASES, is_up
from cmappd.core.sd_notify import Notification
from cmappd.core.state import Part
from cmappd.errors import CmappdError, LaunchError
from cmappd.server.application.checks import Checks
from cmappd.server.application.confinement import Confinement
from cmappd.server.application.deathwatch import Deathwatch
from cmappd.server.application.launches import Launches
from cmappd.server.application.notices import Notices
from cmappd.server.application.output import Output
from cmappd.server.application.search import Search
from cmappd.server.application.sidetrees import SideTrees, health_tree, tree_of
from cmappd.server.shared.leftovers import still_left, still_there
from cmappd.server.shared.world import World
from cmappd.system.proc import alive, exists, read_stat
from cmappd.system.process import Identity, Launch

DETAIL_LENGTH = 1000
MOST_SURVIVORS = 100
LOOK_AGAIN = 0.1  # seconds after there was no free descriptor to look with
# What stop.command finds in its environment, beside what the application has.
MAIN_PID = "CMAPPD_MAIN_PID"


class Runner:
    """The processes and the log of one application. What comes of an action is posted."""

    __slots__ = (
        "_launches",
        "_main_is_known",
        "_search",
        "asking",
        "beside",
        "checks",
        "confinement",
        "deaths",
        "main",
        "name",
        "notices",
        "output",
        "post",
        "world",
    )

    def __init__(self, world: World, name: str, post: Callable[[Event], None]) -> None:
        self.world = world
        self.name = name
        self.post = post
        # The main process of the live run, or of the last one; it may have ended.
        self.main: Identity | None = None
        self.asking: Identity | None = None  # the process of the last stop.command or stop.after
        self.confinement = Confinement(world, name)
        self._launches = Launches(name)
        self.output = Output(world, name)
        self.beside = SideTrees(world, name)
        self.notices = Notices(world, name, self._told)
        self.deaths = Deathwatch(
            world, name, self.confinement, self.beside, post, self.notices.drain
        )
        checked = partial(self.deaths.look_again, part=Part.MAIN)
        self.checks = Checks(world, name, self._launches, self.beside, post, checked)
        self._search = Search(world.forest)
        self._main_is_known = False

    # Launch --------------------------------------------------------------------------

    def spawn(self, run: str, part: Part, definition: Application) -> None:
        """Launch a command of this run, and post what came of it."""
        try:
            if part in (Part.START, Part.MAIN):
                self.checks.output = ""
                self._refuse_leftovers(run)
            process = self._launch(run, part, definition)
        except (CmappdError, OSError) as error:
            if part in (Part.STOP, Part.AFTER):  # of the others it is the result
                self.world.log_of(self.name).warning("%s: %s", part, error)
            self.post(NotLaunched(run, str(error)[:DETAIL_LENGTH], part))
            return
        self._plant(run, part, process)
        if part is Part.MAIN and definition.type == "forking" and not self.confinement:
            self.world.forest.await_daemon(run, definition.command[0])
        self.deaths.watch_child(run, part, process)
        self.post(Launched(run, process.pid, part))

    def _launch(self, run: str, part: Part, definition: Application) -> Identity:
        if part in (Part.START, Part.MAIN):
            self._launches.renew(run, definition)
        owner = self._launches.owner(run, definition)
        output = self.output.writer(definition, owner)
        try:
            command = definition.commands[part.value]
            spec = self._launches.of(run, tree_of(run, part), definition, command, output)
            if part is Part.STOP and self.main is not None and exists(self.main):
                spec.environment[MAIN_PID] = str(self.main.pid)
            if part is Part.MAIN:
                spec = self._with_notices(run, spec, definition, owner)
            if part is Part.AFTER:  # its tree is not the run's
                return self.beside.launch(tree_of(run, part), spec, gated=True)
            return self.confinement.launch(run, part, spec, definition)
        finally:
            os.close(output)

    def _with_notices(
        self, run: str, spec: Launch, definition: Application, owner: tuple[int, int] | None
    ) -> Launch:
        spec.environment.update(self.notices.open(run, definition, owner))
        # Of what daemonises the pid is not known before; then each of its processes may ping.
        named = definition.watchdog is not None and definition.type == "simple"
        return replace(spec, pid_variable="WATCHDOG_PID") if named else spec

    def _plant(self, run: str, part: Part, process: Identity) -> None:
        forest = self.world.forest
        if part in (Part.STOP, Part.AFTER):
            self.asking = process
        if part is Part.STOP:
            forest.join(run, process)
        elif part is not Part.AFTER:
            forest.plant(run, process)
        forest.know_output(tree_of(run, part), self.output.fifo)
        if part in (Part.START, Part.MAIN):
            self.main = process

    @property
    def left_over(self) -> tuple[Identity, ...]:
        """What lives of what an earlier cmappserver launched and nobody could take up."""
        runs = self.world.leftovers.get(self.name, {})
        return tuple(one for members in runs.values() for one in members if alive(one))

    def _refuse_leftovers(self, run: str) -> None:
        """Never two: what an earlier cmappserver left, and nobody could take up, must be gone."""
        world = self.world
        if self.name not in world.leftovers:
            return
        own = run if world.forest.knows(run) else ""  # what start.command has left is its own
        left = still_left(world.state_directory, self.name, but=own)
        if left:
            raise LaunchError(f"cannot start: {still_there(left)}")
        del world.leftovers[self.name]

    # The main process of what daemonised ----------------------------------------------

    def find_main(self, run: str, definition: Application) -> None:
        """Look for it until it is found, which is posted; or nothing is left, which is, too."""
        found = partial(self._follow_main, run)
        missed = partial(self.deaths.look_again, run, Part.MAIN)
        self._search.begin(run, definition.pid_file, found, missed)

    def _follow_main(self, run: str, main: Identity) -> None:
        self.world.forest.plant(run, main)
        self.main = main
        self.deaths.watch(run, Part.MAIN, main)
        self.post(MainFound(run, main.pid))

    # What it says of itself -----------------------------------------------------------

    def _told(self, run: str, word: Notification) -> None:
        if word.main_pid is not None:
            self._hand_over(run, word.main_pid)
        self.post(Notified(run, word))

    def _hand_over(self, run: str, pid: int) -> None:
        """It has another main process from now on, if that is one of its processes."""
        try:
            stat = read_stat(pid)
            is_its_own = stat is not None and stat.alive and self.world.forest.has(run, pid)
        except OSError:  # no descriptor to look with
            loop = asyncio.get_running_loop()
            loop.call_later(LOOK_AGAIN, partial(self._hand_over, run, pid))
            return
        if stat is None or not is_its_own:
            self.notices.disregard(f"MAINPID={pid} is none of its processes")
        elif not self._main_is_known:
            self._search.tell(run, stat.identity)
        elif stat.identity != self.main:
            self._follow_main(run, stat.identity)

    # Signals and the end -------------------------------------------------------------

    def terminate(self, run: str, definition: Application, *, whole: bool) -> None:
        """Send the stop signal to the main process, or to all of the tree."""
        self.world.forest.signal(run, signal.Signals[definition.stop.signal], whole=whole)
        self.post(Asked(run))
        self.deaths.settle_or_linger(run)

    def destroy(self, run: str) -> None:
        """Send SIGKILL to all that lives of the run."""
        self.confinement.kill(run)
        self.beside.kill(health_tree(run))
        self.beside.kill(tree_of(run, Part.AFTER))
        self.deaths.look_again(run, Part.AFTER)
        self.world.forest.signal(run, signal.SIGKILL, whole=True)
        self.deaths.settle_or_linger(run)

    def survivors(self, run: str) -> tuple[int, ...]:
        """The pids of what is left of the tree: of very many the first, which fit a message."""
        trees = (run, health_tree(run), tree_of(run, Part.AFTER))
        return tuple(one.pid for one in self.world.forest.alive(*trees)[:MOST_SURVIVORS])

    # What it is no use to go on with ----------------------------------------------------

    def heed(self, before: App, app: App) -> None:
        """End what is under way and of no use any more in this state of the application."""
        # Who is being ended ends, and hands over to nobody.
        self._main_is_known = app.phase in CHECKED_PHASES and is_up(app)
        if app.run is None:
            self.notices.close(remove=True)
        self.checks.heed(app)
        self._search.heed(app)
        if before.run is not None and (app.run is None or app.run.id != before.run.id):
            self.output.finish()

    def close(self, remove: bool) -> None:
        """End the supervision; ``remove`` the FIFO, too, unless processes hold it."""
        self.checks.close()
        self._search.close()
        self.deaths.close()
        self.notices.close(remove)
        self.output.close(remove)
