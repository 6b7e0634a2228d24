"""The cgroup of an application's live run, with its limits; without limits it may have none."""

import contextlib
from functools import partial

from cmappd.core.config import Application
from cmappd.core.events import OomKilled
from cmappd.core.lifecycle import App, Run
from cmappd.core.lifecycle.app import CHECKED_PHASES
from cmappd.core.state import Part
from cmappd.errors import CmappdError, ConfigError, LaunchError
from cmappd.server.shared.world import World
from cmappd.system.cgroup import Cgroup, Resources
from cmappd.system.process import Identity, Launch, held, launch

# A process with much memory takes its time to die: for so many seconds, who was killed is open.
GRACE = 10.0
_UNCOUNTED = "what it had in memory before is not counted"


class Confinement:
    """Made with the first launch of a run, and removed when nothing is left of it.

    ``problem`` is why the limits in force are not those of the definition, for the status.
    """

    __slots__ = (
        "_asked",
        "_before",
        "_cgroup",
        "_counts",
        "_name",
        "_noticed",
        "_run",
        "_world",
        "problem",
    )

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self._run = ""
        self._asked = Resources()  # the limits of the definition
        self._cgroup: Cgroup | None = None
        self._counts = False  # whether the kernel counts its kills for memory
        self._before = 0  # kills that were counted, and that the cgroup has forgotten
        self._noticed: tuple[int, float] | None = None  # kills not told of yet, and since when
        self.problem = ""

    def launch(self, run: str, part: Part, spec: Launch, definition: Application) -> Identity:
        """Launch a command of this run inside. Raises LaunchError, also where limits cannot be.

        What daemonises may do so before it can be put there, and what is limited shall be from
        its first byte on: both are held back until then. Of others the first processes are moved,
        too, also those that have lost their parents by then: they are the only orphans of ours
        that are young and in no cgroup of a run, as whoever forks in one stays in it.
        """
        # What asks it to end is in there, too, and is launched whether there are limits or not.
        resources = Resources() if part is Part.STOP else resources_of(definition)
        limited = resources != Resources()
        self._make(run, resources)
        stays = part is Part.MAIN and definition.type == "simple" and not limited
        try:
            if stays or self._cgroup is None:
                process = launch(spec)
                self._put(process, limited)
            else:
                with held(spec) as process:
                    self._put(process, limited)
        except LaunchError:
            self.remove(run)
            raise
        return process

    def resume(self, run: Run, definition: Application) -> None:
        """Take over the cgroup that an earlier cmappserver has made for this run, as far as it
        has made one, and limit it anew.
        """
        self._begin(run.id)
        self._cgroup = self._world.cgroups.pop(run.id, None)
        self.redefine(definition)
        self._look_for_count()
        self._before = run.oom_kills if self.oom_kills < run.oom_kills else 0

    def __bool__(self) -> bool:
        return self._cgroup is not None

    # Limits --------------------------------------------------------------------------

    def redefine(self, definition: Application) -> None:
        """Put changed limits in force for the live run, as far as can be; ``problem`` tells."""
        resources = resources_of(definition)
        if resources == self._asked:
            return
        self._asked = resources
        self.problem = self._limit_live(resources)
        if self.problem:
            self._world.log_of(self._name).warning("resources: %s", self.problem)

    def _limit_live(self, resources: Resources) -> str:
        if self._cgroup is None:
            return "" if resources == Resources() else f"not in force: {self._why_none()}"
        used = self._cgroup.memory()
        if resources.memory is not None and used is not None and used > resources.memory:
            return f"not in force: it has {used} bytes in memory, more than the limit"
        try:
            self._limit(self._cgroup, resources)
        except CmappdError as error:
            return f"not in force: {error}"
        self._look_for_count()
        return _UNCOUNTED if resources.memory is not None and used is None else ""

    def _limit(self, cgroup: Cgroup, resources: Resources) -> None:
        hierarchy = self._world.hierarchy
        if hierarchy is not None and resources.controllers():
            hierarchy.enable(resources)
        cgroup.limit(resources)

    def _why_none(self) -> str:
        return self._world.no_cgroups or "its run began without a cgroup"

    def _look_for_count(self) -> None:
        self._counts = self._cgroup is not None and self._cgroup.oom_kills() is not None

    # Kills for memory ----------------------------------------------------------------

    @property
    def oom_kills(self) -> int:
        """How many processes of the run the kernel has killed for memory, as far as is known."""
        now = self._cgroup.oom_kills() if self._cgroup is not None and self._counts else None
        return self._before + (now or 0)

    def lost(self, app: App, now: float) -> OomKilled | None:
        """The news of kills, once it is clear that the main process has outlived them."""
        if not self._counts or app.run is None or app.phase not in CHECKED_PHASES:
            return None
        kills = self.oom_kills
        if kills <= app.run.oom_kills:
            self._noticed = None
        elif self._noticed is None or self._noticed[0] != kills:
            self._noticed = kills, now
        elif now - self._noticed[1] >= GRACE:
            return OomKilled(app.run.id, kills)
        return None

    # The end -------------------------------------------------------------------------

    def kill(self, run: str) -> None:
        """SIGKILL to all of the run that is inside."""
        cgroup = self._of(run)
        if cgroup is not None:
            with contextlib.suppress(OSError):  # one by one, then
                cgroup.kill()

    def empty(self, run: str) -> bool:
        """Whether nobody of the run is inside, zombies not counted."""
        cgroup = self._of(run)
        return cgroup is None or cgroup.empty()

    def remove(self, run: str) -> None:
        """Remove it; what is still in use goes with a later look of the hierarchy's."""
        cgroup, before = self._of(run), self.oom_kills
        if cgroup is not None and cgroup.remove():
            self._cgroup, self._before, self.problem = None, before, ""

    def _of(self, run: str) -> Cgroup | None:
        """That of this run: of one that is over some may ask when the next one has its own."""
        return self._cgroup if run == self._run else None

    # The launch ----------------------------------------------------------------------

    def _begin(self, run: str) -> None:
        """A run has a cgroup of its own, also where that of the one before would not go."""
        self._run, self._cgroup, self._noticed = run, None, None
        self._asked = Resources()
        self._counts, self._before, self.problem = False, 0, ""

    def _make(self, run: str, resources: Resources) -> None:
        if self._run != run:
            self._begin(run)
        if self._cgroup is not None:
            return
        limited, self._asked = resources != Resources(), resources
        try:
            if self._world.hierarchy is not None:
                self._cgroup = self._world.hierarchy.create(run)
                if limited:
                    self._limit(self._cgroup, resources)
            elif limited:
                raise ConfigError(f"its resources cannot be limited: {self._why_none()}")
        except CmappdError as error:
            self.remove(run)
            if limited:
                raise LaunchError(str(error)) from error
            self._world.log_of(self._name).warning("%s", error)
        self._look_for_count()

    def _put(self, process: Identity, limited: bool) -> None:
        try:
            if self._cgroup is not None:
                waifs = partial(self._world.forest.waifs, self._run, process.start)
                self._cgroup.add_tree(process.pid, waifs)
        except (CmappdError, OSError) as error:
            if limited:  # it never gets through the gate
                raise LaunchError(f"its resources cannot be limited: {error}") from error
            self._world.log_of(self._name).warning("not in its cgroup: %s", error)


def resources_of(definition: Application) -> Resources:
    """The limits of an application, for the kernel."""
    return Resources(**definition.resources.model_dump())
