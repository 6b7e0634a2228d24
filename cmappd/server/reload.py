"""Hot reload: the files are read again, and what they say is put in force."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from cmappd.core.config import Change, Config, Plan
from cmappd.core.messages import Done, Refused
from cmappd.server.load import Loader
from cmappd.server.registry import Registry
from cmappd.server.shared.world import World

Tell = Callable[[Done | Refused], None]
# Problems of one reload that go over the wire; the log has them all.
PROBLEMS_SHOWN = 50
FIRST_RETRY, LAST_RETRY = 2.0, 60.0  # seconds until what cannot be served is tried again
# The keys of [server] that are read at the start, and not again.
AT_START = ("control", "log_format", "state_directory")


class Service(NamedTuple):
    """How serving went: what is wrong, and whether certificates were renewed in their files."""

    problems: list[str]
    renewed: bool


class Reloader:
    """Reloads, one at a time, whoever asks."""

    def __init__(self, world: World, loader: Loader, registry: Registry) -> None:
        self._world = world
        self._loader = loader
        self._registry = registry
        # Puts in force what is no application's, the listeners and the certificates; set when
        # there is something to serve with.
        self.serve: Callable[[Config], Awaitable[Service]] = _serve_nothing
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        # What is wrong with the listeners and the certificates.
        self.service_problems: list[str] = []
        self._shown: list[str] = []
        self._since = NOTHING  # and what did before: the watcher is often first to see an edit
        self._delay, self._retry_at = FIRST_RETRY, 0.0  # the latter monotonic seconds

    async def begin(self) -> None:
        """Serve what was loaded, and log what is wrong with it."""
        async with self._lock:
            config = self._registry.config
            renewed = await self._serve(config)
            self._log(RENEWED if renewed else NOTHING, self._all_problems(config))

    async def retry(self) -> None:
        """Try again what could not be served, if it is time: an address may have come up."""
        if self.service_problems and time.monotonic() >= self._retry_at:
            self._delay = min(2 * self._delay, LAST_RETRY)
            await self.begin()

    async def _serve(self, config: Config) -> bool:
        """Whether certificates were renewed."""
        before = self.service_problems
        self.service_problems, renewed = await self.serve(config)
        if self.service_problems != before:
            self._delay = FIRST_RETRY
        self._retry_at = time.monotonic() + self._delay
        return renewed

    def ask(self, seq: int, tell: Tell) -> None:
        """Reload, and tell the outcome as the answer to request ``seq``."""
        task = asyncio.create_task(self._reload_for(seq, tell))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_for(self, seq: int, tell: Tell) -> None:
        summary, problems = await self.reload()
        said = self._since if summary == NOTHING else summary
        if problems:
            shown = problems[:PROBLEMS_SHOWN]
            tell(Refused(seq, "usage", "\n".join([*shown, f"otherwise: {said}"])))
        else:
            tell(Done(seq, said))

    async def reload(self) -> tuple[str, list[str]]:
        """What has changed, in a sentence, and what is wrong with the files."""
        async with self._lock:
            if self._world.ending:
                return NOTHING, [self._world.ending]
            try:
                return await self._reload()
            except Exception as error:  # a defect, which must not end the supervision
                self._world.log.exception("cannot reload")
                return NOTHING, [f"cannot reload: {error!r}"]

    async def _reload(self) -> tuple[str, list[str]]:
        # In a thread: reading a thousand stanzas may not hold up the supervision.
        config = await asyncio.to_thread(self._loader.load, self._registry.up())
        if self._world.ending:  # the applications are leaving
            return NOTHING, [self._world.ending]
        before = self._registry.config
        plan = self._registry.apply(config)
        renewed = await self._serve(config)
        late = [
            key for key in AT_START if getattr(before.server, key) != getattr(config.server, key)
        ]
        problems, summary = self._all_problems(config), summarize(plan, late, renewed=renewed)
        self._log(summary, problems)
        return summary, problems

    def _all_problems(self, config: Config) -> list[str]:
        return [str(problem) for problem in config.problems] + self.service_problems

    def _log(self, summary: str, problems: list[str]) -> None:
        log = self._world.log
        if summary != NOTHING:
            log.info("configuration reloaded: %s", summary)
            self._since = f"{NOTHING} now; at {time.strftime('%H:%M:%S')}: {summary}"
        if problems != self._shown:
            for problem in problems:
                log.error("configuration: %s", problem)
            if not problems:
                log.info("configuration: all problems are mended")
        self._shown = problems


async def _serve_nothing(_config: Config) -> Service:
    return Service([], renewed=False)


NOTHING = "nothing has changed"
RENEWED = "[tls] certificates renewed"


def summarize(plan: Plan, late: Sequence[str] = (), *, renewed: bool = False) -> str:
    """What a reload has changed: "changed: oracle (restart; at its next launch: command)".

    ``late`` are the changed keys of [server] that are read at the start.
    """
    parts = []
    if plan.added:
        parts.append(f"added: {', '.join(plan.added)}")
    if plan.changed:
        changes = [f"{name} ({_keys(change)})" for name, change in plan.changed.items()]
        parts.append(f"changed: {', '.join(changes)}")
    if plan.removed:
        parts.append(f"removed: {', '.join(plan.removed)}")
    sections = {
        "[server]": plan.server_changed,
        "[tls]": plan.tls_changed,
        "[managers]": plan.managers_changed,
    }
    parts += [f"{name} changed" for name, changed in sections.items() if changed]
    if late:
        parts.append(f"{', '.join(late)}: not before cmappserver is restarted")
    if renewed and not plan.tls_changed:
        parts.append(RENEWED)
    return "; ".join(parts) or NOTHING


def _keys(change: Change) -> str:
    parts = [", ".join(sorted(change.live))] if change.live else []
    if change.launch:
        parts.append(f"at its next launch: {', '.join(sorted(change.launch))}")
    return "; ".join(parts)
