"""The listening sockets by themselves, with real connections to the control socket."""

import asyncio
import socket
from pathlib import Path

from cmappd.server.connections import Connections
from cmappd.server.listeners import Listeners
from cmappd.server.office import Office
from cmappd.server.reload import Reloader
from cmappd.server.upgrade import Upgrader
from cmappd.system.handover import Handover
from tests.server.ground import Ground, ground


def listeners_on(ground: Ground) -> Listeners:
    """Listeners that serve what there is."""
    world, registry = ground.world, ground.registry
    reloader = Reloader(world, None, registry)  # type: ignore[arg-type]
    office = Office(world, registry, reloader, Upgrader(world, registry, lambda: None))
    return Listeners(office, Connections(office), Handover({}))


def come(path: Path) -> socket.socket:
    """Who is connected as soon as the kernel knows of it, and waits to be accepted."""
    caller = socket.socket(socket.AF_UNIX)
    caller.connect(str(path))
    return caller


async def accepts() -> bool:
    """Whether asyncio has a task for someone who came."""
    before = asyncio.all_tasks()
    for _ in range(5):
        await asyncio.sleep(0)
        if asyncio.all_tasks() - before:
            return True
    return False


def test_nobody_is_accepted_once_they_are_closed(tmp_path: Path) -> None:
    """A task for someone who comes in the last turns of the loop would be destroyed pending."""

    async def scene() -> None:
        path = tmp_path / "control"
        async with ground(tmp_path, "") as here:
            listeners = listeners_on(here)
            await listeners.open_control(str(path))
            with come(path):
                assert await accepts()
            with come(path):
                listeners.close()
                assert not await accepts()
            assert not path.exists()
            assert listeners._control is not None
            listeners._control.close()  # what else ends with the process

    asyncio.run(scene())
