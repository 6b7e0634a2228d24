"""The search for the main process of what a command has left behind when it daemonised."""

import asyncio
from collections.abc import Callable

from cmappd.core.lifecycle import App
from cmappd.system.daemons import main_of, read_pid
from cmappd.system.process import Identity
from cmappd.system.tree import Forest

INTERVAL = 0.05  # seconds between two looks


class Search:
    """Looks for it until it is found, or the search is of no use any more."""

    __slots__ = ("_candidate", "_forest", "_timer", "_told")

    def __init__(self, forest: Forest) -> None:
        self._forest = forest
        self._timer: asyncio.TimerHandle | None = None
        self._candidate: Identity | None = None
        self._told: tuple[str, Identity] | None = None

    def tell(self, run: str, main: Identity) -> None:
        """It says itself, by MAINPID=, which one it is; that is worth more than a look."""
        self._told = run, main

    def begin(
        self,
        run: str,
        pid_file: str | None,
        found: Callable[[Identity], None],
        missed: Callable[[], None],
    ) -> None:
        """Look now and again; ``found`` ends it, and ``missed`` is called at each look in vain."""
        try:
            main = self._look(run, pid_file)
        except OSError:  # of /proc, without a free descriptor
            main = None
        if main is not None:
            self._timer = self._candidate = None
            found(main)
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(INTERVAL, self.begin, run, pid_file, found, missed)
        missed()

    def _look(self, run: str, pid_file: str | None) -> Identity | None:
        members = self._forest.members(run)
        if self._told is not None and self._told[0] == run and self._told[1] in members:
            return self._told[1]
        if pid_file is not None:
            pid = read_pid(pid_file)
            return next((one for one in members if one.pid == pid), None)
        # Of two forks the first is over soon: who is there at two looks, is there to stay.
        before, self._candidate = self._candidate, main_of(members)
        return before if before == self._candidate else None

    def heed(self, app: App) -> None:
        """End it where the application, as it is now, does not look for its main process."""
        if app.run is None or not app.run.searching:
            self.close()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
