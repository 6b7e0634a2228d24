"""The command line of cmappctl."""

import argparse

import cmappd
from cmappd.core import units

DEFAULT_CONFIG = "/etc/cmappd/cmappserver.toml"
DEFAULT_PKI = "/etc/cmappd/pki"
MOST_LINES = 100_000

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
    one = verbs.add_parser("reload", help="read the configuration again")
    _add_timeout(one, "how long to wait (default: 1m)")
    one = verbs.add_parser("upgrade", help="replace cmappserver by the version on disk")
    _add_timeout(one, "how long to wait (default: 1m)")
    one = verbs.add_parser("logs", help="print the end of an application's log")
    one.add_argument("app", metavar="APP")
    one.add_argument("-n", dest="lines", metavar="N", type=_lines, default=10, help="lines")
    one.add_argument("-f", dest="follow", action="store_true", help="and all that comes after them")
    one = verbs.add_parser("reopen", help="open log files anew, after they were moved away")
    one.add_argument("apps", nargs="*", metavar="APP")
    one = verbs.add_parser("check", help="check a configuration; nothing is changed")
    one.add_argument("file", nargs="?", metavar="FILE", default=DEFAULT_CONFIG)
    verbs.add_parser("version", help="print the versions of cmappctl and cmappserver")
    _add_pki(verbs)
    return parser.parse_args(words)


def _add_status(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    one = verbs.add_parser("status", help="show applications")
    one.add_argument("apps", nargs="*", metavar="APP")
    form = one.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as one JSON object")
    form.add_argument("-v", "--verbose", action="store_true", help="all that is known")


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
    parser.add_argument("--timeout", metavar="DURATION", type=_duration, help=text)


def _duration(text: str) -> float:
    try:
        seconds = units.parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if seconds <= 0:
        raise argparse.ArgumentTypeError("must be above zero")
    return seconds


def _lines(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= MOST_LINES):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MOST_LINES}")
    return int(text)
