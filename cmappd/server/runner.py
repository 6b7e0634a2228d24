"""Carries out what the lifecycle decides, for one application: launch, signal, check."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from cmappd.core.config import Application
from cmappd.core.events import Checked, Event, Exited, Gone, Launched, MainFound, NotLaunched
from cmappd.core.lifecycle import App, Run
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
from cmappd.system.proc import exists, read_stat
from cmappd.system.process import Identity, launch, send

DETAIL_LENGTH = 1000
# What stop.command finds in its environment, beside what the application has.
MAIN_PID = "CMAPPD_MAIN_PID"
SEARCH_INTERVAL = 0.05  # seconds between two looks for the main process of a daemon
FOREIGN_LOOK = 0.25  # seconds between two looks at what is left of an earlier server's run


class Runner:
    """The processes and the log of one application. What comes of an action is posted."""

    __slots__ = (
        "_candidate",
        "_check",
        "_main",
        "_name",
        "_pidwatch",
        "_post",
        "_search",
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
        self._pidwatch: PidWatch | None = None  # of a main process that is not our child
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
            if part in (Part.STOP, Part.AFTER):  # of the others it is the result
                self._world.log.warning("%s: %s: %s", self._name, part, error)
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
            if part is Part.STOP and self._main is not None and exists(self._main):
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
        else:
            forest.plant(_tree(run, part), process)
        forest.know_output(_tree(run, part), self.output.fifo)
        if part in (Part.START, Part.MAIN):
            self._main = process

    def _refuse_leftovers(self, run: str) -> None:
        """Never two: what an earlier cmappserver left, and nobody could take up, must be gone."""
        world = self._world
        if self._name not in world.leftovers:
            return
        own = run if world.forest.knows(run) else ""  # what start.command has left is its own
        left = still_left(world.state_directory, self._name, but=own)
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
        run = app.run
        assert run is not None
        self.output.resume(app.definition)
        if run.part is Part.AFTER:
            self._resume_after(run.id)
            return
        members = self._given_back(run.id)
        if run.pid is None and run.status is None and (main is None or not exists(main)):
            main = main_of(members) or main  # it was launched, and there was no time to note it
        if main is None:
            text = "cmappserver ended before it was launched"
            self._post(NotLaunched(run.id, text, run.part))
            return
        self._adopt(run.id, main, members)
        if not run.launched or (run.kind == "simple" and run.part is Part.MAIN and not run.pid):
            self._post(Launched(run.id, main.pid, run.part))
        self._go_on(app, run, main)

    def _go_on(self, app: App, run: Run, main: Identity) -> None:
        if run.searching:
            self._linger(run.id, Part.MAIN)
            self.find_main(run.id, app.definition)
        elif run.status is None:
            self._watch_main(run.id, run.part, main)
        elif app.phase is not Phase.RUNNING:
            self._linger(run.id, Part.MAIN)
            asyncio.get_running_loop().call_soon(self._look_again, run.id, Part.MAIN)
        if run.asking:
            self._post(Exited(run.id, ExitStatus(), empty=False, part=Part.STOP))

    def _resume_after(self, run: str) -> None:
        """stop.after was under way: it is watched to its end, if it has not come yet."""
        rest = self._given_back(_tree(run, Part.AFTER))
        process = main_of(rest)
        if process is None:
            self._ended(run, Part.AFTER, ExitStatus())
            return
        self._world.forest.adopt(_tree(run, Part.AFTER), process, rest)
        self._watch(run, Part.AFTER, process)

    def _adopt(self, run: str, main: Identity, members: list[Identity]) -> None:
        self._world.forest.adopt(run, main, members)
        self._world.forest.know_output(run, self.output.fifo)
        self.confinement.resume(run)
        self._main = main

    def take_up(self, app: App, main: Identity) -> None:
        """Supervise a run of which there is no record."""
        assert app.run is not None
        self.output.resume(app.definition)
        self._adopt(app.run.id, main, self._given_back(app.run.id))
        self._watch_main(app.run.id, Part.MAIN, main)

    def _watch_main(self, run: str, part: Part, main: Identity) -> None:
        self._main = main
        self._watch(run, part, main)

    def _watch(self, run: str, part: Part, process: Identity) -> None:
        """Have its end posted; one that is gone has ended, and how, nobody knows."""
        stat = read_stat(process.pid)
        if stat is not None and stat.identity == process and stat.ppid == os.getpid():
            self._world.reaper.watch(process.pid, lambda status: self._ended(run, part, status))
            return
        try:
            self._pidwatch = PidWatch(process, lambda status: self._ended(run, part, status))
        except ProcessLookupError:
            self._ended(run, part, ExitStatus())
        except OSError:  # no free descriptor
            loop = asyncio.get_running_loop()
            loop.call_later(FOREIGN_LOOK, self._watch, run, part, process)

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
        self._settle_or_linger(run)

    def destroy(self, run: str) -> None:
        """Send SIGKILL to all that lives of the run."""
        self.confinement.kill()
        self._world.forest.signal(_tree(run, Part.AFTER), signal.SIGKILL, whole=True)
        self._look_again(run, Part.AFTER)
        self._world.forest.signal(run, signal.SIGKILL, whole=True)
        self._settle_or_linger(run)

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

    def _settle_or_linger(self, run: str) -> None:
        self._settle(run, Part.MAIN)
        # A oneshot of an earlier cmappserver: nothing tells of its end but looking.
        if self._world.forest.is_foreign(run) and run not in self._world.lingering:
            self._linger(run, Part.MAIN)

    def _settle(self, run: str, part: Part) -> None:
        """Post that nothing is left, where that is so."""
        if self._is_empty(run, part):
            self._over(run, part)
            self._post(Gone(run, part))

    def is_gone(self, run: str, part: Part) -> bool:
        """Whether what was posted still holds: another command may have been launched since."""
        try:
            return self._is_empty(run, part)
        except OSError:
            return False

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
        if self._pidwatch is not None:
            self._pidwatch.close()
        self.output.close(remove)


def _tree(run: str, part: Part) -> str:
    """The tree, and the mark, of a command: stop.after runs when the run's own tree is gone."""
    return f"{run}/after" if part is Part.AFTER else run
