"""Checks a configuration without running it: the files, and what they name on this machine."""

import os
from collections.abc import Iterator, Mapping
from math import ceil

from cmappd.core.at_most_once import least_lost_after
from cmappd.core.config import Application, Tls
from cmappd.core.config.schema import Log
from cmappd.core.units import format_duration
from cmappd.errors import CmappdError
from cmappd.server.application.confinement import resources_of
from cmappd.server.application.launches import launch_of
from cmappd.server.application.status import ends_within
from cmappd.server.certificates import load_certificates
from cmappd.server.cgroups import about_machine
from cmappd.server.load import load
from cmappd.system import directory
from cmappd.system.cgroup import Resources
from cmappd.system.hierarchy import lacking
from cmappd.system.log import journal, syslog


def check(path: str) -> tuple[int, list[str], str]:
    """How many applications a configuration has, and all that is wrong with it, a line each.

    The third is what this machine has to offer, and what managers must know, in lines.
    Raises ConfigError when cmappserver could not start with it at all.
    """
    config = load(path)
    findings = [str(problem) for problem in config.problems]
    if config.tls is not None:
        findings += _certificates(config.tls)
    apps = sorted(config.apps.items())
    for name, app in apps:
        findings += [f"apps.{name}: {finding}" for finding in _application(name, app)]
    notes = [about_machine(), *(note for name, _ in apps for note in _notes(name, config.apps))]
    return len(config.apps), findings, "\n".join(notes)


def _notes(name: str, apps: Mapping[str, Application]) -> Iterator[str]:
    """What the two sides must agree in, and neither can see of the other."""
    app = apps[name]
    if app.manager.on_lost == "stop":
        within = ends_within(app)
        least = format_duration(ceil(least_lost_after(within)))
        yield (
            f"apps.{name}: may run for {format_duration(within)} after its manager is cut off;"
            f' where it may also run in another guest, cmappmgr.toml needs lost_after = "{least}"'
        )
        for required in app.requires:
            if apps[required].manager.on_lost != "stop":
                yield (
                    f"apps.{name}: '{required}', which it requires, runs on when its lease is over;"
                    ' where it may also run in another guest, it needs on_lost = "stop" and a'
                    " manager, too"
                )


def _certificates(section: Tls) -> Iterator[str]:
    try:
        load_certificates(section)
    except CmappdError as error:
        yield str(error)


def _application(name: str, app: Application) -> Iterator[str]:
    try:
        launch_of(name, "", app, app.command, output=-1)
    except CmappdError as error:
        yield str(error)
    try:
        yield from lacking(resources_of(app)).splitlines()
    except CmappdError as error:
        if resources_of(app) != Resources():
            yield f"cannot limit resources: {error}"
    for key, command in app.commands.items():
        if not os.access(command[0], os.X_OK):
            yield f"{key}: cannot execute '{command[0]}': it is missing, or not executable"
    yield from _log(app.log)
    if app.directory is not None and not os.path.isdir(app.directory):
        yield f"cannot enter '{app.directory}': there is no such directory"


def _log(log: Log) -> Iterator[str]:
    """Why nothing could be written to it."""
    socket = {"journal": journal.SOCKET, "syslog": syslog.SOCKET}.get(log.destination)
    if socket is not None and not os.path.exists(socket):
        yield f"log.destination: cannot write to {socket}: nobody listens on this machine"
    if log.path is not None:
        try:
            with directory.fixed(log.path):
                pass
        except OSError as error:
            yield f"log.path: cannot open {log.path}: {error.strerror}"
