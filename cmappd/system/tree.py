"""The process trees of runs: who belongs to which run, and is anybody left.

By what a process is known to belong to a run is told in `attribution`.

Nothing is polled. The last member of a tree is always our direct child, so its end gives a
SIGCHLD, and that is the moment to ask `Forest.empty` again.

A run that was adopted, because an earlier cmappserver launched it, has its orphans at the reaper
which its main process itself was handed to; they are looked for there, and their end gives no
SIGCHLD.
"""

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from cmappd.errors import CmappdError
from cmappd.system.attribution import Attribution
from cmappd.system.proc import (
    Identity,
    Snapshot,
    children,
    environment,
    exists,
    own_children,
    read_stat,
    snapshot,
)
from cmappd.system.process import send

_INIT = 1
_LOOKS = 2  # at a foreign tree, as a snapshot may miss a process that is handing over to a child
_PASSES = 64  # of a SIGKILL; a fork storm is over in a few
_WITHOUT_CONT = frozenset(
    {signal.SIGKILL, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
)

Census = dict[str, list[Identity]]


@dataclass(slots=True)
class _Tree:
    main: Identity
    reaper: int  # who gets its orphans: we, or for an earlier server's run whoever got the main


class Forest:
    """The trees of all runs, and what is known of their members."""

    def __init__(self) -> None:
        """Raises CmappdError if the kernel does not list children."""
        self._me = os.getpid()
        self._trees: dict[str, _Tree] = {}
        self._mains: dict[int, str] = {}  # our children among them, not known to have ended
        self._attribution = Attribution(self._me, self._trees)
        if not os.path.exists(f"/proc/self/task/{self._me}/children"):
            raise CmappdError(
                "cannot follow process trees: there is no /proc/PID/task/TID/children; "
                "mount /proc, and use a kernel with CONFIG_PROC_CHILDREN"
            )

    def plant(self, run: str, main: Identity) -> None:
        """Begin the tree of a child of ours, or give it another main process (a daemon's)."""
        self._begin(run, main, self._me)
        self._mains[main.pid] = run

    def await_daemon(self, run: str, path: str) -> None:
        """Say that the main process is to leave a daemon behind, and the path of its program."""
        self._attribution.await_daemon(run, self._trees[run].main, path)

    def know_output(self, run: str, path: str) -> None:
        """Say which FIFO, by its real path, the processes of a run are given for their output."""
        self._attribution.know_output(path, run)

    def join(self, run: str, helper: Identity) -> None:
        """Count another child of ours to the tree, with all below it; the main process stays.

        Where the tree is gone, as that of a oneshot may be, the child is its main process.
        """
        if run not in self._trees:
            self.plant(run, helper)
            return
        self._attribution.know_leader(helper, run)

    def members(self, run: str) -> tuple[Identity, ...]:
        """The living members at little cost; some that are handed to us just now may be missing."""
        return tuple(self._members(run)) if run in self._trees else ()

    def adopt(self, run: str, main: Identity, members: Iterable[Identity]) -> None:
        """Begin the tree of a run that an earlier cmappserver launched.

        ``main`` may be gone; ``members`` are those found by their marks.
        """
        family = {main, *members}
        stats = (read_stat(who.pid) for who in family)
        found = [stat for stat in stats if stat is not None and stat.identity in family]
        # Whoever has the topmost of them for a child has their orphans, too.
        pids = {stat.pid for stat in found}
        reapers = [stat.ppid for stat in found if stat.ppid not in pids]
        reaper = reapers[0] if reapers else _INIT
        if reaper == self._me and any(stat.identity == main for stat in found):
            self._mains[main.pid] = run
        self._begin(run, main, reaper)
        self._attribution.know((stat.identity for stat in found), run)

    def knows(self, run: str) -> bool:
        """Whether this run has a tree here."""
        return run in self._trees

    def has(self, run: str, pid: int) -> bool:
        """Whether a process belongs to a run; its main process does, also just after its end.

        Costs a look at each of its ancestors, up to one that is known.
        """
        tree = self._trees.get(run)
        if tree is None or pid == tree.main.pid:
            return tree is not None
        # Again, should a parent have ended in the middle of it.
        return any(self._climbs_to(run, tree, pid) for _ in range(_LOOKS))

    def _climbs_to(self, run: str, tree: _Tree, pid: int) -> bool:
        stat = read_stat(pid)
        while stat is not None:
            known = self._attribution.known(stat.identity)
            if known in self._trees:
                return known == run
            if stat.ppid in (self._me, tree.reaper):
                return self._attribution.run_of_orphan(stat) == run
            stat = read_stat(stat.ppid)
        return False

    def is_foreign(self, run: str) -> bool:
        """Whether somebody else waits for its orphans, so that nothing tells us of their end."""
        tree = self._trees.get(run)
        return tree is not None and tree.reaper != self._me

    def _begin(self, run: str, main: Identity, reaper: int) -> None:
        before = self._trees.get(run)
        if before is not None:
            self._forget_main(run, before.main)
        self._attribution.forget_daemon(run)
        self._trees[run] = _Tree(main, reaper if before is None else before.reaper)
        self._attribution.know_leader(main, run)

    def fell(self, run: str) -> None:
        """Forget a run; whoever is left of it becomes a stray."""
        tree = self._trees.pop(run, None)
        if tree is not None:
            self._forget_main(run, tree.main)

    def observe(self, snapshot: Snapshot) -> None:
        """Remember who belongs where, so that they are known when their parents are gone.

        Cheap enough for every few seconds: 20 ms for 1,000 processes.
        """
        self._census(snapshot)

    def alive(self, *runs: str) -> tuple[Identity, ...]:
        """The living members of these runs, main processes included.

        Of one snapshot, which is not taken in an instant: for whether a tree is gone, ask `empty`.
        """
        census = self._census(snapshot())
        return tuple(who for run in runs for who in census.get(run, ()))

    def waifs(self, run: str, since: int) -> list[int]:
        """Orphans of ours that began then or later, in ticks since boot, and may be of this run,
        which is just being launched: of no other one anything tells.
        """
        stats = (read_stat(pid) for pid in self._orphans())
        young = (stat for stat in stats if stat is not None and stat.start >= since)
        return [stat.pid for stat in young if self._attribution.may_be_of(stat, run)]

    def empty(self, run: str) -> bool:
        """Whether nobody is left of a run, its main process included; true for an unknown run.

        Exact for what we launched, and one small read where no orphans are about. Ask when
        the main process was waited for, and again after each orphan that was. Zombies count
        as somebody: what they leave may have been handed to us after we had looked.
        """
        tree = self._trees.get(run)
        if tree is None:
            return True
        if exists(tree.main):
            return False
        self._forget_main(run, tree.main)
        if tree.reaper != self._me:
            return not any(self.alive(run) for _ in range(_LOOKS))
        return not any(self._may_belong(pid, run) for pid in self._orphans())

    def signal(self, run: str, signum: int, whole: bool) -> None:
        """Signal the main process or every member.

        SIGCONT follows, so that a stopped process can act on it. SIGKILL to the whole tree is
        repeated until a pass finds nobody new. The killed still take a moment to die, and
        one of them may have forked just before: repeat it while `empty` says no.
        """
        tree = self._trees.get(run)
        if tree is None:
            return
        if whole and signum == signal.SIGKILL:
            self._kill(run)
            return
        members = self._members(run) if whole else [tree.main]
        reached = [member for member in members if _send(member, signum)]
        if signum not in _WITHOUT_CONT:
            for member in reached:
                _send(member, signal.SIGCONT)

    def _kill(self, run: str) -> None:
        killed: set[Identity] = set()
        for _ in range(_PASSES):
            found = [who for who in self._members(run) if who not in killed]
            reached = [who for who in found if _send(who, signal.SIGKILL)]
            if not reached:
                break
            killed.update(reached)

    def _members(self, run: str) -> list[Identity]:
        """The living members, parents first, by a walk down from our own children.

        Costs what this tree costs, whatever else runs on the machine. Members that are
        handed to us during the walk may be missed; the next walk finds them.
        """
        if self._trees[run].reaper != self._me:
            return list(self.alive(run))
        found: list[Identity] = []
        main = self._trees[run].main.pid
        roots = [pid for pid in self._orphans() if self._run_of_child(pid) == run]
        queue = [(pid, self._me) for pid in (main, *roots)]
        for pid, parent in queue:  # which grows as it is walked
            stat = read_stat(pid)
            if stat is None or stat.ppid != parent:
                continue
            self._attribution.know((stat.identity,), run)
            if stat.alive:
                found.append(stat.identity)
                queue.extend((child, pid) for child in children(pid))
        return found

    def _may_belong(self, pid: int, run: str) -> bool:
        """Whether a child of ours belongs to a run; in doubt yes, if the doubt will be resolved.

        What is unknown and has no memory any more is ending. It will be waited for, and
        then `empty` is asked again.
        """
        whose = self._run_of_child(pid)
        if whose is not None:
            return whose == run
        stat = read_stat(pid)
        return stat is not None and not stat.memory and not environment(pid)

    def _orphans(self) -> set[int]:
        """The children of ours that are no main processes.

        No look at the start time of those: they are our children, so their pids are their
        own until they are waited for, and then `empty` forgets them.
        """
        return set(own_children()) - self._mains.keys()

    def _run_of_child(self, pid: int) -> str | None:
        """The run of an orphan that became our child."""
        stat = read_stat(pid)
        return None if stat is None else self._attribution.run_of_orphan(stat)

    def _forget_main(self, run: str, main: Identity) -> None:
        if self._mains.get(main.pid) == run:
            del self._mains[main.pid]

    def _census(self, processes: Snapshot) -> Census:
        """Everybody of a snapshot by run, and the memory brought up to date with it."""
        reapers = {self._me, *(tree.reaper for tree in self._trees.values())}
        owners = self._attribution.owners(processes, reapers)
        census: Census = {}
        known = {tree.main: run for run, tree in self._trees.items()}
        for pid, run in owners.items():
            if run is None:
                continue
            known[processes[pid].identity] = run
            if processes[pid].alive:
                census.setdefault(run, []).append(processes[pid].identity)
        self._attribution.know_only(known)
        return census


def _send(member: Identity, signum: int) -> bool:
    """As `send`; a member that an ordinary user may not signal is not reached."""
    try:
        return send(member, signum)
    except PermissionError:
        return False
