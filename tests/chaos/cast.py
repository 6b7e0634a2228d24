"""The applications of the chaos test: of all types, each with its manners."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import actor

Table = dict[str, Any]
START_TIMEOUT = 45  # seconds; of most of them

# A shell and its children, as many a service is; it notes its birth as actor.py does.
SHELL = """
exec 2>/dev/null; cd "$0"; read -r stat </proc/$$/stat; set -- $stat; shift 21
echo "born 0 ${PWD##*/} $$.$1 main $CMAPPD_RUN" >>../journal
while :; do "$0/sleep" 0.7; done
"""


@dataclass(frozen=True)
class Part:
    """One application: its stanza, and what the test has to know of it."""

    name: str
    keys: Table
    managed: bool = True  # by a manager; else it starts by itself, or by the administrator
    policy: str = "never"
    limit: int = 0
    lease: float | None = None  # of one that may not outlive its manager
    kind: str = "simple"
    obeys: bool = True  # ends by order, with a code of its own
    health: str = ""  # what follows when it is sick
    prepares: bool = False  # has a start.command
    children: bool = False
    stubborn: bool = False  # only SIGKILL ends it
    requires: str = ""
    required: bool = False  # it is stopped with the guest only
    form: str = "raw"  # of the lines in its log
    watched: bool = False  # ends when it is silent for too long
    disk: Path | None = None  # of its log, a small one
    quick: bool = False  # its log may be rotated at any moment
    full: bool = False  # its log goes to a full disk from time to time

    @property
    def has_main(self) -> bool:
        return self.kind != "oneshot"


def parts(cast: Path, disk: Path | None, *, hide: bool) -> Iterator[Part]:
    """All of them. ``disk`` is a small one, if there is one to be had; with ``hide`` a process
    that shows nothing is known, because there are cgroups.
    """
    bare = "dbh" if hide else "db"

    def play(name: str, role: str = "simple", /, **options: object) -> list[str]:
        words = [f"{key}={value}" for key, value in options.items()]
        folder = str(cast / name)
        return [sys.executable, "-I", "-S", str(actor.__file__), folder, role, *words]

    def part(name: str, command: list[str], keys: Table | None = None, **traits: Any) -> Part:
        keys = keys or {}
        stanza = {"command": command, "directory": "/", **keys}
        stanza["start"] = {"timeout": f"{START_TIMEOUT}s", **keys.get("start", {})}
        if keys.get("type") != "oneshot":
            stanza["start"].setdefault("ready", "0s")
        stanza["stop"] = {"timeout": "20s", **keys.get("stop", {})}
        folder = traits.get("disk") or cast.parent / "logs"
        backups = 4 if traits.get("disk") else 50
        log = {"path": str(folder / f"{name}.log"), "max_size": "64K", "backups": backups}
        stanza["log"] = keys.get("log", {**log, "format": traits.get("form", "raw")})
        return Part(name, stanza, **traits)

    def restarts(policy: str, limit: int) -> Table:
        rule = {"policy": policy, "limit": limit, "window": "10d", "delay": "100ms"}
        return {"restart": {**rule, "max_delay": "400ms"}}

    def health(name: str, action: str = "restart") -> Table:
        rule = {"command": play(name, "health"), "interval": "500ms", "timeout": "20s"}
        return {"health": {**rule, "failures": 2, "action": action}}

    yield part("plain", play("plain"))
    yield part("polite", play("polite", term=0, rate=4), form="timestamps")
    yield part("shell", ["/bin/sh", "-c", SHELL, str(cast / "shell")], obeys=False)
    yield part("family", play("family", children="ccc"), children=True)
    yield part("sessions", play("sessions", children="sdc", term=5), children=True)
    yield part("bare", play("bare", children=bare), children=True)
    yield part("tree", play("tree", children="cds"), {"stop": {"tree": True}}, children=True)
    yield part(
        "stubborn",
        play("stubborn", term="ignore", children="d", heavy=256),
        {"stop": {"timeout": "400ms"}},
        children=True,
        stubborn=True,
    )
    yield part("talker", play("talker", rate=20, lines=5), quick=True, form="json")
    yield part("chatter", play("chatter", rate=10, lines=100), quick=True)
    yield part("settling", play("settling"), {"start": {"ready": "300ms"}})
    pid_file = str(cast / "pidfile" / "pid")
    yield part(
        "pidfile",
        play("pidfile", "forking", pid_file=pid_file, children="d"),
        {"type": "forking", "pid_file": pid_file},
        kind="forking",
        children=True,
    )
    yield part(
        "daemon",
        play("daemon", "forking", children="c"),
        {"type": "forking"},
        kind="forking",
        children=True,
    )
    yield part(
        "again",
        play("again", "forking"),
        {"type": "forking", **restarts("always", 2)},
        kind="forking",
        policy="always",
        limit=2,
    )
    yield part("once", play("once", "oneshot"), {"type": "oneshot"}, kind="oneshot", obeys=False)
    yield part(
        "leaves",
        play("leaves", "oneshot", children="d"),
        {"type": "oneshot", "stop": {"after": play("leaves", "after")}},
        kind="oneshot",
        obeys=False,
        children=True,
    )
    yield part(
        "careful",
        play("careful", children="d"),
        {
            "start": {"command": play("careful", "start")},
            "stop": {
                "command": play("careful", "stop"),
                "after": play("careful", "after"),
            },
        },
        prepares=True,
        children=True,
    )
    yield part(
        "checked",
        play("checked"),
        {"start": {"ready": "health"}, **health("checked")},
        health="restart",
    )
    yield part(
        "healed",
        play("healed", children="c"),
        {**health("healed"), **restarts("on-failure", 3)},
        health="restart",
        policy="on-failure",
        limit=3,
        children=True,
    )
    yield part("reported", play("reported"), health("reported", "report"), health="report")
    yield part("revived", play("revived"), restarts("on-failure", 3), policy="on-failure", limit=3)
    yield part(
        "eternal",
        play("eternal", term=0),
        {**restarts("always", 100_000), "autostart": True},
        policy="always",
        limit=100_000,
        managed=False,
    )
    yield part(
        "base",
        play("base", children="c"),
        {**restarts("always", 100_000), "autostart": True},
        policy="always",
        limit=100_000,
        managed=False,
        children=True,
        required=True,
    )
    yield part(
        "upper", play("upper", children="s"), {"requires": ["base"]}, children=True, requires="base"
    )
    yield part("own", play("own"), {"autostart": True}, managed=False)
    yield part("always", play("always"), restarts("always", 1), policy="always", limit=1)
    yield part(
        "leased",
        play("leased", children="d"),
        {"manager": {"on_lost": "stop", "lease": "45s"}},
        lease=45.0,
        children=True,
    )
    # What said that it is ready while no cmappserver was there is so when its time is over.
    yield part(
        "tells",
        play("tells", slow=0.2, children="d"),
        {"start": {"ready": "notify", "timeout": "20s"}},
        children=True,
    )
    yield part(
        "watched",
        play("watched", rate=5),
        {"start": {"ready": "notify", "timeout": "20s"}, "health": {"watchdog": "6s"}},
        watched=True,
        form="timestamps",
    )
    yield part("tight", play("tight", rate=4, lines=10), disk=disk)
    yield part("full", play("full", rate=10, lines=5), full=True)
    yield part("restless", play("restless"), {"reload": "restart"})
