"""What all applications of one cmappserver share."""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from cmappd.server.shared.dependencies import Dependencies
from cmappd.server.shared.leftovers import Leftovers
from cmappd.server.shared.log import AppLog
from cmappd.server.shared.maintenance import Maintenances
from cmappd.server.shared.store import Store
from cmappd.system.cgroup import Cgroup
from cmappd.system.handover import Handover
from cmappd.system.hierarchy import Hierarchy
from cmappd.system.reaper import Reaper
from cmappd.system.tree import Forest

TOLD_TO_END = "cmappserver has been told to end"


@dataclass(slots=True)
class World:
    """The ground the applications stand on. Paths are directories that exist."""

    guest: str
    boot_id: str
    epoch: str
    state_directory: str
    log_directory: str
    forest: Forest
    store: Store
    maintenances: Maintenances
    hierarchy: Hierarchy | None  # of the runs' cgroups, where they can be had
    no_cgroups: str  # why not
    log: logging.Logger
    dependencies: Dependencies = field(default_factory=Dependencies)
    # What an earlier cmappserver left running, and no application has been given back.
    leftovers: Leftovers = field(default_factory=dict)
    # What is wrong with the records of applications that were put aside.
    refused: dict[str, str] = field(default_factory=dict)
    # The cgroups in use that an earlier cmappserver has made, by their trees. Runs take theirs from
    # here; those of trees beside them stay, and are found by their paths.
    cgroups: dict[str, Cgroup] = field(default_factory=dict)
    # Trees, of runs and of stop.after, of which the command has ended and the rest has not: whom to
    # tell of an orphan's end.
    lingering: dict[str, Callable[[], None]] = field(default_factory=dict)
    # Whose turn it is to launch a health check.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    # The open sockets of the program that was in our place, until they are taken.
    given: Handover = field(default_factory=lambda: Handover({}))
    ending: str = ""  # why nothing is started any more: cmappserver ends, or is replaced
    # The state directory as the kernel names it, where it tells what a process has open.
    real_directory: str = field(init=False)
    reaper: Reaper = field(init=False)

    def __post_init__(self) -> None:
        self.real_directory = os.path.realpath(self.state_directory)
        self.reaper = Reaper(self._orphan_ended)

    def log_of(self, app: str) -> AppLog:
        """The log for a line about an application."""
        return AppLog(self.log, app)

    def _orphan_ended(self, _pid: int) -> None:
        # The last member to end of a tree that we have launched is always a child of ours, because
        # its parents have ended before it. For other trees the deathwatch polls.
        for tell in tuple(self.lingering.values()):
            tell()
