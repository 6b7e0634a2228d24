"""The cgroup of an application's live run, where it can have one; without it, all is as it is."""

import contextlib

from cmappd.errors import CmappdError
from cmappd.server.world import World
from cmappd.system.cgroup import Cgroup
from cmappd.system.process import Identity, Launch, held, launch


class Confinement:
    """Made with the first launch of a run, and removed when nothing is left of it."""

    __slots__ = ("_cgroup", "_name", "_world")

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self._cgroup: Cgroup | None = None

    def launch(self, run: str, spec: Launch, hold: bool) -> Identity:
        """Launch a command of this run inside. Raises LaunchError.

        What daemonises may do so before it can be put there: ``hold`` it back until then. Of
        others the first processes are found below their main process.
        """
        self._make(run)
        if not hold or self._cgroup is None:
            process = launch(spec)
            self._put(process)
            return process
        with held(spec) as process:
            self._put(process)
        return process

    def resume(self, run: str) -> None:
        """Take over the cgroup that an earlier cmappserver has made for this run."""
        self._cgroup = self._world.cgroups.pop(run, None)

    def __bool__(self) -> bool:
        return self._cgroup is not None

    def kill(self) -> None:
        """SIGKILL to all that is inside."""
        if self._cgroup is not None:
            with contextlib.suppress(OSError):  # one by one, then
                self._cgroup.kill()

    @property
    def empty(self) -> bool:
        """Whether nobody is inside, zombies not counted."""
        return self._cgroup is None or self._cgroup.empty()

    def remove(self) -> None:
        """Remove it; what is still in use stays until the next time."""
        if self._cgroup is not None and self._cgroup.remove():
            self._cgroup = None

    def _make(self, run: str) -> None:
        if self._cgroup is None and self._world.hierarchy is not None:
            try:
                self._cgroup = self._world.hierarchy.create(run)
            except CmappdError as error:
                self._world.log.warning("%s: %s", self._name, error)

    def _put(self, process: Identity) -> None:
        try:
            if self._cgroup is not None:
                self._cgroup.add_tree(process.pid)
        except (CmappdError, OSError) as error:
            self._world.log.warning("%s: not in its cgroup: %s", self._name, error)
