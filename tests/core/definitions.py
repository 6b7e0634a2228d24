"""Applications for the tests of the core, with intervals that are easy to reckon with."""

from typing import Literal

from cmappd.core.config import Application, Health, Ownership, Resources, Restart, Start, Stop
from cmappd.core.lifecycle import App
from cmappd.core.lifecycle.app import Kind

Action = Literal["restart", "report"]
Policy = Literal["never", "on-failure", "always"]

WINDOW = 600.0
LIMIT = 2


def health(
    action: Action = "restart",
    *,
    watchdog: float | None = None,
    failures: int = 2,
    successes: int = 2,
    start_period: float = 0.0,
) -> Health:
    """Checks every 10 s."""
    return Health(
        watchdog=watchdog,
        command=("/bin/ping-db",),
        interval=10.0,
        timeout=5.0,
        failures=failures,
        successes=successes,
        start_period=start_period,
        action=action,
    )


def watched(action: Action = "restart", watchdog: float = 12.0) -> Health:
    """No checks; the application is to ping."""
    return Health(watchdog=watchdog, action=action)


def definition(
    policy: Policy = "never",
    *,
    ready: float | Literal["health", "notify"] = 1.0,
    start_timeout: float = 60.0,
    stop_timeout: float = 30.0,
    tree: bool = False,
    limit: int = LIMIT,
    delay: float = 1.0,
    health: Health | None = None,
    kind: Kind = "simple",
    commands: tuple[int, int, int] = (0, 0, 0),
    requires: tuple[str, ...] = (),
    autostart: bool = False,
    resources: Resources | None = None,
    on_lost: Literal["keep", "stop"] = "keep",
) -> Application:
    """A database, restarted by the policy after 1 s (``delay``), 2 s, 4 s, ... up to 8 s.

    ``commands`` are 1 where there is a start.command, a stop.command, and a stop.after.
    """
    before, stop, after = ((f"/bin/{n}",) if n else None for n in commands)
    if kind == "oneshot":
        start = Start(command=before, timeout=start_timeout)
    else:
        start = Start(command=before, ready=ready, timeout=start_timeout)
    return Application(
        command=("/bin/run-db",),
        type=kind,
        requires=requires,
        start=start,
        stop=Stop(command=stop, tree=tree, timeout=stop_timeout, after=after),
        restart=Restart(policy=policy, limit=limit, window=WINDOW, delay=delay, max_delay=8.0),
        health=health,
        autostart=autostart,
        resources=resources or Resources(),
        manager=Ownership(on_lost=on_lost),
    )


def fresh(defined: Application) -> App:
    """An application that never ran; its runs are db.e.1, db.e.2, ..."""
    return App("db", "e", defined)
