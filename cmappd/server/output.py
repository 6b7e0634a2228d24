"""What one application writes: the FIFO that it writes into, and the log that this goes to."""

import asyncio
import contextlib
import os

from cmappd.core.config import Application
from cmappd.errors import CmappdError
from cmappd.server.launches import account_of
from cmappd.server.world import World
from cmappd.system.capture import Capture
from cmappd.system.logfile import LogFile

TAIL_LINES = 20
# In JSON a byte takes up to six: this, and as much of a health check, fits into one frame.
TAIL_BYTES = 4 * 1024


class Output:
    """Opened with the first launch, and kept until the application leaves."""

    __slots__ = ("_capture", "_log", "_name", "_world")

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self._log: LogFile | None = None
        self._capture: Capture | None = None

    @property
    def fifo(self) -> str:
        """The real path of the FIFO."""
        folder = os.path.realpath(self._world.state_directory)
        return os.path.join(folder, f"{self._name}.fifo")

    def writer(self, definition: Application) -> int:
        """A descriptor for the output of one launch; the caller closes it.

        Raises CmappdError where the FIFO cannot be made, and OSError.
        """
        return self._open(definition).writer()

    def resume(self, definition: Application) -> None:
        """Read on from the FIFO that an earlier cmappserver has left to running processes."""
        try:
            self._open(definition)
        except CmappdError as error:
            self._world.log.error("%s: its log cannot be read on: %s", self._name, error)

    def read(self, definition: Application, lines: int, limit: int) -> str:
        """The last lines of the log, also of one that nothing has been written to yet.

        ``limit`` is in bytes. Raises CmappdError.
        """
        self._open(definition)
        return self.tail(lines, limit)

    def tail(self, lines: int = TAIL_LINES, limit: int = TAIL_BYTES) -> str:
        """The last lines of the log, with what is still in the pipe."""
        if self._capture is None or self._log is None:
            return ""
        self._capture.drain()
        return self._log.tail(lines, limit)

    def redefine(self, definition: Application) -> None:
        """Use the live keys of a new definition."""
        if self._log is not None:
            log = definition.log
            self._log.reconfigure(self._path(definition), log.max_size, log.backups)

    @property
    def problem(self) -> str:
        """Why the log is not being written; empty when it is."""
        return (self._log.problem or "") if self._log is not None else ""

    def close(self, remove: bool) -> None:
        """End it; ``remove`` the FIFO, too, unless processes hold it."""
        if self._capture is not None:
            self._capture.close(remove)
        if self._log is not None:
            self._log.close()

    def _open(self, definition: Application) -> Capture:
        if self._log is None:
            log = definition.log
            self._log = LogFile(self._path(definition), log.max_size, log.backups)
        if self._capture is None:
            account = account_of(definition)
            owner = (account.uid, account.gid) if account is not None else None
            self._capture = Capture(asyncio.get_running_loop(), self.fifo, self._log, owner)
        return self._capture

    def _path(self, definition: Application) -> str:
        if definition.log.path is not None:
            return definition.log.path
        with contextlib.suppress(OSError):  # the file that cannot be opened then says why
            os.makedirs(self._world.log_directory, mode=0o750, exist_ok=True)
        return os.path.join(self._world.log_directory, f"{self._name}.log")
