"""cmappmgr's log, with a real syslog socket."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmappd.client.log import LONGEST, Log, cut
from cmappd.errors import UsageError


@pytest.fixture
def syslog(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "log"))
        receiver.settimeout(5)
        yield receiver


def test_a_line_has_one_format_everywhere(
    tmp_path: Path, syslog: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    log = Log("oracle@guest1", str(tmp_path / "file"), str(tmp_path / "log"))
    log.write("running", 4)
    log.close()
    line = capfd.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d cmappmgr oracle@guest1: running\n", line)
    assert (tmp_path / "file").read_text() == line
    assert re.fullmatch(
        rb"<28>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d cmappmgr\[\d+\]: oracle@guest1: running",
        syslog.recv(4096),
    )


def test_a_syslog_that_does_not_read_is_not_waited_for(
    tmp_path: Path, syslog: socket.socket
) -> None:
    log = Log("a", device=str(tmp_path / "log"))
    for number in range(2000):  # far more than a datagram socket queues
        log.write(f"line {number}")
    log.close()
    assert b"line 0" in syslog.recv(4096)


def test_no_syslog_and_one_that_comes_later(tmp_path: Path) -> None:
    log = Log("a", device=str(tmp_path / "log"))
    log.write("nobody hears this")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "log"))
        log.write("this is heard")
        assert b"this is heard" in receiver.recv(4096)
    log.close()


def test_no_text_can_forge_a_line(tmp_path: Path) -> None:
    log = Log("a", str(tmp_path / "file"), str(tmp_path / "log"))
    log.write("b\n\x1b[2Jforged")
    log.close()
    assert (tmp_path / "file").read_text().endswith(" cmappmgr a: b\\n\\x1b[2Jforged\n")


def test_a_long_line_is_cut() -> None:
    assert cut("x" * 5000) == "x" * LONGEST + "..."


def test_a_file_that_cannot_be_reopened_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    log = Log("a", str(folder / "file"), str(tmp_path / "log"))
    folder.rename(tmp_path / "moved")
    log.reopen()
    log.write("still here")
    log.close()
    text = (tmp_path / "moved" / "file").read_text()
    assert "cannot reopen" in text
    assert "still here" in text


def test_a_file_that_cannot_be_opened_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Is a directory"):
        Log("a", str(tmp_path))
