"""The server's own log: a line for each thing that happened, on standard error."""

import json
import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any

from cmappd.core import wording
from cmappd.core.printable import printable

LOGGER = "cmappd"

LEVELS = {
    wording.ERROR: logging.ERROR,
    wording.WARNING: logging.WARNING,
    wording.INFO: logging.INFO,
}


class AppLog(logging.LoggerAdapter[logging.Logger]):
    """The server's log, for lines about one application."""

    def __init__(self, log: logging.Logger, app: str) -> None:
        super().__init__(log, {"app": app})
        self._app = app

    def process(
        self, msg: object, kwargs: MutableMapping[str, Any]
    ) -> tuple[str, MutableMapping[str, Any]]:
        return f"{self._app}: {msg}", {**kwargs, "extra": self.extra}


class _Text(logging.Formatter):
    """ "2026-11-22 11:40:01 info oracle: running (run …)"; the level in small letters."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        # What a peer or a configuration says may be in it: nobody can forge a line.
        text = "\n".join(map(printable, _parts(self, record)))
        return f"{stamp} {record.levelname.lower()} {text}"


class _Json(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, message, and app where it is one's."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": "\n".join(_parts(self, record)),
        }
        app = getattr(record, "app", None)
        return json.dumps(line | ({"app": app} if app is not None else {}))


def _parts(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """The message, and the lines of the traceback."""
    trace = formatter.formatException(record.exc_info).split("\n") if record.exc_info else []
    return [record.getMessage(), *trace]


def set_up(log_format: str) -> logging.Logger:
    """The server's logger, writing in the given format: "text" or "json"."""
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    logger.handlers[:] = [handler]
    # A log that cannot be written is no reason to end, nor to fill it with tracebacks.
    logging.raiseExceptions = False
    # What no line of ours shows need not be found out for each ("Optimization" in logging's
    # how-to): a thousand applications that start write two thousand lines.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    return logger
