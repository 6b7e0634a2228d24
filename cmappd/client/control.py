"""cmappctl: what the guest's administrator asks cmappserver, over its unix socket.

The quick verbs import neither asyncio nor pydantic; ``check`` and ``pki`` import what they need.
"""

import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import cmappd
from cmappd import reasons
from cmappd.client.call import Call, RefusedError
from cmappd.client.link import LinkError
from cmappd.client.local import CONNECT, UnreachableError, connect
from cmappd.client.table import maintenance, past, table
from cmappd.core.messages import (
    AppStatus,
    Done,
    History,
    Logs,
    Maintain,
    Message,
    Past,
    Reload,
    Reopen,
    Reply,
    Restart,
    Start,
    State,
    Status,
    Stop,
    Text,
    Upgrade,
)
from cmappd.core.printable import printable
from cmappd.core.state import Cause
from cmappd.errors import CmappdError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace

FAILED, USAGE, UNREACHABLE = 1, 2, 4
RETRY = 0.02  # seconds between two looks for the cmappserver that replaces another
LONG = 86400.0  # seconds: start, stop and restart take what the definition allows

# Why what was asked for has not come about, where a run has ended instead.
_RUN_FAILED = frozenset(
    reason.name
    for reason in (
        reasons.APP,
        reasons.NOT_STARTED,
        reasons.NOT_READY,
        reasons.UNHEALTHY,
        reasons.UNKNOWN_STATUS,
        reasons.OUT_OF_MEMORY,
    )
)


def main() -> None:
    """Run cmappctl; does not return."""
    code = _run(sys.argv[1:])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        code = code or _complain(f"cannot write: {error.strerror}", FAILED)
    with suppress(OSError, AttributeError):
        sys.stderr.flush()
    os._exit(code)


def _run(words: list[str]) -> int:
    from cmappd.client import control_arguments

    try:
        asked = control_arguments.parse(words)
        code: int = _VERBS[asked.verb](asked)
        return code
    except UsageError as error:
        return _complain(str(error), USAGE)
    except UnreachableError as error:
        return _complain(str(error), UNREACHABLE)
    except (CmappdError, RefusedError, LinkError) as error:
        return _complain(str(error), FAILED)
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return 130


def _complain(text: str, code: int) -> int:
    for line in text.splitlines() or [""]:
        print(f"cmappctl: {printable(line)}", file=sys.stderr)
    return code


# Asking the server ---------------------------------------------------------------------


def _ask(call: Call, request: Message, timeout: float = CONNECT) -> Iterator[Reply]:
    return call.ask(request, time.monotonic() + timeout)


def _status(asked: "Namespace") -> int:
    call = connect(asked.socket)
    statuses: list[AppStatus] = []
    problems = about = ""
    for reply in _ask(call, Status(call.seq(), tuple(asked.apps)), timeout=30.0):
        if isinstance(reply, State):
            statuses.append(reply.status)
        elif isinstance(reply, Done):
            problems, about = reply.text, reply.about
    if asked.json:
        _print_json(call, statuses, problems, about)
        return 0
    count = f"{len(statuses)} application{'' if len(statuses) == 1 else 's'}"
    guest, software = call.welcome.guest, call.welcome.software
    print(printable(f"{guest}: cmappserver {software}, {count}"))
    for line in about.splitlines() if asked.verbose else ():
        print(printable(line))
    for line in problems.splitlines():
        print(f"problem: {printable(line)}")
    if statuses:
        print("\n".join(table(statuses, time.time(), asked.verbose)))
    return 0


def _print_json(call: Call, statuses: list[AppStatus], problems: str, about: str) -> None:
    import msgspec

    whole = {
        "guest": call.welcome.guest,
        "software": call.welcome.software,
        "boot_id": call.welcome.boot_id,
        "epoch": call.welcome.epoch,
        "problems": problems.splitlines(),
        "about": about.splitlines(),
        # All fields, also those that have their usual value.
        "apps": [{field: getattr(s, field) for field in s.__struct_fields__} for s in statuses],
    }
    print(msgspec.json.format(msgspec.json.encode(whole), indent=2).decode())


def _each(make: Callable[[int, str], Message]) -> Callable[["Namespace"], int]:
    """A verb that asks for each of some applications, and waits for all of them."""
    return lambda asked: _ask_each(asked, make, asked.verb, asked.timeout or LONG)


def _ask_each(
    asked: "Namespace", make: Callable[[int, str], Message], doing: str, timeout: float
) -> int:
    call = connect(asked.socket)
    until = time.monotonic() + timeout
    code = 0
    for app in asked.apps:
        try:
            for reply in call.ask(make(call.seq(), app), until):
                if isinstance(reply, Done):
                    print(printable(reply.text or f"{app}: done"), flush=True)
        except RefusedError as error:
            code = _complain(f"cannot {doing} {app}: {error}", FAILED)
            if error.reason in _RUN_FAILED:
                _tell_why(call, app)
        except LinkError as error:
            return _complain(f"cannot tell how the request to {doing} {app} ended: {error}", FAILED)
    return code


def _tell_why(call: Call, app: str) -> None:
    """What may say why a run has failed: the last word of its health check, and its log."""
    with suppress(RefusedError, LinkError):
        for reply in _ask(call, Status(call.seq(), (app,))):
            if isinstance(reply, State) and reply.status.last is not None:
                said = reply.status.health_output.strip()
                if said and reply.status.last.cause in (Cause.NOT_READY, Cause.UNHEALTHY):
                    _complain(f"last health output: {said}", FAILED)
                _complain(f"see cmappctl logs {app}", FAILED)


def _maintenance(asked: "Namespace") -> int:
    if asked.on is None:
        return _show_maintenance(asked)
    seconds = asked.seconds if asked.on else 0.0

    def make(seq: int, app: str) -> Message:
        return Maintain(seq, app, seconds, asked.reason)

    return _ask_each(asked, make, "change the maintenance of", CONNECT)


def _show_maintenance(asked: "Namespace") -> int:
    call = connect(asked.socket)
    for reply in _ask(call, Status(call.seq(), tuple(asked.apps)), timeout=30.0):
        if isinstance(reply, State):
            text = maintenance(reply.status)
            if text or asked.apps:
                said = f"under maintenance {text}" if text else "not under maintenance"
                print(f"{printable(reply.status.app)}: {printable(said)}")
    return 0


def _reload(asked: "Namespace") -> int:
    call = connect(asked.socket)
    for reply in _ask(call, Reload(call.seq()), asked.timeout or 60.0):
        if isinstance(reply, Done):
            for line in (reply.text or "reloaded").splitlines():
                print(printable(line))
    return 0


def _upgrade(asked: "Namespace") -> int:
    until = time.monotonic() + (asked.timeout or 60.0)
    call = connect(asked.socket)
    old, pid, new = call.welcome, call.server_pid, ""
    for reply in call.ask(Upgrade(call.seq()), until):
        new = reply.text if isinstance(reply, Done) else new
    call.close()
    call = _connect_to_another(asked, old.epoch, until)
    if call.server_pid != pid:
        return _complain(
            f"cmappserver {old.software} ended when {new} was executed in its place; by now "
            f"{call.welcome.software} was started, pid {call.server_pid}. Its log says why",
            FAILED,
        )
    print(printable(f"cmappserver {old.software} is replaced by {call.welcome.software}"))
    return 0


def _connect_to_another(asked: "Namespace", epoch: str, until: float) -> Call:
    """A call to the cmappserver that comes after this one. Raises UnreachableError."""
    while True:
        why = "it is the same as before"
        try:
            call = connect(asked.socket)
            if call.welcome.epoch != epoch:
                return call
            call.close()
        except UnreachableError as error:
            why = str(error)
        if time.monotonic() >= until:
            raise UnreachableError(
                f"cmappserver was not replaced in time (its log says more): {why}"
            )
        time.sleep(RETRY)


def _history(asked: "Namespace") -> int:
    call = connect(asked.socket)
    for reply in _ask(call, History(call.seq(), asked.app)):
        if isinstance(reply, Past):
            print(past(reply))
    return 0


def _logs(asked: "Namespace") -> int:
    call = connect(asked.socket)
    request = Logs(call.seq(), asked.app, asked.lines, asked.follow)
    # What an application writes is not to command the terminal of an administrator.
    shown = _on_terminal if os.isatty(1) else str
    try:
        for reply in _ask(call, request, timeout=math.inf if asked.follow else 30.0):
            if isinstance(reply, Text) and reply.remark:
                _complain(reply.text, FAILED)
            elif isinstance(reply, Text):
                print(shown(reply.text), end="", flush=asked.follow)
    except LinkError as error:
        if not asked.follow:
            raise
        raise UnreachableError(f"cmappserver went away: {error}") from None
    return 0


def _on_terminal(text: str) -> str:
    return re.sub(r"[^\n\t]+", lambda part: printable(part[0]), text)


def _reopen(asked: "Namespace") -> int:
    call = connect(asked.socket)
    for reply in _ask(call, Reopen(call.seq(), tuple(asked.apps)), timeout=30.0):
        if isinstance(reply, Done):
            print(printable(reply.text))
    return 0


def _version(asked: "Namespace") -> int:
    print(f"cmappctl {cmappd.__version__}")
    with suppress(UnreachableError, RefusedError):
        print(printable(f"cmappserver {connect(asked.socket).welcome.software}"))
    return 0


# Without the server --------------------------------------------------------------------


def _check(asked: "Namespace") -> int:
    from cmappd.server.check import check

    count, findings, notes = check(os.path.abspath(asked.file))
    if not findings:
        print(f"{asked.file}: ok, {count} application{'' if count == 1 else 's'}")
    print(notes)
    return _complain("\n".join(findings), FAILED) if findings else 0


def _pki(asked: "Namespace") -> int:
    from cmappd.system import pki

    if asked.action == "init":
        pki.init(asked.dir)
        print(f"authority created in {asked.dir}; keep its key to yourself")
    elif asked.action == "revoke":
        pki.revoke(asked.dir, asked.name)
        print(f"certificate of {asked.name} revoked; give the new list to the guests and reload")
    elif asked.kind == "guest":
        pki.issue_guest(asked.dir, asked.name, asked.address)
        print(f"certificate for guest {asked.name} issued in {asked.dir}")
    else:
        pki.issue_manager(asked.dir, asked.name)
        print(f"certificate for manager {asked.name} issued in {asked.dir}")
    return 0


_VERBS: dict[str, Callable[["Namespace"], int]] = {
    "status": _status,
    "start": _each(Start),
    "stop": _each(Stop),
    "restart": _each(Restart),
    "maintenance": _maintenance,
    "reload": _reload,
    "upgrade": _upgrade,
    "history": _history,
    "logs": _logs,
    "reopen": _reopen,
    "version": _version,
    "check": _check,
    "pki": _pki,
}
