"""The lines of the server's own log."""

import json
import logging
import re
from collections.abc import Iterator

import pytest

from cmappd.server.shared import log

FORGED = "x\x1b]0;pwn\x07\n2026-11-30 00:00:00 info forged\x9b"
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    logger = logging.getLogger(log.LOGGER)
    before = logger.handlers[:], logger.propagate, logger.level, logging._srcfile
    yield
    logger.handlers[:], logger.propagate, logger.level, logging._srcfile = before
    logging.raiseExceptions = True
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = True


def test_nobody_can_forge_a_line_or_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    logger = log.set_up("text")
    logger.warning("vmhost1: a frame cannot be read: %s", FORGED)
    log.AppLog(logger, "db").error("größer: %s", FORGED)
    for line in capsys.readouterr().err.splitlines():
        assert re.match(rf"{STAMP} (warning vmhost1|error db): ", line)
        assert line.isprintable()
        assert line.endswith(r"x\x1b]0;pwn\x07\n2026-11-30 00:00:00 info forged\x9b")


def test_a_traceback_keeps_its_lines_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    logger = log.set_up("text")
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        logger.exception("a defect")
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith("error a defect")
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == r"ValueError: \x1b[2J"


def test_json_has_it_as_it_was_said_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up("json").warning("%s", FORGED)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert json.loads(line)["message"] == FORGED
