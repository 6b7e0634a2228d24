"""All applications of this guest, each with its supervisor, after the configuration."""

import asyncio
import time
from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from cmappd.core.config import Application, Change, Config, Plan, compare
from cmappd.core.config.plan import change_of
from cmappd.core.events import Define, Kill, Remove, Restart, Start, Stop
from cmappd.core.lifecycle import App
from cmappd.core.messages import AppStatus
from cmappd.core.state import ALIVE, Cause, Goal, Phase
from cmappd.server.application.keeper import owner_in
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.shared.items import ProblemChanged
from cmappd.server.shared.leftovers import find_run, remove_fifos, still_there
from cmappd.server.shared.store import Kept, Record
from cmappd.server.shared.world import TOLD_TO_END, World
from cmappd.system.proc import exists

DELIVERY_TIMEOUT = 5.0  # seconds for managers to acknowledge results when we end


class Registry:
    """Finds applications by name, and follows the configuration."""

    def __init__(self, world: World, config: Config, kept: Mapping[str, Kept]) -> None:
        self._world = world
        self._supervisors: dict[str, Supervisor] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Of what has left and may be back: no run id of this epoch is used again.
        self._serials: dict[str, int] = {}
        self.config = config
        for name, (record, app) in kept.items():
            self._resume(name, record, app)
        for name, definition in config.apps.items():
            if name not in self._supervisors:
                self._add(name, definition)
        self._spread_problems()
        self._say_what_is_left()

    # Finding -------------------------------------------------------------------------

    def find(self, name: str) -> Supervisor | None:
        """The supervisor of an application; None if there is none of that name."""
        return self._supervisors.get(name)

    def supervisors(self) -> Iterator[Supervisor]:
        """All of them, by name."""
        return (self._supervisors[name] for name in sorted(self._supervisors))

    def up(self) -> frozenset[str]:
        """Those that are to be up."""
        found = self._supervisors.items()
        return frozenset(name for name, one in found if one.app.goal is Goal.UP)

    def problem(self, name: str) -> str:
        """Why the stanza of an application is not in force; empty when it is."""
        return self.config.problem_of(name) or ""

    def refused(self) -> list[AppStatus]:
        """A status for each application whose stanza never was good."""
        names = {problem.app for problem in self.config.problems if problem.app is not None}
        return [
            AppStatus(name, Goal.DOWN, Phase.STOPPED, problem=self.problem(name))
            for name in sorted(names - self._supervisors.keys())
        ]

    # The configuration ---------------------------------------------------------------

    def apply(self, config: Config) -> Plan:
        """Put a new configuration in force, touching nothing that has not changed."""
        plan = compare(self.config, config)
        self.config = config
        for name in plan.added:
            self._add(name, config.apps[name])
        for name, change in plan.changed.items():
            self._change(self._supervisors[name], config.apps[name], change)
        for name, supervisor in self._supervisors.items():
            # Also of what was never seen here: taken up while its stanza was bad.
            if name not in config.apps and name not in config.origins:
                supervisor.post(Remove())
        self._spread_problems()
        return plan

    def _resume(self, name: str, record: Record, app: App) -> None:
        """Go on with an application where an earlier cmappserver stopped."""
        definition = self.config.apps.get(name)
        if definition is None and not record.matters:
            self._world.store.forget(name)
            return
        supervisor = self._revive(app, record)
        self._begin(supervisor)
        if definition is None:
            supervisor.post(Remove())
            return
        if definition is not app.definition:
            self._change(supervisor, definition, change_of(app.definition, definition))
        held = supervisor.app.maintenance is not None
        if definition.autostart and record.awaits_us and not held:
            supervisor.post(Start())

    def _revive(self, app: App, record: Record) -> Supervisor:
        """With the run of the record; or with one that was launched, and could not be noted.

        Where the recorded one lives there was no other launch, whatever has its mark: anybody
        can give that to a process.
        """
        main = record.processes[0]
        lives = main is not None and exists(main)
        noted = app.run.id if app.run is not None and app.phase in ALIVE else ""
        leftovers = {} if lives else self._world.leftovers
        found = find_run(leftovers, app.name, app.definition, but=noted)
        if found is not None:
            newer, main = found
            newer = replace(newer, restarts=app.restarts, last=app.last)
            supervisor = Supervisor(self._world, newer)
            owner = owner_in(record, newer.definition, time.monotonic())
            supervisor.custody.resume(owner, record.undelivered, record.concluded)
            supervisor.notes.history = record.history
            supervisor.take_up(main, owner_known=True)
            return supervisor
        supervisor = Supervisor(self._world, app)
        supervisor.resume(record)
        return supervisor

    def _add(self, name: str, definition: Application) -> None:
        supervisor = self._supervisors.get(name)
        if supervisor is not None:  # it was removed, and has not left yet
            supervisor.post(Define(definition))
            return
        found = find_run(self._world.leftovers, name, definition)
        if found is not None:
            app, main = found
            supervisor = Supervisor(self._world, app)
            supervisor.take_up(main, owner_known=False)
            self._begin(supervisor)
            return
        fresh = App(name, self._world.epoch, definition, serial=self._serials.pop(name, 0))
        supervisor = Supervisor(self._world, fresh)
        self._begin(supervisor)
        held = self._world.ending or supervisor.app.maintenance is not None
        if definition.autostart and not held:
            supervisor.post(Start())

    def _say_what_is_left(self) -> None:
        """Of what an earlier cmappserver has left behind, beside what was taken up."""
        world = self._world
        remove_fifos(world.state_directory, self._supervisors.keys() | world.leftovers.keys())
        for name, runs in world.leftovers.items():
            left = [one for members in runs.values() for one in members]
            what = "" if name in self._supervisors else "it is not defined here: "
            world.log_of(name).error("%s%s", what, still_there(left))

    def _begin(self, supervisor: Supervisor) -> None:
        name = supervisor.app.name
        supervisor.notes.record = self._world.refused.pop(name, "")
        self._supervisors[name] = supervisor
        self._world.dependencies.join(supervisor)
        task = asyncio.create_task(self._supervise(supervisor), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _supervise(self, supervisor: Supervisor) -> None:
        await supervisor.live()
        name = supervisor.app.name
        del self._supervisors[name]
        self._serials[name] = supervisor.app.serial
        self._world.dependencies.leave(name)
        if not self._world.ending:
            self._world.store.forget(name)
        if name in self.config.apps and not self._world.ending:  # it is back already
            self._add(name, self.config.apps[name])

    def _change(self, supervisor: Supervisor, definition: Application, change: Change) -> None:
        supervisor.post(Define(definition))
        restart = change.launch and definition.reload == "restart"
        if restart and supervisor.app.goal is Goal.UP:
            supervisor.post(Restart(Cause.RELOAD))

    def _spread_problems(self) -> None:
        for name, supervisor in self._supervisors.items():
            problem = self.problem(name)
            if problem != supervisor.notes.problem:
                supervisor.post(ProblemChanged(problem))

    # The end -------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop all applications in order, and return when every tree is gone.

        Managers that are connected then have some time to acknowledge their results.
        """
        self._world.ending = TOLD_TO_END
        for supervisor in self._supervisors.values():
            supervisor.post(Stop(Cause.SHUTDOWN))
        while self._tasks:
            await asyncio.wait(self._tasks, timeout=DELIVERY_TIMEOUT)
            if all(supervisor.at_rest for supervisor in self._supervisors.values()):
                return

    def kill(self) -> None:
        """Kill all applications; ``stop`` returns the sooner."""
        for supervisor in self._supervisors.values():
            supervisor.post(Kill(Cause.SHUTDOWN))

    def pass_on(self) -> dict[str, list[int]]:
        """What applications are heard by, for the program that takes our place: their sockets,
        and their outputs, which it opens by name, and which are only held until then.
        """
        passed: dict[str, list[int]] = {}
        outputs: list[int] = []
        for supervisor in self._supervisors.values():
            passed |= supervisor.runner.notices.pass_on()
            outputs += supervisor.runner.output.hold()
        return {**passed, "outputs": outputs}

    async def close(self) -> None:
        """End the supervisors' tasks."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
