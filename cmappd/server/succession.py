"""cmappserver executes the version on disk in its own place, and nothing is stopped.

It takes no more connections, has every application save all that is known of it, and becomes the
new program: the same process, which goes on as after a crash, but with the sockets open, its
children its own, and no signal lost.
"""

import os
import time
from typing import NoReturn

from cmappd.server.connections import Connections
from cmappd.server.listeners import Listeners
from cmappd.server.registry import Registry
from cmappd.server.shared.world import World
from cmappd.system.handover import execute, own_command
from cmappd.system.limits import open_files_at_the_start
from cmappd.system.notify import notify
from cmappd.system.signals import Signals
from cmappd.system.watch import Watcher

REPLACING = "cmappserver is being replaced by another version; ask again"
Lock = tuple[str, list[int]]  # the name by which it is passed, and its descriptors


async def hand_over(
    world: World,
    registry: Registry,
    connections: Connections,
    listeners: Listeners,
    watcher: Watcher,
    signals: Signals,
    lock: Lock,
) -> NoReturn:
    """Execute the new program. Where that fails, this process ends as in a crash."""
    world.ending = REPLACING
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    listeners.pause()
    connections.close()
    await watcher.close()
    passed = {**listeners.descriptors(), **registry.pass_on()}
    await registry.close()
    signals.pass_on()
    name, fds = lock
    try:
        execute(own_command(), {**passed, name: fds}, open_files_at_the_start())
    except OSError as error:
        world.log.critical("cannot execute the new cmappserver: %s; ending", error)
        os._exit(1)
