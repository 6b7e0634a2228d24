"""Which applications are under maintenance: kept where it lasts, for a reboot may be part of it.

There is a small file for each of them. Within a boot its end is an instant of the monotonic clock,
which no setting of the time moves. Across a reboot only the wall clock has run on, so the file has
the end by that, too: put right when somebody sets the clock, and never believed to be further
away than when it was written down.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec
from msgspec.structs import replace

from cmappd.core.events import Maintain, MaintenanceOver
from cmappd.core.lifecycle import App
from cmappd.core.messages import MAX_MAINTENANCE
from cmappd.core.messages import Maintain as AskMaintain
from cmappd.core.state import Maintenance
from cmappd.core.units import format_duration
from cmappd.errors import CmappdError
from cmappd.system import files
from cmappd.system.trust import private_directory

SUFFIX = ".json"
REFUSED = ".refused"
MAX_REASON = 200  # characters
CLOCK_SET = 2.0  # seconds by which the wall clock must be off to count as set


class Entry(msgspec.Struct, frozen=True):
    """What a file says. ``over`` and ``noted``, when it was written, are wall times."""

    name: str
    boot_id: str
    maintenance: Maintenance
    over: float
    noted: float

    @property
    def left(self) -> float:
        """Seconds that it had before it when it was written."""
        return self.over - self.noted


class Maintenances:
    """The applications under maintenance, in the files of a directory of their own."""

    def __init__(
        self,
        directory: str,
        boot_id: str,
        complain: Callable[[str], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Reads what there is below ``directory``; that is made when it is needed. Never fails."""
        self._wall = wall
        self._directory = os.path.join(directory, "maintenance")
        self._boot_id = boot_id
        self._complain = complain
        self._entries: dict[str, Entry] = {}
        for path in self._paths():
            self._take_over(path)
        self.tidy()

    def find(self, app: str) -> Maintenance | None:
        """The maintenance of an application, if it is not over."""
        entry = self._entries.get(app)
        if entry is None or entry.maintenance.until <= time.monotonic():
            return None
        return entry.maintenance

    def begin(self, app: str, maintenance: Maintenance) -> None:
        """Keep it. Raises CmappdError where that cannot be, and nothing has changed then."""
        try:
            private_directory(self._directory)
            self._write(app, maintenance)
        except OSError as error:
            raise CmappdError(f"cannot write below {self._directory}: {error.strerror}") from error

    def end(self, app: str) -> None:
        """Forget it. Raises CmappdError where its file would outlast it, and it goes on then."""
        if app in self._entries:
            try:
                with suppress(FileNotFoundError):
                    os.unlink(self._path(app))
            except OSError as error:
                text = f"cannot remove {self._path(app)}: {error.strerror}"
                raise CmappdError(text) from error
            del self._entries[app]

    def tidy(self) -> None:
        """Remove what is over, and write anew what was kept by a clock that was set since."""
        shift = self._wall() - time.monotonic()
        for app, entry in tuple(self._entries.items()):
            with suppress(OSError, CmappdError):  # the next time will do
                if self.find(app) is None:
                    self.end(app)
                elif abs(entry.maintenance.until + shift - entry.over) > CLOCK_SET:
                    self._write(app, entry.maintenance)

    def _paths(self) -> list[str]:
        try:
            names = sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return []
        except OSError as error:
            self._complain(f"cannot read {self._directory}: {error.strerror}")
            return []
        return [self._path(name.removesuffix(SUFFIX)) for name in names if name.endswith(SUFFIX)]

    def _take_over(self, path: str) -> None:
        """What an earlier cmappserver has kept, perhaps before a reboot."""
        try:
            with open(path, "rb") as file:
                entry = msgspec.json.decode(file.read(), type=Entry)
            if self._path(entry.name) != path:
                raise ValueError(f"it speaks of '{entry.name}'")
            self._go_on(entry)
        except OSError as error:
            self._complain(f"cannot keep the maintenance of {path}: {error.strerror}")
        except ValueError as error:  # msgspec's are, and Unicode's
            aside = path + REFUSED
            with suppress(OSError):
                os.rename(path, aside)
            self._complain(f"a maintenance is put aside as {aside}: it is damaged: {error}")

    def _go_on(self, entry: Entry) -> None:
        """Count the rest of it by the monotonic clock of this boot."""
        self._entries[entry.name] = entry
        if entry.boot_id != self._boot_id:
            left = min(entry.over - self._wall(), entry.left)
            maintenance = replace(entry.maintenance, until=time.monotonic() + left)
            self._entries[entry.name] = replace(entry, maintenance=maintenance)
            self._write(entry.name, maintenance)

    def _write(self, app: str, maintenance: Maintenance) -> None:
        noted = self._wall()
        over = noted + maintenance.until - time.monotonic()
        entry = Entry(app, self._boot_id, maintenance, over, noted)
        files.write_atomic(self._path(app), msgspec.json.encode(entry))
        self._entries[app] = entry

    def _path(self, app: str) -> str:
        return os.path.join(self._directory, app + SUFFIX)


def announced(
    maintenances: Maintenances, app: App, asked: AskMaintain, by: str
) -> tuple[Maintain | MaintenanceOver | None, str]:
    """Keep what the administrator says: the event for the lifecycle, and the answer.

    Raises CmappdError where that cannot be.
    """
    name = app.name
    if not 0 <= asked.seconds <= MAX_MAINTENANCE:
        raise CmappdError(f"maintenance is for at most {format_duration(MAX_MAINTENANCE)}")
    if len(asked.reason) > MAX_REASON or not asked.reason.isprintable():
        raise CmappdError(
            f"a reason has no control characters, and at most {MAX_REASON} characters"
        )
    if asked.seconds > 0:
        until = time.monotonic() + asked.seconds
        maintenance = Maintenance(until, by, time.time(), asked.reason)
        maintenances.begin(name, maintenance)
        left = format_duration(asked.seconds)
        return Maintain(maintenance), f"{name} is under maintenance for {left}"
    maintenances.end(name)
    if app.maintenance is None:
        return None, f"{name} is not under maintenance"
    return MaintenanceOver(), f"maintenance of {name} is over"
