"""cmappserver: reads the configuration, supervises, serves, and ends in order."""

import argparse
import asyncio
import contextlib
import errno
import faulthandler
import itertools
import logging
import os
import secrets
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from cmappd import __version__
from cmappd.core.config import Config
from cmappd.core.printable import printable
from cmappd.errors import CmappdError, ConfigError, TransientError
from cmappd.server import startup
from cmappd.server.cgroups import open_cgroups
from cmappd.server.connections import Connections
from cmappd.server.listeners import Listeners
from cmappd.server.load import Loader
from cmappd.server.office import Office
from cmappd.server.registry import Registry
from cmappd.server.rehearsal import rehearse
from cmappd.server.reload import Reloader
from cmappd.server.shared import general, log
from cmappd.server.shared.leftovers import find_leftovers
from cmappd.server.shared.maintenance import Maintenances
from cmappd.server.shared.store import Kept, Store
from cmappd.server.shared.world import TOLD_TO_END, World
from cmappd.server.succession import Lock, hand_over
from cmappd.server.upgrade import REHEARSE, Upgrader
from cmappd.system import limits
from cmappd.system.handover import Handover, receive
from cmappd.system.hierarchy import Hierarchy
from cmappd.system.lock import hold
from cmappd.system.notify import notify, watchdog_interval
from cmappd.system.paths import DEFAULT_CONFIG
from cmappd.system.proc import snapshot
from cmappd.system.process import become_supervisor
from cmappd.system.signals import Signals, deafen
from cmappd.system.tree import Forest
from cmappd.system.trust import private_directory
from cmappd.system.watch import Watcher

# sysexits.h: something was found in an unconfigured or misconfigured state. systemd does not try
# again after it.
EX_CONFIG = 78
SWEEP_INTERVAL = 2.0  # seconds between two looks for connections whose time is over
OBSERVE_EVERY = 30  # sweeps between two looks at the trees
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def main() -> None:
    """The program."""
    given = receive()
    options = _parse(sys.argv[1:])
    # Where the watchdog's SIGABRT found us, and why we crashed, goes to the log.
    faulthandler.enable()
    try:
        loader = Loader(os.path.abspath(options.config))
        if options.rehearse:
            config = loader.load()
            rehearse(startup.paths(config).state_directory, startup.boot_id(), config)
            return
        asyncio.run(_serve(loader, startup.load(loader), given))
    except CmappdError as error:
        lines = map(printable, f"cmappserver: {error}".split("\n"))
        print("\n".join(lines), file=sys.stderr)
        final = isinstance(error, ConfigError) and not isinstance(error, TransientError)
        sys.exit(EX_CONFIG if final else 1)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cmappserver", description="Supervise the applications of this guest."
    )
    parser.add_argument(
        "--config", metavar="FILE", default=DEFAULT_CONFIG, help="default: %(default)s"
    )
    parser.add_argument(REHEARSE, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"cmappserver {__version__}")
    return parser.parse_args(arguments)


async def _serve(loader: Loader, config: Config, given: Handover) -> None:
    world, lock, kept = _prepare(loader, config, given)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(initializer=deafen))
    signals = Signals(loop)
    signals.on(signal.SIGCHLD, world.reaper.reap)
    registry = Registry(world, loader.recall(kept), kept)
    reloader = Reloader(world, loader, registry)
    fate = _Fate(signals, registry, reloader)
    office = Office(world, registry, reloader, Upgrader(world, registry, fate.replace))
    connections = Connections(office)
    loop.set_exception_handler(lambda _loop, context: _complain(connections, context))
    listeners = Listeners(office, connections, given)
    reloader.serve = listeners.serve
    loop.call_soon(world.reaper.reap)  # children whose SIGCHLD went to the program in our place
    watcher = Watcher(loader.watched(), lambda text: world.log.warning("%s", text))
    try:
        await listeners.open_control(startup.paths(config).control)
        await reloader.begin()
        given.close()
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(_follow(watcher, loader, reloader)),
                tasks.create_task(_keep_house(loader, office, connections, listeners)),
                tasks.create_task(_feed_watchdog()),
            ]
            world.log.info("cmappserver %s is ready, pid %d", __version__, os.getpid())
            notify("READY=1")
            await fate.known.wait()
            if fate.replaced:
                _cancel(background)  # nothing is looked after while it is given away
                await hand_over(world, registry, connections, listeners, watcher, signals, lock)
            elif registry.config.server.on_shutdown == "keep":
                _leave(world, connections, listeners)
            else:
                await _end(world, registry, connections, listeners)
            _cancel(background)
    finally:
        listeners.close()
        await registry.close()
        if world.hierarchy is not None:
            world.hierarchy.remove()
        await watcher.close()
        # One more is not to kill it now: it ends.
        signals.close(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


# The start ---------------------------------------------------------------------------


def _prepare(
    loader: Loader, config: Config, given: Handover
) -> tuple[World, Lock, dict[str, Kept]]:
    """The ground to stand on, the lock that says it is ours, and what was before.

    Raises CmappdError.
    """
    logger = log.set_up(config.server.log_format)
    paths = startup.paths(config)
    state = paths.state_directory
    private_directory(state)
    lock = _lock(os.path.join(state, "lock"), given)
    become_supervisor()
    limits.raise_open_files(given.open_files)
    epoch, boot_id = secrets.token_hex(4), startup.boot_id()
    store = Store(state, boot_id)
    store.open()
    loader.attach(partial(general.save, state, boot_id, loader.path), logger.warning)
    kept, refused = store.load(config.apps)
    for app, problem in refused.items():
        logger.error("%s: %s", app, problem)
    hierarchy, no_cgroups = open_cgroups(state)
    if hierarchy is None:
        logger.info("process trees are followed without cgroups: %s", no_cgroups)
    world = World(
        guest=socket.gethostname(),
        boot_id=boot_id,
        epoch=epoch,
        state_directory=state,
        log_directory=paths.log_directory,
        forest=Forest(),
        store=store,
        maintenances=Maintenances(paths.lasting_directory, boot_id, logger.error),
        hierarchy=hierarchy,
        no_cgroups=no_cgroups,
        log=logger,
        refused=refused,
        leftovers=find_leftovers(state, epoch, {one.record.epoch for one in kept.values()}),
        given=given,
        cgroups={one.run: one for one in hierarchy.leftovers()} if hierarchy else {},
    )
    return world, lock, kept


def _lock(path: str, given: Handover) -> Lock:
    """The lock of the state directory, which who was in our place may hold for us already."""
    name = f"lock {path}"
    return name, hold(path, given.take(name))


def _complain(connections: Connections, context: dict[str, Any]) -> None:
    """What asyncio itself could not handle: a line, and the traceback of a defect.

    It says again each second that there are no descriptors for who comes.
    """
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        what = f"failures: {context['message']}"
        connections.complaints.add(what, f"{context['message']}: {error}")
        return
    defect = None if error is None or isinstance(error, OSError) else error
    log = connections.office.world.log
    log.error("%s: %s", context["message"], error, exc_info=defect)


# While it runs -----------------------------------------------------------------------


async def _follow(watcher: Watcher, loader: Loader, reloader: Reloader) -> None:
    """Reload when the files have changed, also since they were read at the start."""
    await reloader.reload()
    async for _ in watcher.changes():
        await reloader.reload()
        watcher.update(loader.watched())


async def _keep_house(
    loader: Loader, office: Office, connections: Connections, listeners: Listeners
) -> None:
    for sweeps in itertools.count(1):
        await asyncio.sleep(SWEEP_INTERVAL)
        try:
            connections.sweep()
            connections.complaints.sweep()
            listeners.warn()
            for supervisor in office.registry.supervisors():
                supervisor.look()
            if sweeps % OBSERVE_EVERY == 0:
                _observe(office.world)
                if loader.waits:  # a user of a directory service may be known meanwhile
                    office.reloader.ask(0, lambda _reply: None)
            if listeners.outdated:
                await office.reloader.begin()
            await office.reloader.retry()
        except Exception:  # a defect, which must not end the supervision
            office.world.log.exception("cannot look after everything")


def _observe(world: World) -> None:
    with contextlib.suppress(OSError):  # too many open files: the next time will do
        world.forest.observe(snapshot())
        if world.hierarchy is not None:
            world.hierarchy.leftovers()  # removes what would not go before
    world.maintenances.tidy()


async def _feed_watchdog() -> None:
    """Say that the loop makes progress, where the service manager wants to hear it."""
    interval = watchdog_interval()
    while interval is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval / 2)


class _Fate:
    """How this program ends: by a signal, or replaced by another version.

    SIGTERM and SIGINT end in order, a second one kills, SIGHUP reloads.
    """

    def __init__(self, signals: Signals, registry: Registry, reloader: Reloader) -> None:
        self.known = asyncio.Event()
        self.replaced = False
        self._signals = signals
        self._registry = registry
        # Before anything is launched: what is running then is stopped in order, too.
        signals.on(signal.SIGTERM, self._end)
        signals.on(signal.SIGINT, self._end)
        signals.on(signal.SIGHUP, lambda: reloader.ask(0, lambda _reply: None))

    def _end(self) -> None:
        if self.known.is_set():
            self._registry.kill()
        self.known.set()

    def replace(self) -> None:
        """Let the new program have the signals that come from now on, and the children's ends."""
        if not self.known.is_set():
            self._signals.postpone()
            self.replaced = True
            self.known.set()


# The end -----------------------------------------------------------------------------


def _leave(world: World, connections: Connections, listeners: Listeners) -> None:
    """End without the applications: the next cmappserver takes them up.

    To no manager is anything refused: it would exit, and its application runs on.
    """
    world.log.info("ending: the applications run on")
    notify("STOPPING=1")
    world.ending = TOLD_TO_END
    listeners.pause()
    connections.close()
    if world.hierarchy is not None:
        _make_way(world.hierarchy, world.log)


def _make_way(hierarchy: Hierarchy, logger: logging.Logger) -> None:
    """systemd could not start the next cmappserver where controllers are enabled."""
    with contextlib.suppress(OSError):
        if hierarchy.in_the_way():
            logger.warning("the limits of resources are lifted until the next cmappserver is ready")
            hierarchy.disable()


async def _end(
    world: World, registry: Registry, connections: Connections, listeners: Listeners
) -> None:
    world.log.info("ending: all applications are being stopped")
    notify("STOPPING=1")
    await registry.stop()
    listeners.close()
    connections.close()
    world.log.info("all applications are stopped; cmappserver ends")
