"""Carries out what the lifecycle decides, for one application: launch, signal, check."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from cmappd.core.config import Application
from cmappd.core.events import Checked, Event, Exited, Gone, Launched, NotLaunched
from cmappd.core.lifecycle import Run
from cmappd.core.state import ExitStatus
from cmappd.errors import CmappdError, LaunchError
from cmappd.server.environment import environment_of
from cmappd.server.leftovers import still_left
from cmappd.server.world import World
from cmappd.system import users
from cmappd.system.capture import Capture
from cmappd.system.logfile import LogFile
from cmappd.system.pidwatch import PidWatch
from cmappd.system.probe import probe
from cmappd.system.proc import read_stat
from cmappd.system.process import Identity, Launch, launch

TAIL_LINES = 20
# In JSON a byte takes up to six: this, and as much of a health check, fits into one frame.
TAIL_BYTES = 4 * 1024
DETAIL_LENGTH = 1000
FOREIGN_LOOK = 0.25  # seconds between two looks at what is left of an earlier server's run


class Runner:
    """The processes and the log of one application. What comes of an action is posted."""

    __slots__ = (
        "_capture",
        "_check",
        "_log",
        "_main",
        "_name",
        "_post",
        "_watch",
        "_world",
        "health_output",
    )

    def __init__(self, world: World, name: str, post: Callable[[Event], None]) -> None:
        self._world = world
        self._name = name
        self._post = post
        self._main: Identity | None = None
        self._log: LogFile | None = None
        self._capture: Capture | None = None
        self._check: asyncio.Task[None] | None = None
        self._watch: PidWatch | None = None  # of a main process that is not our child
        self.health_output = ""

    # Launch --------------------------------------------------------------------------

    def spawn(self, run: str, definition: Application) -> None:
        """Launch the command as this run, and post what came of it."""
        self.health_output = ""
        try:
            self._refuse_leftovers(run)
            self._main = self._launch(run, definition)
        except (CmappdError, OSError) as error:
            self._post(NotLaunched(run, str(error)[:DETAIL_LENGTH]))
            return
        self._world.forest.plant(run, self._main)
        self._world.reaper.watch(self._main.pid, lambda status: self._ended(run, status))
        self._post(Launched(run, self._main.pid))

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

    def _launch(self, run: str, definition: Application) -> Identity:
        output = self._open_log(definition).writer()
        try:
            return launch(self._spec(run, definition, definition.command, output))
        finally:
            os.close(output)

    def _spec(
        self, run: str, definition: Application, command: tuple[str, ...], output: int
    ) -> Launch:
        account = self._account(definition)
        return Launch(
            command=command,
            directory=definition.directory,
            environment=environment_of(self._name, run, definition.environment, account),
            uid=account.uid if account else None,
            gid=account.gid if account else None,
            groups=account.groups if account else None,
            umask=definition.umask,
            output=output,
        )

    @staticmethod
    def _account(definition: Application) -> users.Account | None:
        return users.account(definition.user, definition.group, definition.supplementary_groups)

    # After another cmappserver -------------------------------------------------------

    def resume(self, run: Run, main: Identity | None, definition: Application) -> None:
        """Take up a run as it was recorded."""
        if main is None:
            self._post(NotLaunched(run.id, "cmappserver ended before it was launched"))
        elif run.status is None:
            self.adopt(run.id, main, definition)
        else:
            self._adopt_rest(run.id, main, definition)

    def adopt(self, run: str, main: Identity, definition: Application) -> None:
        """Take up a run that an earlier cmappserver launched; its end is posted as ever.

        A main process that is gone ended while nobody looked: how, nobody knows.
        """
        members = self._given_back(run)
        self._world.forest.adopt(run, main, members)
        self.resume_log(definition)
        stat = read_stat(main.pid)
        try:
            if stat is not None and stat.identity == main and stat.ppid == os.getpid():
                self._world.reaper.watch(main.pid, lambda status: self._ended(run, status))
            else:
                self._watch = PidWatch(main, lambda status: self._ended(run, status))
            self._main = main
        except OSError:
            self._ended(run, ExitStatus())

    def _adopt_rest(self, run: str, main: Identity, definition: Application) -> None:
        """Take up what is left of a run whose main process had ended before."""
        self._world.forest.adopt(run, main, self._given_back(run))
        self.resume_log(definition)
        self._linger(run)
        asyncio.get_running_loop().call_soon(self._look_again, run)

    def _given_back(self, run: str) -> list[Identity]:
        """The processes that were found of a run, and those known by their output only."""
        runs = self._world.leftovers.pop(self._name, {})
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
        self._look_again(run)

    def destroy(self, run: str) -> None:
        """Send SIGKILL to all of the tree."""
        self._world.forest.signal(run, signal.SIGKILL, whole=True)
        self._look_again(run)

    def survivors(self, run: str) -> tuple[int, ...]:
        """The pids of what is left of the tree."""
        return tuple(one.pid for one in self._world.forest.alive(run))

    def _ended(self, run: str, status: ExitStatus) -> None:
        try:
            empty = self._world.forest.empty(run)
        except OSError:  # of /proc, without a free descriptor: it will be looked at again
            empty = False
        if empty:
            self._over(run)
        else:
            self._linger(run)
        self._post(Exited(run, status, empty))

    def _linger(self, run: str) -> None:
        """Its main process has ended, and the rest of its tree has not."""
        self._world.lingering[run] = lambda: self._look_again(run)
        if self._world.forest.is_foreign(run):
            asyncio.get_running_loop().call_later(FOREIGN_LOOK, self._keep_looking, run)

    def _keep_looking(self, run: str) -> None:
        """Orphans of an earlier cmappserver are not ours to wait for: no signal tells their end."""
        self._look_again(run)
        if run in self._world.lingering:
            asyncio.get_running_loop().call_later(FOREIGN_LOOK, self._keep_looking, run)

    def _look_again(self, run: str) -> None:
        if run in self._world.lingering and self._world.forest.empty(run):
            self._over(run)
            self._post(Gone(run))

    def _over(self, run: str) -> None:
        self._world.lingering.pop(run, None)
        self._world.forest.fell(run)

    # Health --------------------------------------------------------------------------

    def check(self, run: str, definition: Application) -> None:
        """Start a health check; its end is posted."""
        self._check = asyncio.create_task(self._run_check(run, definition))

    async def _run_check(self, run: str, definition: Application) -> None:
        assert definition.health is not None
        health, own = definition.health, f"{run}/health"
        try:
            spec = self._spec(own, definition, health.command, output=-1)
        except LaunchError as error:
            self._post(Checked(run, False, str(error)))
            return
        world = self._world
        result = await probe(spec, own, health.timeout, reaper=world.reaper, forest=world.forest)
        self.health_output = result.output
        self._post(Checked(run, result.passed, result.detail))

    def cancel_check(self) -> None:
        """End the health check that is under way, if any."""
        if self._check is not None:
            self._check.cancel()
            self._check = None

    # Log -----------------------------------------------------------------------------

    def _open_log(self, definition: Application) -> Capture:
        """Raises LaunchError, and ConfigError where the FIFO cannot be made."""
        if self._log is None:
            log = definition.log
            self._log = LogFile(self._log_path(definition), log.max_size, log.backups)
        if self._capture is None:
            fifo = os.path.join(self._world.state_directory, f"{self._name}.fifo")
            account = self._account(definition)
            owner = (account.uid, account.gid) if account is not None else None
            self._capture = Capture(asyncio.get_running_loop(), fifo, self._log, owner)
        return self._capture

    def _log_path(self, definition: Application) -> str:
        if definition.log.path is not None:
            return definition.log.path
        with contextlib.suppress(OSError):  # the file that cannot be opened then says why
            os.makedirs(self._world.log_directory, mode=0o750, exist_ok=True)
        return os.path.join(self._world.log_directory, f"{self._name}.log")

    def resume_log(self, definition: Application) -> None:
        """Read on from the FIFO that an earlier cmappserver has left to running processes."""
        try:
            self._open_log(definition)
        except CmappdError as error:
            self._world.log.error("%s: its log cannot be read on: %s", self._name, error)

    def read_log(self, definition: Application, lines: int, limit: int) -> str:
        """The last lines of the log, also of one that nothing has been written to yet.

        ``limit`` is in bytes. Raises CmappdError.
        """
        self._open_log(definition)
        return self.log_tail(lines, limit)

    def redefine(self, definition: Application) -> None:
        """Use the live keys of a new definition."""
        if self._log is not None:
            log = definition.log
            self._log.reconfigure(self._log_path(definition), log.max_size, log.backups)

    def log_tail(self, lines: int = TAIL_LINES, limit: int = TAIL_BYTES) -> str:
        """The last lines of the application's log, with what is still in the pipe."""
        if self._capture is None or self._log is None:
            return ""
        self._capture.drain()
        return self._log.tail(lines, limit)

    @property
    def log_problem(self) -> str:
        """Why the log is not being written; empty when it is."""
        return (self._log.problem or "") if self._log is not None else ""

    def close(self, remove: bool) -> None:
        """End the supervision; ``remove`` the FIFO, too, unless processes hold it."""
        self.cancel_check()
        if self._watch is not None:
            self._watch.close()
        if self._capture is not None:
            self._capture.close(remove)
        if self._log is not None:
            self._log.close()
