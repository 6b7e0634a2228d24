"""Logs in lines: what a line is, and that each is there once, whatever happens."""

import json
import os
import re
from datetime import datetime
from pathlib import Path

import pytest

from cmappd.system.log.file import LogFile
from cmappd.system.log.linefile import LONGEST, Form, LineFile, as_json, stamped
from cmappd.system.log.spool import Spool, rescue
from tests.system.killer import run_until_call
from tests.system.numbered import line, lines, whole

STAMP = re.compile(rb"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d ", re.MULTILINE)


def open_log(
    folder: Path, form: Form = stamped, max_size: int = 1 << 30, backups: int = 100
) -> LineFile:
    file = LogFile(str(folder / "log"), max_size, backups)
    return LineFile(file, max_size, str(folder / "spool"), form)


def messages(path: Path) -> list[dict[str, object]]:
    return [json.loads(one) for one in whole(path).splitlines()]


def test_a_stamp_is_the_time_and_the_bytes_stay(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.write(b"one\n\ntwo \xff\0 half")
    log.write(b" whole\n")
    log.close()
    text = (tmp_path / "log").read_bytes()
    assert STAMP.sub(b"", text) == b"one\n\ntwo \xff\0 half whole\n"
    stamps = [one.decode().strip() for one in STAMP.findall(text)]
    assert len(stamps) == 3
    for stamp in stamps:
        assert abs(datetime.fromisoformat(stamp).timestamp() - os.stat(tmp_path).st_mtime) < 60


def test_an_object_a_line(tmp_path: Path) -> None:
    log = open_log(tmp_path, as_json("db"))
    log.write(b'say "hi"\n\xc3\xa4\xff\nrest')
    log.finish()
    log.finish()
    log.close()
    found = messages(tmp_path / "log")
    assert [one.pop("time") is not None for one in found] == [True] * 3
    assert found == [
        {"app": "db", "message": 'say "hi"'},
        {"app": "db", "message": "\u00e4\ufffd"},
        {"app": "db", "message": "rest"},
    ]


def test_the_end_of_a_run_goes_on_in_no_other_line(tmp_path: Path) -> None:
    """Who joins what is partial with what follows does not join two runs."""
    log = open_log(tmp_path, as_json("db"))
    log.write(b"x" * (LONGEST + 1))
    log.finish()
    log.write(b"another run\n")
    log.close()
    found = messages(tmp_path / "log")
    assert [one["message"] for one in found] == ["x" * LONGEST, "x", "another run"]
    assert [one.get("partial", False) for one in found] == [True, False, False]


@pytest.mark.parametrize("chunk", [7, 1000, LONGEST, 65536])
def test_a_long_line_is_cut_but_no_character(tmp_path: Path, chunk: int) -> None:
    text = ("x" + "\u00e4" * 20_000 + "\n" + "y" * LONGEST + "\nz\n").encode()
    log = open_log(tmp_path, as_json("db"))
    for start in range(0, len(text), chunk):
        log.write(text[start : start + chunk])
    log.close()
    found = messages(tmp_path / "log")
    ends = ["" if one.get("partial") else "\n" for one in found]
    joined = "".join(f"{one['message']}{end}" for one, end in zip(found, ends, strict=True))
    assert joined.encode() == text
    assert ends == ["", "", "\n", "\n", "\n"]


def test_what_waits_for_its_end_waits_for_the_next_server(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.write(b"half ")
    log.close()
    assert (tmp_path / "log").read_bytes() == b""
    log = open_log(tmp_path)
    log.write(b"a line\n")
    log.close()
    assert STAMP.sub(b"", (tmp_path / "log").read_bytes()) == b"half a line\n"
    assert not (tmp_path / "spool").exists()


def test_rotation_leaves_lines_whole(tmp_path: Path) -> None:
    log = open_log(tmp_path, max_size=2000)
    for n in range(0, 300, 7):
        log.write(lines(n, min(n + 7, 300)))
    log.close()
    assert STAMP.sub(b"", whole(tmp_path / "log")) == lines(0, 300)
    backups = list(tmp_path.glob("log.*"))
    assert len(backups) > 10
    for backup in backups:
        assert backup.stat().st_size <= 2000
        assert backup.read_bytes().endswith(b"\n")


def test_killed_at_any_system_call_each_line_is_there_once(tmp_path: Path) -> None:
    text = b"".join(b"%03d %s\n" % (n, b"x" * (n % 23)) for n in range(60)) + b"the rest"
    fifo = tmp_path / "fifo"

    def serve() -> None:
        pipe = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        log = open_log(tmp_path, max_size=1024, backups=5)
        while log.move(pipe):
            pass
        log.finish()
        log.close()
        os.close(pipe)

    for number in range(1, 1000):
        for old in tmp_path.iterdir():
            old.unlink()
        os.mkfifo(fifo)
        held = os.open(fifo, os.O_RDWR)
        os.write(held, text)
        killed = run_until_call(number, serve)
        serve()
        os.close(held)
        assert STAMP.sub(b"", whole(tmp_path / "log")) == text + b"\n"
        if not killed:
            break
    assert number > 20


def test_lines_that_a_full_disk_drops_are_told_in_the_same_form(
    tmp_path: Path, no_delay: None
) -> None:
    file = LogFile("/dev/full", 1 << 30, 1)
    log = LineFile(file, 1 << 30, str(tmp_path / "spool"), as_json("db"))
    log.write(lines(0, 100))
    assert (log.dropped, log.problem) == (100, "cannot write /dev/full: No space left on device")
    log.reconfigure(str(tmp_path / "log"), 1 << 30, 1)
    log.write(line(100))
    log.close()
    told, kept = (str(one["message"]) for one in messages(tmp_path / "log"))
    assert re.fullmatch(r"cmappd: 100 lines \(\d+ bytes\) were dropped: No space .*", told)
    assert f"{kept}\n".encode() == line(100)


# The spool ---------------------------------------------------------------------------


def test_a_spool_stays_small(tmp_path: Path) -> None:
    spool, text = Spool(str(tmp_path / "spool")), b""
    for n in range(200):
        spool.add(lines(n * 50, n * 50 + 50))
        text += spool.waiting[:4000]
        spool.give_up(min(4000, len(spool.waiting)))
        if len(spool.waiting) > 100_000:
            text += spool.waiting
            spool.give_up(len(spool.waiting))
        assert (tmp_path / "spool").stat().st_size < 300_000
    left = spool.waiting
    spool.close()
    assert text + rescue(str(tmp_path / "spool")) == text + left == lines(0, 10_000)
    assert list(tmp_path.iterdir()) == []


def fill(spool: Spool) -> bytes:
    """Have it take numbered lines from a pipe until no more fit."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    given = b""
    while True:
        os.write(writing, lines(len(given), len(given) + 20))
        given += lines(len(given), len(given) + 20)
        if not spool.take(reading):
            break
    left = os.read(reading, 1 << 20)
    os.close(reading)
    os.close(writing)
    return given.removesuffix(left)


def test_without_a_file_the_bytes_wait_in_memory() -> None:
    spool = Spool("/nowhere/spool")
    text = fill(spool)
    assert spool.waiting == text
    assert spool.problem == "cannot keep lines in /nowhere/spool: No such file or directory"
    spool.give_up(1000)
    assert spool.waiting == text[1000:]
    spool.close()


@pytest.mark.root
def test_what_a_full_disk_does_not_take_waits_in_memory(small_disk: Path) -> None:
    spool = Spool(str(small_disk / "spool"))
    text = fill(spool)
    assert len(text) > 100_000
    assert spool.waiting == text
    assert "No space left" in (spool.problem or "")
    spool.give_up(len(text))
    assert spool.waiting == b""
    text = fill(spool)
    assert spool.waiting == text
    spool.give_up(len(text) - 10)
    spool.close()
    assert text.endswith(rescue(str(small_disk / "spool")))


def test_nothing_is_rescued_from_nothing(tmp_path: Path) -> None:
    assert rescue(str(tmp_path / "spool")) == b""
    assert list(tmp_path.iterdir()) == []
