"""Applications with real processes in this process: a world, a registry, and who talks to it."""

import asyncio
import contextlib
import ctypes
import logging
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from cmappd.core.config import Config, Source, parse, settle
from cmappd.core.messages import Claim, Message, Reply
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.registry import Registry
from cmappd.server.shared.items import Parted, Said
from cmappd.server.shared.maintenance import Maintenances
from cmappd.server.shared.store import Store
from cmappd.server.shared.world import World
from cmappd.system.process import become_supervisor
from cmappd.system.signals import Signals
from cmappd.system.tree import Forest

PATIENCE = 15.0
Found = TypeVar("Found")


async def until(condition: Callable[[], Found], seconds: float = PATIENCE) -> Found:
    """The first true value of the condition; fails when there is none in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (found := condition()):
        assert loop.time() < deadline, "waited in vain"
        await asyncio.sleep(0.002)
    return found


class Recorder:
    """A connected peer that writes down what it is told."""

    def __init__(self, name: str, *, administrator: bool = False, instance: str = "") -> None:
        self.name = name
        self.instance = instance or secrets.token_hex(4)
        self.administrator = administrator
        self.opened = self.last_there = time.monotonic()
        self.told: list[Message] = []
        self.hung_up = False
        self._seq = 0

    def send(self, message: Message) -> None:
        assert not self.hung_up, f"told after it was cut: {message}"
        self.told.append(message)

    def hang_up(self) -> None:
        self.hung_up = True

    def next(self) -> int:
        self._seq += 1
        return self._seq

    async def ask(self, supervisor: Supervisor, message: Message) -> Message:
        """Say something to an application, and wait for the answer."""
        self.last_there = time.monotonic()
        supervisor.post(Said(self, message))
        answer = await until(lambda: self.answer(message.seq))
        assert answer is not None
        return answer

    async def claim(
        self, supervisor: Supervisor, run: str | None = None, *, takeover: bool = False
    ) -> Message:
        claim = Claim(self.next(), supervisor.app.name, run, run is None, takeover)
        return await self.ask(supervisor, claim)

    def answer(self, seq: int) -> Message | None:
        return next((message for message in self.told if message.seq == seq), None)

    def heard(self, kind: type[Found]) -> list[Found]:
        return [message for message in self.told if isinstance(message, kind)]


class Ground:
    """A world, its registry, and the lines of its log."""

    def __init__(self, folder: Path, apps: str) -> None:
        self.lines: list[str] = []
        self.folder = folder
        for name in ("state", "log"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        store = Store(str(folder / "state"), "boot")
        store.open()
        self.world = World(
            guest="guest1",
            boot_id="boot",
            epoch=secrets.token_hex(4),
            state_directory=str(folder / "state"),
            log_directory=str(folder / "log"),
            forest=Forest(),
            hierarchy=None,
            no_cgroups="there are none in these tests",
            store=store,
            maintenances=Maintenances(str(folder), "boot", self.lines.append),
            log=self._logger(),
        )
        self._signals = Signals(asyncio.get_running_loop())
        self._signals.on(signal.SIGCHLD, self.world.reaper.reap)
        self.registry = Registry(self.world, self.config(apps), {})

    def _logger(self) -> logging.Logger:
        logger = logging.Logger("test")
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(  # type: ignore[method-assign]
            logging.Formatter("%(levelname)s %(message)s").format(record)
        )
        logger.addHandler(handler)
        return logger

    def config(self, apps: str) -> Config:
        """What is in force when the files have this text; problems are allowed."""
        source = Source(str(self.folder / "cmappserver.toml"), "[server]\n" + apps)
        before = self.registry.config if hasattr(self, "registry") else None
        return settle(before, parse(source.path, [source]), str(self.folder / "log"))

    def apply(self, apps: str) -> None:
        self.registry.apply(self.config(apps))

    def find(self, name: str) -> Supervisor:
        found = self.registry.find(name)
        assert found is not None
        return found

    async def close(self) -> None:
        for supervisor in self.registry.supervisors():
            if supervisor.custody.link is not None:
                supervisor.post(Parted(supervisor.custody.link))
        ending = asyncio.create_task(self.registry.stop())
        await asyncio.sleep(0)
        self.registry.kill()
        await ending
        await self.registry.close()
        self._signals.close()


@contextlib.asynccontextmanager
async def ground(folder: Path, apps: str) -> AsyncIterator[Ground]:
    """The applications of a configuration; none of their processes is left afterwards."""
    become_supervisor()
    made = Ground(folder, apps)
    try:
        yield made
    finally:
        await made.close()
        ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)
    assert not [line for line in made.lines if "Traceback" in line], made.lines


Scene = Callable[[Ground, Supervisor], Coroutine[Any, Any, None]]


def play(folder: Path, apps: str, scene: Scene) -> list[str]:
    """Run a scene around the application "db"; the server's log."""

    async def run() -> list[str]:
        async with ground(folder, apps) as made:
            await scene(made, made.find("db"))
        return made.lines

    return asyncio.run(run())


__all__ = ["Ground", "Recorder", "Reply", "Scene", "ground", "play", "until"]
