"""Notices the end of commands and of their process trees, for one application.

The end of a child is told by the reaper, that of another process by a pidfd: one that an earlier
cmappserver has launched, or that another has handed over to. Whether anybody is left of the tree is
asked then, after a signal, and again whenever an orphan of ours has ended. What nothing tells us of
is looked at from time to time: orphans that are not ours, and who is in a cgroup only.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from cmappd.core.events import Event, Exited, Gone
from cmappd.core.state import ExitStatus, Part
from cmappd.core.wording import status_text
from cmappd.server.application.confinement import Confinement
from cmappd.server.application.sidetrees import SideTrees, health_tree, tree_of
from cmappd.server.shared.world import World
from cmappd.system.pidwatch import PidWatch
from cmappd.system.proc import read_stat
from cmappd.system.process import Identity

LOOK = 0.25  # seconds between two looks at what nothing tells us of


class Deathwatch:
    """Posts Exited when a command has ended, and Gone when nothing is left of its tree."""

    __slots__ = (
        "_beside",
        "_confinement",
        "_hear",
        "_main",
        "_name",
        "_pidwatches",
        "_post",
        "_world",
    )

    def __init__(
        self,
        world: World,
        name: str,
        confinement: Confinement,
        beside: SideTrees,
        post: Callable[[Event], None],
        hear: Callable[[], None],
    ) -> None:
        """``hear`` has heard, when it returns, what a process has said before its end."""
        self._world = world
        self._name = name
        self._confinement = confinement
        self._beside = beside
        self._post = post
        self._hear = hear
        self._main: Identity | None = None  # whose end is that of the command, as a part
        self._pidwatches: dict[Part, PidWatch] = {}  # of processes that are not our children

    def watch_child(self, run: str, part: Part, process: Identity) -> None:
        """Have the end of a child of ours posted."""
        self._main = process if part is Part.MAIN else self._main
        if not self._world.reaper.watches(process.pid):  # it was the main process before, too
            ended = partial(self._process_ended, run, part, process)
            self._world.reaper.watch(process.pid, ended)

    def watch(self, run: str, part: Part, process: Identity) -> None:
        """Have the end of any process posted; one that is gone has ended, and how, nobody knows."""
        self._main = process if part is Part.MAIN else self._main
        if part in self._pidwatches:  # of who was it before
            self._pidwatches.pop(part).close()
        if is_our_child(process):
            self.watch_child(run, part, process)
            return
        try:
            watch = PidWatch(process, partial(self._process_ended, run, part, process))
        except ProcessLookupError:
            self.ended(run, part, ExitStatus())
        except OSError:  # no free descriptor
            loop = asyncio.get_running_loop()
            loop.call_later(LOOK, self._try_again, run, part, process)
        else:
            self._pidwatches[part] = watch

    def _try_again(self, run: str, part: Part, process: Identity) -> None:
        if part is not Part.MAIN or process == self._main:  # it has not handed over since
            self.watch(run, part, process)

    def _process_ended(self, run: str, part: Part, process: Identity, status: ExitStatus) -> None:
        self._hear()
        if part is not Part.MAIN or process == self._main:
            self.ended(run, part, status)
            return
        # It had handed over to another one, which may have become our child by this.
        if self._main is not None and is_our_child(self._main):
            self.watch(run, part, self._main)

    def ended(self, run: str, part: Part, status: ExitStatus) -> None:
        """Post that a command has ended, and whether anybody is left of its tree."""
        if part in (Part.STOP, Part.AFTER) and status.code != 0:
            text = status_text(status) or "an unknown status"
            self._world.log_of(self._name).warning("%s ended with %s", part, text)
        kills = self._confinement.oom_kills  # before the cgroup goes
        empty = self.is_gone(run, part)
        if empty:
            self._over(run, part)
        else:
            self.linger(run, part)
        self._post(Exited(run, status, empty, part, kills))

    def linger(self, run: str, part: Part) -> None:
        """A command has ended, and the rest of the tree has not: have the end of that posted."""
        tree = tree_of(run, part)
        self._world.lingering[tree] = lambda: self.look_again(run, part)
        if self._is_untold(tree):
            asyncio.get_running_loop().call_later(LOOK, self._keep_looking, run, part)

    def _keep_looking(self, run: str, part: Part) -> None:
        self.look_again(run, part)
        tree = tree_of(run, part)
        if tree in self._world.lingering and self._is_untold(tree):
            asyncio.get_running_loop().call_later(LOOK, self._keep_looking, run, part)

    def _is_untold(self, tree: str) -> bool:
        """Whether no signal tells of the end of what is left: orphans of an earlier cmappserver
        are not ours to wait for, nor is who is in a cgroup only. In doubt it is.
        """
        forest = self._world.forest
        try:
            return forest.is_foreign(tree) or forest.empty(tree)
        except OSError:
            return True

    def look_again(self, run: str, part: Part) -> None:
        """Look whether anybody is left of a tree whose command has ended."""
        if tree_of(run, part) in self._world.lingering:
            self._settle(run, part)

    def settle_or_linger(self, run: str) -> None:
        """Look whether anybody is left of the run, after a signal to it."""
        if self._settle(run, Part.MAIN) or run in self._world.lingering:
            return
        # A oneshot, which has ended before: nothing tells of its end but looking.
        if self._is_untold(run):
            self.linger(run, Part.MAIN)

    def _settle(self, run: str, part: Part) -> bool:
        """Post that nothing is left, where that is so."""
        if not self.is_gone(run, part):
            return False
        self._over(run, part)
        self._post(Gone(run, part))
        return True

    def confirmed(self, event: Exited) -> Exited:
        """The same as it is now: a health check may have been launched since it was posted."""
        if not event.empty or self.is_gone(event.run, event.part):
            return event
        self.linger(event.run, event.part)
        return replace(event, empty=False)

    def is_gone(self, run: str, part: Part) -> bool:
        """Whether nothing is left of a tree, as far as can be seen; also after that was posted,
        as another command may have been launched since.
        """
        try:
            return self._is_empty(run, part)
        except OSError:  # of /proc, without a free descriptor: it will be looked at again
            return False

    def _is_empty(self, run: str, part: Part) -> bool:
        """Whether nobody is left, by both accounts: a process can be moved out of a cgroup. A
        health check that is being killed is somebody.
        """
        if part is Part.AFTER:
            return self._beside.empty(tree_of(run, part))
        alone = self._world.forest.empty(run) and self._confinement.empty(run)
        return alone and self._beside.empty(health_tree(run))

    def _over(self, run: str, part: Part) -> None:
        self._world.lingering.pop(tree_of(run, part), None)
        if part is Part.AFTER:
            self._beside.remove(tree_of(run, part))
            return
        self._world.forest.fell(run)
        self._confinement.remove(run)
        self._beside.remove(health_tree(run))

    def close(self) -> None:
        """Watch no more."""
        for watch in self._pidwatches.values():
            watch.close()


def is_our_child(process: Identity) -> bool:
    """Whether we are told of its end, and how it ended, be it over already.

    Not where that cannot be seen: a pidfd tells of a child's end as well.
    """
    try:
        stat = read_stat(process.pid)
    except OSError:
        return False
    return stat is not None and stat.identity == process and stat.ppid == os.getpid()
