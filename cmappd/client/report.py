"""What cmappmgr leaves in files, each written whole or not at all.

The report of ``--report FILE`` says how it ended, as JSON. The file of ``--ends-alone`` has after
how many seconds a guest that is cut off has ended the application by itself; 0: it does not.
"""

import os
import time
from contextlib import suppress

import msgspec

from cmappd.core.follow.actions import Exit


class Report(msgspec.Struct, frozen=True):
    """What the report says. Times are UTC; ``code`` is the exit code of cmappmgr.

    What else is said of an exit is as in `Exit`.
    """

    reason: str
    code: int
    text: str
    app: str
    guest: str | None
    run: str | None
    cause: str | None
    exit_code: int | None
    signal: int | None
    detail: str | None
    earlier: bool
    claimed: bool
    ends_alone_after: int | None
    started: str
    ended: str


def make(end: Exit, app: str, guest: str | None, started: float, ended: float) -> Report:
    """The report of an exit; the times are seconds since the epoch."""
    outcome = end.outcome
    return Report(
        reason=end.reason.name,
        code=end.code,
        text=end.text,
        app=app,
        guest=guest,
        run=end.run,
        cause=None if outcome is None else str(outcome.cause),
        exit_code=None if outcome is None else outcome.status.code,
        signal=None if outcome is None else outcome.status.signal,
        detail=None if outcome is None else outcome.detail,
        earlier=end.earlier,
        claimed=end.claimed,
        ends_alone_after=end.ends_alone_after,
        started=_utc(started),
        ended=_utc(ended),
    )


class EndsAlone:
    """The file of ``--ends-alone``: the last word of the guest, for whoever outlives us."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._kept: int | None = None

    def keep(self, seconds: int) -> None:
        """Write that after so many seconds the guest has ended it. Raises OSError."""
        if seconds == self._kept:
            return
        self._kept = seconds
        try:
            _replace(self.path, b"%d\n" % seconds)
        except OSError:
            with suppress(OSError):  # an older word would be worse than none
                os.unlink(self.path)
            raise


def write(path: str, report: Report) -> None:
    """Replace the file at ``path``, on the disk when this returns. Raises OSError."""
    _replace(path, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _replace(path: str, text: bytes) -> None:
    aside = f"{path}.{os.getpid()}.new"
    with suppress(FileNotFoundError):  # of a process that had our pid before, and crashed
        os.unlink(aside)
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.replace(aside, path)
    except OSError:
        with suppress(OSError):
            os.unlink(aside)
        raise


def _utc(instant: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(instant))
