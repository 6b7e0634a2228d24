"""Which run a process belongs to, by all that is known of it.

A process belongs to the run of its parent. When its parent dies the kernel makes it our
child, since we are the subreaper (so all that survives of a tree hangs below our own children),
and then what tells its run is, in this order:

1. that it was seen as a member before (`Forest.observe`, and every other look at the tree);
2. that its session is the one of the run's main process;
3. its cgroup, where the run has one of its own;
4. the run mark, CMAPPD_RUN, in the environment with which it was executed;
5. that its standard output or error is the FIFO of the run: nginx overwrites its environment;
6. without cgroups, for a daemon whose command has just been launched: that nothing else is known
   of it, and that it executes the very program of that command, as the command of no other run
   does that is about to leave a daemon behind. So nginx and sshd are known that log to files.

The limit without cgroups: a process that leaves its session, clears or overwrites its
environment, writes elsewhere, executes something else and loses its parent, all between two looks,
is not attributed: it is a stray. So is one of which we may not read that (ptrace(2), "access mode
checking").
"""

from collections.abc import Collection, Iterable

from cmappd.system.marks import run_of
from cmappd.system.proc import Identity, Snapshot, Stat, outputs, program, read_stat


class Attribution:
    """What is known of the members of the runs that there are now."""

    def __init__(self, me: int, runs: Collection[str]) -> None:
        """``me`` is whose child an orphan becomes; ``runs`` those that have a tree, always."""
        self._me = me
        self._runs = runs
        self._leaders: dict[int, tuple[Identity, str]] = {}  # session id: its leader, the run
        self._known: dict[Identity, str] = {}
        self._outputs: dict[str, str] = {}
        # Of runs whose command is about to leave a daemon: what executes it, and since when.
        self._awaited: dict[str, tuple[tuple[int, int], int]] = {}

    def know(self, members: Iterable[Identity], run: str) -> None:
        """Remember members of a run."""
        self._known.update((who, run) for who in members)

    def know_leader(self, leader: Identity, run: str) -> None:
        """Remember a member whose session, which it leads, is the run's."""
        self._leaders[leader.pid] = (leader, run)
        self._known[leader] = run

    def know_output(self, path: str, run: str) -> None:
        """Remember the real path of a FIFO which only processes of this run are given."""
        self._outputs[path] = run

    def await_daemon(self, run: str, launcher: Identity, path: str) -> None:
        """Expect a daemon of the run, until its main process is known: `forget_daemon`."""
        found = program(path)
        if found is not None:
            self._awaited[run] = found, launcher.start

    def forget_daemon(self, run: str) -> None:
        """What is not attributed to the run by now has nothing to do with it."""
        self._awaited.pop(run, None)

    def known(self, member: Identity) -> str | None:
        """The run of which this process was seen as a member before."""
        return self._known.get(member)

    def know_only(self, members: dict[Identity, str]) -> None:
        """Remember these members, with their runs, and no others."""
        self._known = members

    def run_of_orphan(self, stat: Stat) -> str | None:
        """The run of a process whose parent cannot tell; remembered once it is known."""
        run = self._known.get(stat.identity) or self._run_of_session(stat)
        if run not in self._runs:  # it was felled since
            mark = run_of(stat.pid)
            found = (mark, *map(self._outputs.get, outputs(stat.pid)))
            run = next((one for one in found if one in self._runs), None)
            if run is None and mark is None:
                run = self._run_of_program(stat)
        if run is not None:
            self._known[stat.identity] = run
        return run

    def may_be_of(self, stat: Stat, run: str) -> bool:
        """Whether an orphan belongs to this run, for all that is known. The mark that it has may
        be that of a health check, or of a run that has ended.
        """
        return self.run_of_orphan(stat) in (None, run) and run_of(stat.pid) in (None, run)

    def _run_of_program(self, stat: Stat) -> str | None:
        """The one run that awaits a daemon of the program of this process."""
        awaited = [run for run, (_, since) in self._awaited.items() if since <= stat.start]
        if not awaited:
            return None
        executed = program(f"/proc/{stat.pid}/exe")
        found = [run for run in awaited if self._awaited[run][0] == executed]
        return found[0] if len(found) == 1 and found[0] in self._runs else None

    def _run_of_session(self, stat: Stat) -> str | None:
        if stat.session == 0:  # it began outside of the pid namespace, and is as good as none
            return None
        leader, run = self._leaders.get(stat.session, (None, None))
        if leader is None or stat.start < leader.start:
            return None
        now = read_stat(leader.pid)
        return run if now is None or now.identity == leader else None

    def owners(self, processes: Snapshot, reapers: set[int]) -> dict[int, str | None]:
        """The run of each process, or None.

        ``reapers`` are those whose children may be orphans of a run.
        """
        self._forget_felled()
        owners: dict[int, str | None] = {self._me: None}
        for pid in processes:
            self._settle(pid, processes, reapers, owners)
        return owners

    def _forget_felled(self) -> None:
        # Not when a run is felled: with a thousand, looking through all for each is dear.
        self._known = {who: run for who, run in self._known.items() if run in self._runs}
        self._leaders = {sid: of for sid, of in self._leaders.items() if of[1] in self._runs}
        self._awaited = {run: of for run, of in self._awaited.items() if run in self._runs}
        self._outputs = {path: run for path, run in self._outputs.items() if run in self._runs}

    def _settle(
        self,
        pid: int,
        processes: Snapshot,
        reapers: set[int],
        owners: dict[int, str | None],
    ) -> None:
        """Find whose a process is by climbing to the first ancestor that is settled."""
        path: list[int] = []
        while pid not in owners:
            stat = processes[pid]
            owners[pid] = None  # which also ends a circle, should a torn snapshot have one
            path.append(pid)
            parent = processes.get(stat.ppid)
            if stat.identity in self._known:
                owners[pid] = self._known[stat.identity]
            elif stat.ppid == 0:
                pass
            elif stat.ppid in reapers or parent is None or parent.start > stat.start:
                owners[pid] = self.run_of_orphan(stat)
            else:
                pid = parent.pid
                continue
            break
        for each in path:
            owners[each] = owners[pid]
