"""Checks a configuration without running it: the files, and what they name on this machine."""

import os
import time
from collections.abc import Iterator, Mapping
from math import ceil

from cmappd.core.at_most_once import least_lost_after
from cmappd.core.config import Application, Config, Problem, Tls
from cmappd.core.config.problems import KeyPath, dotted
from cmappd.core.config.schema import Log
from cmappd.core.config.stanzas import Stanza
from cmappd.core.units import format_duration
from cmappd.errors import CmappdError
from cmappd.server.application.confinement import resources_of
from cmappd.server.application.status import ends_within
from cmappd.server.certificates import ending, invalid, load_certificates
from cmappd.server.cgroups import about_machine
from cmappd.server.load import Loader
from cmappd.server.machine import lacks
from cmappd.system import directory
from cmappd.system.cgroup import Resources
from cmappd.system.files import read_text
from cmappd.system.hierarchy import lacking
from cmappd.system.log import journal, syslog

# The path of a key, and what is wrong with its value.
Finding = tuple[KeyPath, str]


def check(path: str) -> tuple[int, list[str], str]:
    """How many applications a configuration has, and all that is wrong with it, a line each.

    The third is what this machine has to offer, and what managers must know, in lines.
    Raises ConfigError when cmappserver could not start with it at all.
    """
    loader = Loader(path)
    config = loader.load()
    wrong, soon = _certificates(config.tls)
    found = [(path, one) for one in wrong]
    apps = sorted(config.apps.items())
    for name, app in apps:
        for key, text in _application(app):
            found.append((config.origins[name], (("apps", name, *key.split(".")), text)))
    problems = [*config.problems, *_placed(found)]
    problems.sort(key=lambda one: (one.file != path, one.file, one.line or 0))
    notes = [about_machine(), *soon, *loader.missed, *_strangers(config)]
    notes += [note for name, _ in apps for note in _notes(name, config.apps)]
    return len(config.apps), [str(problem) for problem in problems], "\n".join(notes)


def _strangers(config: Config) -> Iterator[str]:
    """Whom managers may drive, though there is no such application."""
    for name, manager in sorted(config.managers.items()):
        for app in manager.apps if manager.apps != ("*",) else ():
            if app not in config.origins:
                yield f"managers.{name}: there is no application '{app}' in this guest"


def _placed(found: list[tuple[str, Finding]]) -> Iterator[Problem]:
    """What was found on the machine, with the line of the file that asks for it."""
    files = {file: Stanza(file, read_text(file), 0) for file in {file for file, _ in found}}
    for file, (key, text) in found:
        for line in text.splitlines():
            yield Problem(file, files[file].line(key), dotted(key), line)


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
        if app.autostart:
            yield (
                f"apps.{name}: autostart = true starts it when this guest boots, without a manager,"
                " also while another guest runs it; where it may run in another guest, it needs"
                " autostart = false"
            )
        for required in app.requires:
            if apps[required].manager.on_lost != "stop":
                yield (
                    f"apps.{name}: '{required}', which it requires, runs on when its lease is over;"
                    ' where it may also run in another guest, it needs on_lost = "stop" and a'
                    " manager, too"
                )


def _certificates(section: Tls | None) -> tuple[list[Finding], list[str]]:
    """What is wrong with them, and what will be."""
    if section is None:
        return [], []
    try:
        found = load_certificates(section)
    except CmappdError as error:
        return [(("tls",), str(error))], []
    now = time.time()
    wrong = invalid(found.periods, now)
    return [(("tls",), text) for text in wrong], ending(found.periods, now)


def _application(app: Application) -> Iterator[tuple[str, str]]:
    """Its keys, and why this machine does not have what they name."""
    for lack in lacks(app):
        yield lack.key, lack.text
    try:
        yield "resources", lacking(resources_of(app))
    except CmappdError as error:
        if resources_of(app) != Resources():
            yield "resources", f"cannot limit resources: {error}"
    yield from _log(app.log)


def _log(log: Log) -> Iterator[tuple[str, str]]:
    """Why nothing could be written to it."""
    socket = {"journal": journal.SOCKET, "syslog": syslog.SOCKET}.get(log.destination)
    if socket is not None and not os.path.exists(socket):
        yield "log.destination", f"cannot write to {socket}: nobody listens on this machine"
    if log.path is not None:
        try:
            with directory.fixed(log.path):
                pass
        except OSError as error:
            yield "log.path", f"cannot open {log.path}: {error.strerror}"
