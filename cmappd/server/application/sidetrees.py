"""The process trees beside that of a run: of its health checks, and of stop.after.

What they launch is not the run's own, and belongs to the application all the same. So each tree has
a cgroup of its own, where there are any, beside that of the run: the limits of the run and what is
counted there are not theirs. The one of the health checks is kept from one check to the next.
"""

import contextlib
import signal
from functools import partial

from cmappd.core.state import Part
from cmappd.errors import CmappdError
from cmappd.server.shared.world import World
from cmappd.system.cgroup import Cgroup
from cmappd.system.process import Identity, Launch, held, launch


def tree_of(run: str, part: Part) -> str:
    """The tree, and the mark, of a command: stop.after runs when the run's own tree is gone."""
    return f"{run}/after" if part is Part.AFTER else run


def health_tree(run: str) -> str:
    """The tree, and the mark, of a health check."""
    return f"{run}/health"


class SideTrees:
    """Launches, kills and counts what is beside the runs of one application.

    Nothing is kept here of a tree, so those that an earlier cmappserver has left are known, too.
    """

    __slots__ = ("_name", "_warned", "_world")

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self._warned = False  # that the last one is in no cgroup

    def launch(self, tree: str, spec: Launch, *, gated: bool = False) -> Identity:
        """Begin a tree, in which nobody is. Raises LaunchError, and OSError.

        What it forks before it is moved is moved with it, and with a gate it forks nothing before:
        see `Confinement.launch`. A gate costs a shell, which is much for each check.
        """
        cgroup = self._make(tree)
        if cgroup is None:
            process = launch(spec)
        elif gated:
            with held(spec) as process:
                self._put(tree, cgroup, process)
        else:
            process = launch(spec)
            self._put(tree, cgroup, process)
        self._world.forest.plant(tree, process)
        return process

    def _make(self, tree: str) -> Cgroup | None:
        if self._world.hierarchy is None:
            return None
        try:
            return self._world.hierarchy.ensure(tree)
        except CmappdError as error:
            self._warn(error)
            return None

    def _put(self, tree: str, cgroup: Cgroup, process: Identity) -> None:
        try:
            cgroup.add_tree(process.pid, partial(self._world.forest.waifs, tree, process.start))
            self._warned = False
        except (CmappdError, OSError) as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            log = self._world.log_of(self._name)
            log.warning("a command beside the run is not in a cgroup: %s", error)

    def empty(self, tree: str) -> bool:
        """Whether nobody is left of it, by both accounts. Raises OSError."""
        cgroup = self._cgroup(tree)
        return self._world.forest.empty(tree) and (cgroup is None or cgroup.empty())

    def kill(self, tree: str) -> None:
        """SIGKILL to all of it; they still take a moment to die. Raises OSError."""
        cgroup = self._cgroup(tree)
        if cgroup is not None:
            with contextlib.suppress(OSError):  # one by one, then
                cgroup.kill()
        self._world.forest.signal(tree, signal.SIGKILL, whole=True)

    def fell(self, tree: str) -> None:
        """Nobody is left of it; its cgroup is kept for the next one."""
        self._world.forest.fell(tree)

    def remove(self, tree: str) -> None:
        """Nobody is left of it, and there will be no next one."""
        self._world.forest.fell(tree)
        cgroup = self._cgroup(tree)
        if cgroup is not None:
            cgroup.remove()

    def _cgroup(self, tree: str) -> Cgroup | None:
        """Where it is, if it has been made."""
        hierarchy = self._world.hierarchy
        return None if hierarchy is None else hierarchy.find(tree)
