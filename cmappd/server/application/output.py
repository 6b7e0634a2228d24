"""What one application writes: the FIFO that it writes into, and the log that this goes to."""

import asyncio
import contextlib
import os
from collections.abc import Callable

from cmappd.core.config import Application
from cmappd.core.config.schema import Log as Settings
from cmappd.errors import CmappdError
from cmappd.server.application.launches import account_of
from cmappd.server.shared.world import World
from cmappd.system.log import spool
from cmappd.system.log.capture import Capture, Log
from cmappd.system.log.file import LogFile
from cmappd.system.log.journal import JournalLog
from cmappd.system.log.linefile import LineFile, as_json, stamped
from cmappd.system.log.null import NullLog
from cmappd.system.log.syslog import SyslogLog

TAIL_LINES = 20
# In JSON a byte takes up to six: this, and as much of a health check, fits into one frame.
TAIL_BYTES = 4 * 1024

Listener = Callable[[bytes], None]


class Output:
    """Opened with the first launch, and kept until the application leaves."""

    __slots__ = (
        "_capture",
        "_left",
        "_listeners",
        "_log",
        "_name",
        "_settings",
        "_told",
        "_unread",
        "_world",
    )

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self._settings = Settings()  # those of the log that is open
        self._log: Log | None = None
        self._capture: Capture | None = None
        self._left: Application | None = None  # what an earlier cmappserver left, until it is read
        self._unread = ""  # why that is not read
        self._listeners: dict[Listener, Callable[[], None]] = {}
        self._told = ""  # the last problem that the log of cmappserver tells of

    @property
    def fifo(self) -> str:
        """The real path of the FIFO."""
        return self._state_file("fifo")

    def _state_file(self, kind: str) -> str:
        return os.path.join(self._world.real_directory, f"{self._name}.{kind}")

    def writer(self, definition: Application, owner: tuple[int, int] | None = None) -> int:
        """A descriptor for the output of one launch, by this user and group if they are not ours;
        the caller closes it.

        Raises CmappdError where the FIFO cannot be made, and OSError.
        """
        return self._open(definition, owner).writer(owner)

    def resume(self, definition: Application) -> None:
        """Read on from the FIFO that an earlier cmappserver has left to running processes; where
        that cannot be, `look` tries it again.
        """
        self._left = definition
        self.look()

    def _read_on(self, definition: Application) -> None:
        try:
            self._open(definition, self._owner(definition))
        except CmappdError as error:
            self._unread = str(error)

    def read(self, definition: Application, lines: int, limit: int) -> str:
        """The last lines of the log, also of one that nothing has been written to yet.

        ``limit`` is in bytes. Raises CmappdError.
        """
        if self._capture is None:
            self._open(definition, self._owner(definition))
        return self.tail(lines, limit)

    def tail(self, lines: int = TAIL_LINES, limit: int = TAIL_BYTES) -> str:
        """The last lines of the log, with what is still in the pipe."""
        if self._capture is None:
            return ""
        self._capture.drain()
        log = self._capture.log
        return log.tail(lines, limit, self._capture.waiting() if log.pause else b"")

    def look(self) -> None:
        """Where the log could not be written, try again: maybe nothing comes that would do so.

        That it cannot be, and that it can again, is told in the log of cmappserver.
        """
        if self._left is not None:
            self._read_on(self._left)
        if self._capture is not None and (self.problem or self.dropped):
            self._capture.drain()
        told, self._told = self._told, self.problem
        log = self._world.log_of(self._name)
        if self._told and not told:
            log.warning("its log cannot be written: %s", self._told)
        elif told and not self._told:
            log.warning("its log is written again; %d lines were lost until now", self.dropped)

    @property
    def elsewhere(self) -> str:
        """Where people read the log, if it is not in a file; empty if it is."""
        return self._log.elsewhere if self._log is not None else ""

    def finish(self) -> None:
        """Nothing is left of those who wrote: the last line ends here."""
        if self._capture is not None:
            self._capture.drain()
            self._capture.log.finish()

    def reopen(self) -> str:
        """Open the log anew, with all in the old one that was written until now; the problem."""
        if self._capture is None or self._log is None:
            return ""
        self._capture.drain()
        self._log.reopen()
        return "" if self._log.elsewhere else self._log.problem or ""

    # Followers -----------------------------------------------------------------------

    def follow(self, listener: Listener, ended: Callable[[], None]) -> None:
        """Have somebody told of all that is written from now on, and of the end of that."""
        self._listeners[listener] = ended
        self._connect_listeners()

    def unfollow(self, listener: Listener) -> None:
        """Somebody has heard enough."""
        self._listeners.pop(listener, None)
        self._connect_listeners()

    def _connect_listeners(self) -> None:
        if self._log is not None:
            self._log.listener = self._spread if self._listeners else None

    def _spread(self, data: bytes) -> None:
        for listener in tuple(self._listeners):
            listener(data)

    # The log itself ------------------------------------------------------------------

    def redefine(self, definition: Application) -> None:
        """Use the live keys of a new definition. What was written until now goes to the old log."""
        if self._log is None or definition.log == self._settings:
            return
        if self._capture is not None:
            self._capture.drain()
        before, self._settings = self._settings, definition.log
        if isinstance(self._log, LogFile | LineFile) and _kind(before) == _kind(definition.log):
            log = definition.log
            self._log.reconfigure(self._path(log), log.max_size, log.backups)
            return
        self._log.finish()
        self._close(self._log)
        self._log = self._make(definition.log)
        self._connect_listeners()
        if self._capture is not None:
            self._capture.log = self._log
            self._capture.drain()

    @property
    def problem(self) -> str:
        """Why the log is not being written; empty when it is."""
        return self._unread or ((self._log.problem or "") if self._log is not None else "")

    @property
    def dropped(self) -> int:
        """Lines that could not be written since the log was opened."""
        return self._log.dropped if self._log is not None else 0

    def hold(self) -> list[int]:
        """The FIFO, opened once more: what is in it is lost when nobody has it open."""
        with contextlib.suppress(OSError):
            if self._capture is not None:
                return [os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)]
        return []

    def close(self, remove: bool) -> None:
        """End it; ``remove`` the FIFO, too, unless processes hold it."""
        if self._capture is not None:
            self._capture.close(remove)
        if self._log is not None:
            if remove:
                self._log.finish()
            self._close(self._log)
        if not self._world.ending:
            for ended in tuple(self._listeners.values()):
                ended()

    def _close(self, log: Log) -> None:
        log.close()
        if log.untold:
            self._world.log_of(self._name).warning("its log could not tell that %s", log.untold)

    def _owner(self, definition: Application) -> tuple[int, int] | None:
        """Whose the FIFO is; or is to be, where there is none. Raises LaunchError.

        Not the definition tells whose it is: that may have changed since the launch.
        """
        try:
            found = os.lstat(self.fifo)
        except OSError:
            account = account_of(definition)
            return None if account is None else (account.uid, account.gid)
        return found.st_uid, found.st_gid

    def _open(self, definition: Application, owner: tuple[int, int] | None) -> Capture:
        if self._log is None:
            self._settings = definition.log
            self._log = self._make(definition.log)
        if self._capture is None:
            self._capture = Capture(asyncio.get_running_loop(), self.fifo, self._log, owner)
            self._left, self._unread = None, ""
        return self._capture

    def _make(self, settings: Settings) -> Log:
        spooled = self._state_file("spool")
        if settings.destination == "syslog":
            return SyslogLog(self._name, spooled)
        if settings.destination == "file" and settings.format != "raw":
            form = stamped if settings.format == "timestamps" else as_json(self._name)
            return LineFile(self._file(settings), settings.max_size, spooled, form)
        log = self._plain(settings)
        # A log in lines was here before, and has not written all of them.
        if left := spool.rescue(spooled):
            log.write(left)
        return log

    def _plain(self, settings: Settings) -> Log:
        if settings.destination == "journal":
            return JournalLog(self._name)
        return NullLog() if settings.destination == "none" else self._file(settings)

    def _file(self, settings: Settings) -> LogFile:
        return LogFile(self._path(settings), settings.max_size, settings.backups)

    def _path(self, settings: Settings) -> str:
        if settings.path is not None:
            return settings.path
        with contextlib.suppress(OSError):  # the file that cannot be opened then says why
            os.makedirs(self._world.log_directory, mode=0o750, exist_ok=True)
        return os.path.join(self._world.log_directory, f"{self._name}.log")


def _kind(settings: Settings) -> tuple[str, str]:
    """What cannot be changed of an open log."""
    return settings.destination, settings.format
