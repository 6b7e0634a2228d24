"""Takes up, into the runner of an application, what an earlier cmappserver has left running."""

import asyncio
import contextlib
import signal

from cmappd.core.events import Exited, Launched, Notified, NotLaunched
from cmappd.core.lifecycle import App, Run
from cmappd.core.sd_notify import Notification
from cmappd.core.state import ExitStatus, Part, Phase
from cmappd.server.application.deathwatch import is_our_child
from cmappd.server.application.runner import Runner
from cmappd.server.application.sidetrees import health_tree, tree_of
from cmappd.system.daemons import main_of
from cmappd.system.proc import exists
from cmappd.system.process import Identity, send


def resume(runner: Runner, app: App, main: Identity | None, asking: Identity | None) -> None:
    """Take up the live run as it was recorded; what became of it is posted.

    ``asking`` is the process of stop.command or stop.after, where that was under way.
    """
    run = app.run
    assert run is not None
    if app.phase is Phase.WAITING:
        return  # nothing of it runs
    runner.output.resume(app.definition)
    if run.part is Part.AFTER:
        _resume_after(runner, app, run.id, asking)
        return
    members = _given_back(runner, run.id)
    noted = main is not None
    main = main or main_of(members)  # it was launched, and there was no time to note it
    if main is None:
        text = "cmappserver ended before it was launched"
        runner.post(NotLaunched(run.id, text, run.part))
        return
    _adopt(runner, app, run, main, members)
    if not run.launched or (run.kind == "simple" and run.part is Part.MAIN and not run.pid):
        runner.post(Launched(run.id, main.pid, run.part))
    if run.kind == "forking" and run.part is Part.MAIN and not noted:
        # Whether that is the command or what it has left, nobody knows: both are looked at.
        runner.deaths.linger(run.id, Part.MAIN)
        runner.post(Exited(run.id, ExitStatus(), empty=False))
    else:
        _go_on(runner, app, run, main)
    if run.asking:
        _go_on_asking(runner, run.id, asking)


def take_up(runner: Runner, app: App, main: Identity) -> None:
    """Supervise a run of which there is no record."""
    assert app.run is not None
    runner.output.resume(app.definition)
    _adopt(runner, app, app.run, main, _given_back(runner, app.run.id))
    _go_on(runner, app, app.run, main)


def _go_on(runner: Runner, app: App, run: Run, main: Identity) -> None:
    if run.searching:
        runner.deaths.linger(run.id, Part.MAIN)
        runner.find_main(run.id, app.definition)
    elif run.status is None:
        runner.deaths.watch(run.id, run.part, main)
    elif app.phase is not Phase.RUNNING:
        runner.deaths.linger(run.id, Part.MAIN)
        asyncio.get_running_loop().call_soon(runner.deaths.look_again, run.id, Part.MAIN)


def _go_on_asking(runner: Runner, run: str, asking: Identity | None) -> None:
    """stop.command is watched to its end; where nobody knows it, the stop signal follows."""
    if asking is None or not exists(asking):
        runner.post(Exited(run, ExitStatus(), empty=False, part=Part.STOP))
        return
    runner.asking = asking
    runner.world.forest.join(run, asking)
    runner.deaths.watch(run, Part.STOP, asking)


def _resume_after(runner: Runner, app: App, run: str, asking: Identity | None) -> None:
    """stop.after was under way, or about to be: it is watched to its end, or run once more."""
    tree = tree_of(run, Part.AFTER)
    rest = _given_back(runner, tree)
    # One that has ended during an upgrade is not in the rest, and its status is still to be had.
    process = asking if asking is not None and is_our_child(asking) else main_of(rest)
    if process is not None:
        runner.asking = process
        runner.world.forest.adopt(tree, process, rest)
        runner.deaths.watch(run, Part.AFTER, process)
    elif app.phase is Phase.STOPPING and app.definition.stop.after is not None:
        log = runner.world.log_of(runner.name)
        log.info("%s is run once more: nobody saw whether it has come to its end", Part.AFTER)
        # Not before SIGTERM is heeded.
        loop = asyncio.get_running_loop()
        loop.call_soon(runner.spawn, run, Part.AFTER, app.definition)
    else:
        runner.deaths.ended(run, Part.AFTER, ExitStatus())


def _adopt(runner: Runner, app: App, run: Run, main: Identity, members: list[Identity]) -> None:
    runner.world.forest.adopt(run.id, main, members)
    runner.world.forest.know_output(run.id, runner.output.fifo)
    runner.confinement.resume(run, app.definition)
    runner.main = main
    if run.socket and not runner.notices.resume(run.id):
        # Nobody hears its pings, so none is awaited.
        runner.post(Notified(run.id, Notification(watchdog_timeout=0.0)))


def _given_back(runner: Runner, run: str) -> list[Identity]:
    """The processes that were found of a run, and those known by their output only.

    A health check that was under way is nobody's any more, and nor is what it has left.
    """
    leftovers = runner.world.leftovers
    runs = leftovers.pop(runner.name, {})
    runner.beside.kill(health_tree(run))
    for checking in runs.pop(health_tree(run), []):
        with contextlib.suppress(PermissionError):
            send(checking, signal.SIGKILL)
    members = [one for key in (run, "") for one in runs.pop(key, [])]
    if runs:
        leftovers[runner.name] = runs
    return members
