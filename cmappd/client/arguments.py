"""The command line of cmappmgr."""

import argparse
import os
from typing import NamedTuple, NoReturn

import cmappd
from cmappd.client import settings
from cmappd.core import units
from cmappd.errors import UsageError

_EPILOG = """\
exit status: the application's own (128+N for signal N), or 200 to 215 for a reason of
cmappmgr's own; cmappmgr(8) lists them. --status: 0 running, 1 failed, 2 in between,
3 stopped. --start, --stop, --detach and --check: 0, or the reason.
"""


class Arguments(NamedTuple):
    """What was asked for. Paths are absolute; ``verb`` is "run" where none was given."""

    app: str
    guest: str | None
    verb: str
    takeover: bool
    report: str | None
    timeout: float | None
    config: str
    log_file: str | None
    ready_fd: int | None
    ends_alone: str | None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see cmappmgr --help")


def parse(words: list[str]) -> Arguments:
    """Raises UsageError; ends the process after --help and --version."""
    given = _parser().parse_args(words)
    verb = given.verb or "run"
    if not given.app or not given.app.isprintable() or len(given.app) > 255:
        raise UsageError(f"cannot use --app {given.app!r}: it is not a name")
    if given.takeover and verb in ("detach", "status", "check"):
        raise UsageError(f"--takeover changes nothing: --{verb} takes no ownership")
    if given.timeout is not None and verb == "run":
        raise UsageError("--timeout is for --start, --stop, --detach, --status and --check")
    if given.ready_fd is not None and verb != "run":
        raise UsageError("--ready-fd is for running, not for --start and the other verbs")
    if given.ends_alone is not None and verb != "run":
        raise UsageError("--ends-alone is for running, not for --start and the other verbs")
    return Arguments(
        given.app,
        given.guest,
        verb,
        given.takeover,
        _absolute(given.report),
        given.timeout,
        os.path.abspath(given.config),
        _absolute(given.log_file),
        given.ready_fd,
        _absolute(given.ends_alone),
    )


def report_of(words: list[str]) -> str | None:
    """The file of ``--report``, also where other words are refused."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--report")
    try:
        return _absolute(parser.parse_known_args(words)[0].report)
    except UsageError:
        return None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cmappmgr",
        description="Start an application in a guest, follow it, and exit when it ends.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--app", metavar="NAME", required=True, help="the application, as the guest names it")
    add("--guest", metavar="NAME|HOST[:PORT]", help="the guest (default: the configured one)")
    verbs = parser.add_mutually_exclusive_group()
    for verb, text in (
        ("start", "return when it runs, and leave it running"),
        ("stop", "stop it, and return when it is gone"),
        ("detach", "end the manager that follows it, and let it run on for the next"),
        ("status", "print its state"),
        ("check", "reach the guest, authenticate, and see that it is defined there"),
    ):
        verbs.add_argument(f"--{verb}", dest="verb", action="store_const", const=verb, help=text)
    add("--takeover", action="store_true", help="take it from the manager that owns it")
    add("--timeout", metavar="DURATION", type=duration, help='of the verb, such as "90s"')
    add("--report", metavar="FILE", help="write how it ended to FILE, as JSON")
    add("--config", metavar="FILE", default=settings.DEFAULT_FILE, help="default: %(default)s")
    add("--log-file", metavar="FILE", help="log to FILE too; SIGHUP reopens it")
    add("--ready-fd", metavar="FD", type=_descriptor, help="write a line to FD when it is ready")
    add("--ends-alone", metavar="FILE", help="keep in FILE when the guest, cut off, has ended it")
    add("--version", action="version", version=f"cmappmgr {cmappd.__version__}")
    return parser


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def duration(text: str) -> float:
    """Seconds above zero, as an argument of a command line."""
    try:
        seconds = units.parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if seconds <= 0:
        raise argparse.ArgumentTypeError("must be above zero")
    return seconds


def _descriptor(text: str) -> int:
    """An open one, looked at before anything else could be opened under its number."""
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if number < 3:
        raise argparse.ArgumentTypeError("must be a number from 3")
    try:
        os.fstat(number)
    except (OSError, OverflowError):
        raise argparse.ArgumentTypeError(f"descriptor {text} is not open") from None
    return number
