"""cmappmgr: one process on the VM host for one application in a guest.

It is small, because hundreds of it run on one host: neither asyncio nor pydantic nor logging.
What it does is decided in ``core.follow``; here are the clock, the signals and the link.
"""

import math
import os
import select
import signal
import sys
import time
from contextlib import suppress

import cmappd
from cmappd import reasons
from cmappd.client import arguments, link, report, settings
from cmappd.client.arguments import Arguments
from cmappd.client.call import Opener
from cmappd.client.link import Link, LinkError
from cmappd.client.log import INFO, Log
from cmappd.client.settings import Guest, Intervals, Settings
from cmappd.core import at_most_once
from cmappd.core.budget import LINES
from cmappd.core.follow.actions import Action, Close, Connect, Exit, Ready, Send, Terms
from cmappd.core.follow.actions import Log as Say
from cmappd.core.follow.follower import Follower
from cmappd.core.follow.verdicts import exit_as
from cmappd.core.messages import Ended
from cmappd.core.printable import printable
from cmappd.core.wording import ERROR
from cmappd.errors import ConfigError, UsageError

SOFTWARE = f"cmappmgr/{cmappd.__version__}"
STOPPING = (signal.SIGTERM, signal.SIGINT)
FOLLOWING = (*STOPPING, signal.SIGUSR1)
OWN_CODES = 200  # and above; below are answers


def main() -> None:
    """Run cmappmgr; does not return."""
    _open_standard_descriptors()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os._exit(_run(sys.argv[1:]))


def _run(words: list[str]) -> int:
    started = time.time()
    try:
        asked = arguments.parse(words)
        log = Log(asked.app, asked.log_file)
    except UsageError as error:
        return _refuse(words, str(error), started)
    except SystemExit as over:  # --help and --version
        _flush()
        return over.code if isinstance(over.code, int) else 0
    guest = None
    try:
        chosen = settings.load(asked.config)
        found = chosen.guest(asked.guest)
        guest = found.name
        log.label = f"{asked.app}@{guest}"
        end = _carry_out(asked, chosen, found, log)
    except (UsageError, ConfigError) as error:
        end = exit_as(reasons.USAGE, str(error), None)
    _tell(asked, log, end)
    if asked.report is not None:
        _report(asked.report, report.make(end, asked.app, guest, started, time.time()), log)
    return end.code


def _refuse(words: list[str], why: str, started: float) -> int:
    """Before there is a log, and an application."""
    log, end, path = Log(""), exit_as(reasons.USAGE, why, None), arguments.report_of(words)
    log.write(why, ERROR)
    if path is not None:
        _report(path, report.make(end, "", None, started, time.time()), log)
    return end.code


def _report(path: str, made: report.Report, log: Log) -> None:
    try:
        report.write(path, made)
    except OSError as error:
        log.write(f"cannot write --report {path}: {error.strerror}", ERROR)


def _tell(asked: Arguments, log: Log, end: Exit) -> None:
    """The last line: of a question the answer, of all else why the process ends."""
    if asked.verb in ("status", "check") and end.code < OWN_CODES:
        with suppress(OSError):
            os.write(1, f"{printable(f'{log.label}: {end.text}')}\n".encode())
        return
    run = "" if end.run is None else f" (run {end.run})"
    for line in end.text.splitlines()[:LINES] or [""]:
        severity = INFO if end.code == 0 else ERROR
        log.write(f"exit {end.code}, {end.reason.name}: {line}{run}", severity)


def _carry_out(asked: Arguments, chosen: Settings, guest: Guest, log: Log) -> Exit:
    try:
        security = link.security(*chosen.tls, guest.server_name)
    except LinkError as error:
        return exit_as(error.failure.reason, str(error), None)

    def opener(now: float, until: float) -> Link:
        return Link(link.resolve(guest.host, guest.port, guest.hint), security, now, until)

    instance, chance = os.urandom(8).hex(), os.urandom(1)[0] / 255
    if asked.verb not in ("run", "start"):
        return _answer(asked, chosen.intervals, opener, instance, chance, log)
    intervals = chosen.intervals
    start_timeout = asked.timeout or intervals.start_timeout
    terms = Terms(
        asked.app,
        SOFTWARE,
        instance,
        chance,
        asked.takeover,
        intervals.poll_interval,
        intervals.connect_timeout,
        intervals.lost_after,
        intervals.stop_timeout,
        start_timeout if asked.verb == "start" else None,
    )
    # A script's --start dies of SIGTERM as any command does; what it started runs on.
    wakening = _wake_on(signal.SIGHUP, *(FOLLOWING if asked.verb == "run" else ()))
    follower = Follower(terms, time.monotonic())
    return Driver(follower, opener, log, wakening, asked.ready_fd, asked.ends_alone).run()


def _answer(
    asked: Arguments,
    intervals: Intervals,
    opener: Opener,
    instance: str,
    chance: float,
    log: Log,
) -> Exit:
    from cmappd.client import verbs

    now = time.monotonic()
    usual = intervals.stop_timeout if asked.verb == "stop" else intervals.connect_timeout
    errand = verbs.Errand(
        asked.app,
        opener,
        SOFTWARE,
        instance,
        chance,
        connect_until=now + intervals.connect_timeout,
        until=now + (asked.timeout or usual),
        lost_after=intervals.lost_after,
        say=log.note,
    )
    if asked.verb == "stop":
        return verbs.stop(errand, asked.takeover)
    if asked.verb == "detach":
        return verbs.detach(errand)
    return verbs.status(errand) if asked.verb == "status" else verbs.check(errand)


class Driver:
    """Tells a follower what happens, and carries out what it asks for."""

    def __init__(
        self,
        follower: Follower,
        opener: Opener,
        log: Log,
        wakening: int,
        ready_fd: int | None = None,
        ends_alone: str | None = None,
    ) -> None:
        """``wakening`` is a descriptor from which the numbers of signals are read.

        To ``ready_fd`` a line is written when the application is ready; ``ends_alone`` is the path
        of what `report.EndsAlone` keeps.
        """
        self._follower = follower
        self._opener = opener
        self._log = log
        self._wakening = wakening
        self._ready_fd = ready_fd
        self._ends_alone = None if ends_alone is None else report.EndsAlone(ends_alone)
        self._link: Link | None = None
        self._end: Exit | None = None

    def run(self) -> Exit:
        """Until it is over."""
        while True:
            self._hear_signals()
            # What came until now is heard before it is judged, also after a pause of this process.
            now = time.monotonic()
            self._hear_link()
            deadline = self._follower.deadline
            if deadline is not None and now >= deadline:
                self._carry_out(self._follower.tick(now))
            if self._end is not None:
                return self._end
            self._wait()

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self._wakening, select.POLLIN)
        deadlines = [self._follower.deadline]
        if self._link is not None:
            if self._link.fileno() < 0:
                return
            poller.register(self._link, self._link.events())
            deadlines.append(self._link.deadline)
        until = min((each for each in deadlines if each is not None), default=None)
        left = None if until is None else max(0, math.ceil((until - time.monotonic()) * 1000))
        poller.poll(left)

    def _hear_signals(self) -> None:
        try:
            numbers = os.read(self._wakening, 64)
        except BlockingIOError:
            return
        for number in numbers:
            if number == signal.SIGHUP:
                self._log.reopen()
            elif number in STOPPING:
                self._carry_out(self._follower.stop(time.monotonic()), always=True)
            elif number == signal.SIGUSR1:
                self._carry_out(self._follower.detach(time.monotonic()), always=True)

    def _hear_link(self) -> None:
        current = self._link
        if current is None:
            return
        was_ready = current.ready
        try:
            messages = current.work(time.monotonic())
        except LinkError as error:
            self._close()
            self._carry_out(self._follower.link_lost(error.failure, time.monotonic()))
            return
        now = time.monotonic()  # after it was read: it must not be heard before it was said
        if current.ready and not was_ready:
            for line in current.expiring():
                self._log.note(line.text, line.severity)
            self._carry_out(self._follower.connected(now))
        for message in messages:
            if self._link is current:
                actions = self._follower.message(message, now)
                self._keep_ends_alone()  # before anybody is told that it is ready
                # The result and its evidence come once, whatever was said before them.
                self._carry_out(actions, always=isinstance(message, Ended))

    def _keep_ends_alone(self) -> None:
        status = self._follower.status
        if self._ends_alone is None or status is None:
            return
        try:
            self._ends_alone.keep(at_most_once.ends_alone_after(status.ends_within))
        except OSError as error:
            path = self._ends_alone.path
            self._log.write(f"cannot write --ends-alone {path}: {error.strerror}", ERROR)

    def _carry_out(self, actions: list[Action], always: bool = False) -> None:
        """With ``always`` their lines are written, however many the guest has brought about."""
        write = self._log.write if always else self._log.note
        for action in actions:
            match action:
                case Say(line, run):
                    text = line.text if run is None else f"{line.text} (run {run})"
                    write(text, line.severity)
                case Send(message):
                    if self._link is not None:
                        self._link.send(message)
                case Connect(until):
                    self._connect(until)
                case Close():
                    self._close()
                case Ready():
                    self._tell_ready()
                case Exit():
                    self._end = action

    def _tell_ready(self) -> None:
        if self._ready_fd is None:
            return
        with suppress(OSError):  # whoever asked is gone, or does not read: nothing depends on it
            os.set_blocking(self._ready_fd, False)
            os.write(self._ready_fd, b"ready\n")
        os.close(self._ready_fd)

    def _connect(self, until: float) -> None:
        try:
            self._link = self._opener(time.monotonic(), until)
        except LinkError as error:
            self._carry_out(self._follower.link_lost(error.failure, time.monotonic()))

    def _close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def _wake_on(*numbers: signal.Signals) -> int:
    """Give a descriptor from which the numbers of these signals can be read as they come."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    # Whoever started us may have blocked them; that is inherited.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    return reading


def _open_standard_descriptors() -> None:
    """Closed ones are opened on nothing, so that no socket is taken for standard error."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        os.set_inheritable(fd, True)
        fd = os.dup(fd)
    os.close(fd)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()
