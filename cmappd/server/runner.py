"""Carries out what the lifecycle decides, for one application: launch, signal, check."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from cmappd.core.config import Application
from cmappd.core.events import Checked, Event, Exited, Gone, Launched, MainFound, NotLaunched
from cmappd.core.lifecycle import App
from cmappd.core.lifecycle.app import CHECKED_PHASES
from cmappd.core.state import ExitStatus, Part, Phase
from cmappd.core.wording import status_text
from cmappd.errors import CmappdError, LaunchError
from cmappd.server.checks import check
from cmappd.server.confinement import Confinement
from cmappd.server.launches import launch_of
from cmappd.server.leftovers import still_left
from cmappd.server.output import Output
from cmappd.server.world import World
from cmappd.system.daemons import main_of, read_pid
from cmappd.system.pidwatch import PidWatch
from cmappd.system.proc import read_stat
from cmappd.system.process import Identity, launch, send

DETAIL_LENGTH = 1000
# What stop.command finds in its environment, beside what the application has.
MAIN_PID = "CMAPPD_MAIN_PID"
SEARCH_INTERVAL = 0.05  # seconds between two looks for the main process of a daemon
NOBODY = Identity(0, 0)
FOREIGN_LOOK = 0.25  # seconds between two looks at what is left of an earlier server's run


class Runner:
    """The processes and the log of one application. What comes of an action is posted."""

    __slots__ = (
        "_candidate",
        "_check",
        "_main",
        "_name",
        "_post",
        "_search",
        "_watch",
        "_world",
        "confinement",
        "health_output",
        "output",
    )

    def __init__(self, world: World, name: str, post: Callable[[Event], None]) -> None:
        self._world = world
        self._name = name
        self._post = post
        self._main: Identity | None = None
        self.confinement = Confinement(world, name)
        self.output = Output(world, name)
        self._check: asyncio.Task[None] | None = None
        self._search: asyncio.TimerHandle | None = None
        self._candidate: Identity | None = None
        self._watch: PidWatch | None = None  # of a main process that is not our child
        self.health_output = ""

    # Launch --------------------------------------------------------------------------

    def spawn(self, run: str, part: Part, definition: Application) -> None:
        """Launch a command of this run, and post what came of it."""
        try:
            if part in (Part.START, Part.MAIN):
                self.health_output = ""
                self._refuse_leftovers(run)
            process = self._launch(run, part, definition)
        except (CmappdError, OSError) as error:
            self._post(NotLaunched(run, str(error)[:DETAIL_LENGTH], part))
            return
        self._plant(run, part, process)
        self._world.reaper.watch(process.pid, lambda status: self._ended(run, part, status))
        self._post(Launched(run, process.pid, part))

    def _launch(self, run: str, part: Part, definition: Application) -> Identity:
        output = self.output.writer(definition)
        try:
            command = definition.commands[part.value]
            spec = launch_of(self._name, _tree(run, part), definition, command, output)
            if part is Part.STOP and self._main is not None:
                spec.environment[MAIN_PID] = str(self._main.pid)
            if part is Part.AFTER:  # its tree is not the run's
                return launch(spec)
            hold = definition.type != "simple" or part is not Part.MAIN
            return self.confinement.launch(run, spec, hold)
        finally:
            os.close(output)

    def _plant(self, run: str, part: Part, process: Identity) -> None:
        forest = self._world.forest
        if part is Part.STOP:
            forest.join(run, process)
            return
        forest.plant(_tree(run, part), process)
        forest.know_output(_tree(run, part), self.output.fifo)
        if part is not Part.AFTER:
            self._main = process

    def _refuse_leftovers(self, run: str) -> None:
        """Never two: what an earlier cmappserver left, and nobody could take up, must be gone."""
        world = self._world
        if self._name not in world.leftovers:
            return
        left = still_left(world.state_directory, self._name, but=run)
        if left:
            pids = " ".join(str(one.pid) for one in left)
            raise LaunchError(
                "cannot start: processes that an earlier cmappserver launched still run "
                f"(pid {pids}); end them first"
            )
        del world.leftovers[self._name]

    # The main process of what daemonised ----------------------------------------------

    def find_main(self, run: str, definition: Application) -> None:
        """Look for it until it is found, which is posted; or nothing is left, which is, too."""
        found = self._look_for_main(run, definition.pid_file)
        if found is not None:
            self._search = self._candidate = None
            self._world.forest.plant(run, found)
            self._watch_main(run, Part.MAIN, found)
            self._post(MainFound(run, found.pid))
            return
        loop = asyncio.get_running_loop()
        self._search = loop.call_later(SEARCH_INTERVAL, self.find_main, run, definition)
        self._look_again(run, Part.MAIN)

    def _look_for_main(self, run: str, pid_file: str | None) -> Identity | None:
        members = self._world.forest.members(run)
        if pid_file is not None:
            pid = read_pid(pid_file)
            return next((one for one in members if one.pid == pid), None)
        # Of two forks the first is over soon: who is there at two looks, is there to stay.
        before, self._candidate = self._candidate, main_of(members)
        return before if before == self._candidate else None

    # After another cmappserver -------------------------------------------------------

    def resume(self, app: App, main: Identity | None) -> None:
        """Take up the live run as it was recorded; what became of it is posted."""
        run, definition = app.run, app.definition
        assert run is not None
        if main is None:
            text = "cmappserver ended before it was launched"
            self._post(NotLaunched(run.id, text, run.part))
            return
        self._world.forest.adopt(run.id, main, self._given_back(run.id))
        self._world.forest.know_output(run.id, self.output.fifo)
        self.confinement.resume(run.id)
        self._main = main
        self.output.resume(definition)
        if run.part is Part.AFTER:
            rest = self._given_back(_tree(run.id, Part.AFTER))
            self._world.forest.adopt(_tree(run.id, Part.AFTER), NOBODY, rest)
            self._ended(run.id, Part.AFTER, ExitStatus())
        elif run.searching:
            self.find_main(run.id, definition)
        elif run.status is None:
            self._watch_main(run.id, run.part, main)
        elif app.phase is not Phase.RUNNING:
            self._linger(run.id, Part.MAIN)
            asyncio.get_running_loop().call_soon(self._look_again, run.id, Part.MAIN)
        if run.asking:
            self._post(Exited(run.id, ExitStatus(), empty=False, part=Part.STOP))

    def take_up(self, app: App, main: Identity) -> None:
        """Supervise a run of which there is no record."""
        assert app.run is not None
        self._world.forest.adopt(app.run.id, main, self._given_back(app.run.id))
        self._world.forest.know_output(app.run.id, self.output.fifo)
        self.confinement.resume(app.run.id)
        self.output.resume(app.definition)
        self._watch_main(app.run.id, Part.MAIN, main)

    def _watch_main(self, run: str, part: Part, main: Identity) -> None:
        """Have its end posted; one that is gone has ended, and how, nobody knows."""
        self._main = main
        stat = read_stat(main.pid)
        if stat is not None and stat.identity == main and stat.ppid == os.getpid():
            self._world.reaper.watch(main.pid, lambda status: self._ended(run, part, status))
            return
        try:
            self._watch = PidWatch(main, lambda status: self._ended(run, part, status))
        except OSError:
            self._ended(run, part, ExitStatus())

    def _given_back(self, run: str) -> list[Identity]:
        """The processes that were found of a run, and those known by their output only.

        A health check that was under way is nobody's any more.
        """
        runs = self._world.leftovers.pop(self._name, {})
        for checking in runs.pop(f"{run}/health", []):
            with contextlib.suppress(PermissionError):
                send(checking, signal.SIGKILL)
        members = [one for key in (run, "") for one in runs.pop(key, [])]
        if runs:
            self._world.leftovers[self._name] = runs
        return members

    @property
    def main(self) -> Identity | None:
        """The main process of the live run, or of the last one; it may have ended."""
        return self._main

    # Signals and the end -------------------------------------------------------------

    def terminate(self, run: str, definition: Application, *, whole: bool) -> None:
        """Send the stop signal to the main process, or to all of the tree."""
        self._world.forest.signal(run, signal.Signals[definition.stop.signal], whole=whole)
        self._settle(run, Part.MAIN)

    def destroy(self, run: str) -> None:
        """Send SIGKILL to all that lives of the run."""
        self.confinement.kill()
        self._world.forest.signal(_tree(run, Part.AFTER), signal.SIGKILL, whole=True)
        self._look_again(run, Part.AFTER)
        self._world.forest.signal(run, signal.SIGKILL, whole=True)
        self._settle(run, Part.MAIN)

    def survivors(self, run: str) -> tuple[int, ...]:
        """The pids of what is left of the tree."""
        forest = self._world.forest
        trees = (run, _tree(run, Part.AFTER))
        return tuple(one.pid for tree in trees for one in forest.alive(tree))

    def _ended(self, run: str, part: Part, status: ExitStatus) -> None:
        if part in (Part.STOP, Part.AFTER) and status.code != 0:
            text = status_text(status) or "an unknown status"
            self._world.log.warning("%s: %s ended with %s", self._name, part, text)
        try:
            empty = self._is_empty(run, part)
        except OSError:  # of /proc, without a free descriptor: it will be looked at again
            empty = False
        if empty:
            self._over(run, part)
        else:
            self._linger(run, part)
        self._post(Exited(run, status, empty, part))

    def _linger(self, run: str, part: Part) -> None:
        """A command has ended, and the rest of the tree has not."""
        tree = _tree(run, part)
        self._world.lingering[tree] = lambda: self._look_again(run, part)
        if self._world.forest.is_foreign(tree):
            asyncio.get_running_loop().call_later(FOREIGN_LOOK, self._keep_looking, run, part)

    def _keep_looking(self, run: str, part: Part) -> None:
        """Orphans of an earlier cmappserver are not ours to wait for: no signal tells their end."""
        self._look_again(run, part)
        if _tree(run, part) in self._world.lingering:
            asyncio.get_running_loop().call_later(FOREIGN_LOOK, self._keep_looking, run, part)

    def _look_again(self, run: str, part: Part) -> None:
        if _tree(run, part) in self._world.lingering:
            self._settle(run, part)

    def _settle(self, run: str, part: Part) -> None:
        """Post that nothing is left, where that is so."""
        if self._is_empty(run, part):
            self._over(run, part)
            self._post(Gone(run, part))

    def _is_empty(self, run: str, part: Part) -> bool:
        """Whether nobody is left, by both accounts: a process can be moved out of a cgroup."""
        if not self._world.forest.empty(_tree(run, part)):
            return False
        return part is Part.AFTER or self.confinement.empty

    def _over(self, run: str, part: Part) -> None:
        self._world.lingering.pop(_tree(run, part), None)
        self._world.forest.fell(_tree(run, part))
        self.confinement.remove()

    # Health --------------------------------------------------------------------------

    def check(self, run: str, definition: Application) -> None:
        """Start a health check; its end is posted."""
        self._check = asyncio.create_task(self._run_check(run, definition))

    async def _run_check(self, run: str, definition: Application) -> None:
        result = await check(self._world, self._name, run, definition)
        self.health_output = result.output
        self._post(Checked(run, result.passed, result.detail))

    def heed(self, app: App) -> None:
        """End what is under way and of no use any more in this state of the application."""
        if self._check is not None and (app.run is None or app.phase not in CHECKED_PHASES):
            self._check.cancel()
            self._check = None
        if self._search is not None and (app.run is None or not app.run.searching):
            self._search.cancel()
            self._search = None

    def close(self, remove: bool) -> None:
        """End the supervision; ``remove`` the FIFO, too, unless processes hold it."""
        if self._check is not None:
            self._check.cancel()
        if self._search is not None:
            self._search.cancel()
        if self._watch is not None:
            self._watch.close()
        self.output.close(remove)


def _tree(run: str, part: Part) -> str:
    """The tree, and the mark, of a command: stop.after runs when the run's own tree is gone."""
    return f"{run}/after" if part is Part.AFTER else run
