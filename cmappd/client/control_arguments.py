"""The command line of cmappctl."""

import argparse

import cmappd
from cmappd.client.arguments import duration
from cmappd.core import units
from cmappd.core.messages import MAX_MAINTENANCE
from cmappd.system.paths import DEFAULT_CONFIG

DEFAULT_PKI = "/etc/cmappd/pki"
MOST_LINES = 100_000
DEFAULT_MAINTENANCE = 3600.0  # seconds

_EPILOG = """\
exit status: 0 done, 1 failed or refused, 2 wrong arguments, 4 cmappserver cannot be reached.
"""


def parse(words: list[str]) -> argparse.Namespace:
    """Ends the process after --help and --version, and with 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="cmappctl",
        description="Ask the cmappserver of this guest.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cmappctl {cmappd.__version__}")
    parser.add_argument("--socket", metavar="PATH", help="the control socket of cmappserver")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_status(verbs)
    for verb in ("start", "stop", "restart"):
        one = verbs.add_parser(verb, help=f"{verb} applications, and wait for it")
        one.add_argument("apps", nargs="+", metavar="APP")
        _add_timeout(one, "how long to wait (default: as long as it takes)")
    maintenance = _add_maintenance(verbs)
    one = verbs.add_parser("reload", help="read the configuration again")
    _add_timeout(one, "how long to wait (default: 1m)")
    one = verbs.add_parser("history", help="print how the last runs of an application ended")
    one.add_argument("app", metavar="APP")
    one = verbs.add_parser("upgrade", help="replace cmappserver by the version on disk")
    _add_timeout(one, "how long to wait (default: 1m)")
    one = verbs.add_parser("logs", help="print the end of an application's log")
    one.add_argument("app", metavar="APP")
    one.add_argument("-n", dest="lines", metavar="N", type=_lines, default=10, help="lines")
    one.add_argument("-f", dest="follow", action="store_true", help="and all that comes after them")
    one = verbs.add_parser("reopen", help="open log files anew, after they were moved away")
    one.add_argument("apps", nargs="*", metavar="APP")
    one = verbs.add_parser("check", help="check a configuration; nothing is changed")
    one.add_argument(
        "file", nargs="?", metavar="FILE", default=DEFAULT_CONFIG, help="default: %(default)s"
    )
    verbs.add_parser("version", help="print the versions of cmappctl and cmappserver")
    _add_pki(verbs)
    given = parser.parse_args(words)
    if given.verb == "maintenance":
        _complete_maintenance(maintenance, given)
    return given


def _add_status(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    one = verbs.add_parser("status", help="show applications")
    one.add_argument("apps", nargs="*", metavar="APP")
    form = one.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as one JSON object")
    form.add_argument("-v", "--verbose", action="store_true", help="all that is known")


def _add_maintenance(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> argparse.ArgumentParser:
    one = verbs.add_parser(
        "maintenance",
        usage="cmappctl maintenance [APP ... [on [--for DURATION] [--reason TEXT] | off]]",
        help="leave applications alone while somebody works on them; or show where that is so",
    )
    one.add_argument("words", nargs="*", metavar="APP ... [on|off]")
    most = units.format_duration(MAX_MAINTENANCE)
    text = f"when it ends by itself: 1h by default, at most {most}"
    one.add_argument("--for", dest="seconds", metavar="DURATION", type=duration, help=text)
    one.add_argument("--reason", metavar="TEXT", help="for the logs and the status")
    return one


def _complete_maintenance(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Take the words apart: names, and what is to be done, which comes last."""
    words = given.words
    switch = words[-1] if words and words[-1] in ("on", "off") else None
    given.apps = words[:-1] if switch else words
    given.on = None if switch is None else switch == "on"
    if switch is not None and not given.apps:
        parser.error(f"which applications? cmappctl maintenance APP ... {switch}")
    if not given.on and (given.seconds is not None or given.reason is not None):
        parser.error("--for and --reason go with on")
    if given.seconds is None:
        given.seconds = DEFAULT_MAINTENANCE
    if given.seconds > MAX_MAINTENANCE:
        parser.error(f"--for may be at most {units.format_duration(MAX_MAINTENANCE)}")
    given.reason = given.reason or ""


def _add_pki(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--dir", default=DEFAULT_PKI, help="default: %(default)s")
    actions = verbs.add_parser("pki", help="make certificates").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    actions.add_parser("init", parents=[shared], help="create the authority")
    issue = actions.add_parser("issue", help="issue a certificate and its key")
    kinds = issue.add_subparsers(dest="kind", required=True, metavar="KIND")
    guest = kinds.add_parser("guest", parents=[shared], help="for a cmappserver")
    guest.add_argument("name", metavar="NAME")
    guest.add_argument(
        "--address", metavar="A", action="append", default=[], help="host name or IP; repeatable"
    )
    manager = kinds.add_parser("manager", parents=[shared], help="for the cmappmgr of a host")
    manager.add_argument("name", metavar="NAME")
    revoke = actions.add_parser("revoke", parents=[shared], help="revoke a certificate")
    revoke.add_argument("name", metavar="NAME")


def _add_timeout(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--timeout", metavar="DURATION", type=duration, help=text)


def _lines(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= MOST_LINES):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MOST_LINES}")
    return int(text)
