"""Log files, on real disks that fill up."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cmappd.system.log import backups as names
from cmappd.system.log import file as logfile
from cmappd.system.log.file import LogFile
from tests.system.killer import run_until_call
from tests.system.numbered import line, lines, whole


def test_a_new_file_is_appended_to_and_readable_by_the_group_only(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for text in (b"one\n", b"two\n"):
        file = LogFile(str(path), 1000, 1)
        file.write(text)
        file.close()
    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert file.problem is None


@pytest.mark.parametrize("chunk", [1, 7, 100, 4096, 100_000])
def test_rotation_keeps_every_line_once_and_whole(tmp_path: Path, chunk: int) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path), 2000, 100)
    text = lines(0, 300)
    for start in range(0, len(text), chunk):
        file.write(text[start : start + chunk])
    file.close()
    assert whole(path) == text
    backups = list(tmp_path.glob("log.*"))
    assert len(backups) >= len(text) // 2000
    for backup in backups:
        assert backup.stat().st_size <= 2000
        assert backup.read_bytes().endswith(b"\n")


def test_the_oldest_backups_go(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path), 10, 2)
    for n in range(5):
        file.write(b"line %04d\n" % n)
    file.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert whole(path) == b"line 0002\nline 0003\nline 0004\n"


def test_no_backups_means_a_fresh_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path), 10, 0)
    for n in range(3):
        file.write(b"line %04d\n" % n)
    file.close()
    assert [p.name for p in tmp_path.iterdir()] == ["log"]
    assert path.read_bytes() == b"line 0002\n"


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path), 1000, 9)
    file.write(b"y" * 3500)
    file.close()
    assert whole(path) == b"y" * 3500
    assert path.stat().st_size == 500


def test_a_file_truncated_by_somebody_else_is_not_rotated_early(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path), 100, 9)
    file.write(b"a" * 89 + b"\n")
    os.truncate(path, 0)
    file.write(b"b" * 89 + b"\n")
    file.close()
    assert path.read_bytes() == b"b" * 89 + b"\n"
    assert not (tmp_path / "log.1").exists()


def test_a_failed_rotation_keeps_writing(tmp_path: Path, no_delay: None) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path), 10, 1)
    (tmp_path / "log.new").mkdir()
    file.write(b"line 0000\nline 0001\n")
    assert file.problem is not None
    assert "cannot rotate" in file.problem
    (tmp_path / "log.new").rmdir()
    file.write(b"line 0002\n")
    assert file.problem is None
    file.close()
    assert whole(path) == b"line 0000\nline 0001\nline 0002\n"


def test_reopen_after_the_file_was_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path), 1000, 1)
    file.write(b"one\n")
    path.rename(tmp_path / "moved")
    file.write(b"two\n")
    file.reopen()
    file.write(b"three\n")
    file.close()
    assert (tmp_path / "moved").read_bytes() == b"one\ntwo\n"
    assert path.read_bytes() == b"three\n"


def test_reconfigure_takes_path_and_sizes(tmp_path: Path) -> None:
    file = LogFile(str(tmp_path / "a"), 1000, 1)
    file.write(b"to a\n")
    file.reconfigure(str(tmp_path / "b"), 5, 1)
    file.write(b"to b\nmore\n")
    file.close()
    assert (tmp_path / "a").read_bytes() == b"to a\n"
    assert (tmp_path / "b.1").read_bytes() == b"to b\n"
    assert (tmp_path / "b").read_bytes() == b"more\n"


def test_a_missing_directory_is_a_problem_until_it_is_there(tmp_path: Path, no_delay: None) -> None:
    file = LogFile(str(tmp_path / "no/log"), 1000, 1)
    assert file.problem == f"cannot open {tmp_path}/no/log: No such file or directory"
    file.write(b"one\ntwo\nthree")
    (tmp_path / "no").mkdir()
    file.write(b" and a half\nfour\n")
    assert file.problem is None
    file.close()
    assert (tmp_path / "no/log").read_bytes() == (
        b"cmappd: 3 lines (25 bytes) were dropped: No such file or directory\nfour\n"
    )


def test_neither_a_symbolic_nor_a_hard_link_is_written(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep\n")
    (tmp_path / "soft").symlink_to("precious")
    os.link(tmp_path / "precious", tmp_path / "hard")
    for name, why in (("soft", "symbolic links"), ("hard", "Too many links")):
        file = LogFile(str(tmp_path / name), 1000, 1)
        file.write(b"bad\n")
        assert file.problem is not None
        assert why in file.problem
        file.close()
    assert (tmp_path / "precious").read_text() == "keep\n"


@pytest.mark.root
def test_a_strangers_link_on_the_way_is_as_a_full_disk(tmp_path: Path, no_delay: None) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to("elsewhere")
    os.chown(link, 12345, 12345, follow_symlinks=False)
    file = LogFile(str(link / "log"), 1000, 1)
    file.write(b"one\n")
    assert file.dropped == 1
    assert file.problem is not None
    assert f"cannot open {link}/log: the symbolic link {link} belongs to uid 12345" in file.problem
    assert list((tmp_path / "elsewhere").iterdir()) == []
    os.chown(link, 0, 0, follow_symlinks=False)
    file.write(b"two\n")
    assert file.problem is None
    assert file.tail(1) == "two\n"
    os.chown(link, 12345, 12345, follow_symlinks=False)
    assert file.tail(1) == ""
    file.close()
    told, line = (tmp_path / "elsewhere/log").read_text().splitlines()
    assert told.startswith("cmappd: 1 lines (4 bytes) were dropped: the symbolic link")
    assert line == "two"


@pytest.mark.root
def test_a_rotation_is_not_led_elsewhere(tmp_path: Path, no_delay: None) -> None:
    for name in ("mine", "precious"):
        (tmp_path / name).mkdir()
    for name in ("log", "log.1", "log.new"):
        (tmp_path / "precious" / name).write_text("keep\n")
    file = LogFile(str(tmp_path / "mine/log"), 10, 1)
    file.write(b"line 0000\n")
    (tmp_path / "mine").rename(tmp_path / "moved")
    (tmp_path / "mine").symlink_to("precious")
    os.chown(tmp_path / "mine", 12345, 12345, follow_symlinks=False)
    file.write(b"line 0001\n")
    assert file.problem is not None
    assert f"cannot rotate {tmp_path}/mine/log: the symbolic link" in file.problem
    assert file.dropped == 0
    file.close()
    assert (tmp_path / "moved/log").read_bytes() == b"line 0000\nline 0001\n"
    assert {path.read_text() for path in (tmp_path / "precious").iterdir()} == {"keep\n"}


@pytest.mark.parametrize(
    ("step", "act"),
    [
        ("open_log", LogFile.reopen),
        ("replace", lambda file: file.write(b"line 0001\n")),
        ("tail", lambda file: file.tail(1)),
    ],
)
def test_a_link_that_comes_at_the_last_moment_leads_nowhere(
    step: str,
    act: Callable[[LogFile], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, moved, elsewhere = (tmp_path / name for name in ("mine", "moved", "elsewhere"))
    mine.mkdir()
    elsewhere.mkdir()
    file = LogFile(str(mine / "log"), 10, 1)
    file.write(b"line 0000\n")
    real = getattr(names, step)

    def overtaken(*arguments: object) -> object:
        mine.rename(moved)
        mine.symlink_to(elsewhere)
        return real(*arguments)

    monkeypatch.setattr(names, step, overtaken)
    assert act(file) == ("line 0000\n" if step == "tail" else None)
    file.close()
    assert list(elsewhere.iterdir()) == []
    assert (moved / "log.1").exists() == (step == "replace")


def test_a_fifo_without_reader_does_not_block(tmp_path: Path, no_delay: None) -> None:
    os.mkfifo(tmp_path / "log")
    file = LogFile(str(tmp_path / "log"), 1000, 1)
    for _ in range(100):
        file.write(b"x" * 4095 + b"\n")
    assert file.problem is not None
    file.close()


def test_a_full_disk_is_told_afterwards(tmp_path: Path, no_delay: None) -> None:
    file = LogFile("/dev/full", 1000, 1)
    for n in range(100):
        file.write(line(n))
    assert file.problem == "cannot write /dev/full: No space left on device"
    file.reconfigure(str(tmp_path / "log"), 100_000, 1)
    file.write(line(100))
    assert file.problem is None
    file.close()
    size = len(lines(0, 100))
    notice = f"cmappd: 100 lines ({size} bytes) were dropped: No space left on device\n"
    assert (tmp_path / "log").read_bytes() == notice.encode() + line(100)


@pytest.mark.parametrize("look", [True, False])
def test_of_a_line_that_is_dropped_in_part_nothing_is_written(
    tmp_path: Path, look: bool, no_delay: None
) -> None:
    """Also where somebody looks, before it goes on, whether there is room again."""
    file = LogFile(str(tmp_path / "no/log"), 1000, 1)
    file.write(b"first half, ")
    (tmp_path / "no").mkdir()
    if look:
        file.write(b"")
    file.write(b"a middle, ")
    file.write(b"second half\nnext\n")
    assert file.dropped == 1
    file.close()
    assert (tmp_path / "no/log").read_bytes() == (
        b"cmappd: 1 lines (34 bytes) were dropped: No such file or directory\nnext\n"
    )


@pytest.mark.parametrize("end", [LogFile.finish, LogFile.close])
def test_what_is_dropped_of_the_last_line_is_told_at_the_end(
    tmp_path: Path, end: Callable[[LogFile], None], no_delay: None
) -> None:
    file = LogFile(str(tmp_path / "no/log"), 1000, 1)
    file.write(b"half")
    (tmp_path / "no").mkdir()
    end(file)
    assert (tmp_path / "no/log").read_bytes() == (
        b"cmappd: 1 lines (4 bytes) were dropped: No such file or directory\n"
    )
    assert (file.dropped, file.untold) == (1, "")
    file.close()


def test_a_broken_disk_is_not_tried_with_every_write() -> None:
    file = LogFile("/dev/full", 1000, 1)
    file.write(b"x\n")
    before = file._retry_at
    for _ in range(1000):
        file.write(b"x\n")
    assert file._retry_at - before <= (time.monotonic() - before) + 2 * logfile.RETRY_DELAY
    assert file.dropped == 1001
    file.close()


@pytest.mark.root
def test_a_disk_that_fills_up_and_is_emptied(small_disk: Path, no_delay: None) -> None:
    (small_disk / "ballast").write_bytes(b"b" * 32768)
    path = small_disk / "log"
    file = LogFile(str(path), 1 << 30, 1)
    for n in range(600):
        file.write(line(n))
    assert file.problem is not None
    assert "No space left" in file.problem
    (small_disk / "ballast").unlink()
    file.write(line(600))
    file.write(line(601))
    assert file.problem is None
    file.close()
    text = path.read_bytes()
    kept, _, rest = text.partition(b"cmappd: ")
    count, size = int(rest.split()[0]), int(rest.split(b"(")[1].split()[0])
    # A line that was written in part counts as dropped, and its part is ended.
    assert rest.endswith(b"No space left on device\n" + lines(600, 602))
    part = kept[kept.rstrip(b"\n").rfind(b"\n") + 1 :]
    in_part = part.rstrip(b"\n") + b"\n" != line(kept.count(b"\n") - 1)
    complete = kept.count(b"\n") - in_part
    assert complete + count == 600
    assert kept.startswith(lines(0, complete))
    assert len(kept) - in_part + size == len(lines(0, 600))


def test_tail_reaches_into_the_backup(tmp_path: Path) -> None:
    file = LogFile(str(tmp_path / "log"), 30, 1)
    for n in range(4):
        file.write(b"line %04d\n" % n)
    assert file.tail(1) == "line 0003\n"
    assert file.tail(3) == "line 0001\nline 0002\nline 0003\n"
    assert file.tail(100) == "line 0000\nline 0001\nline 0002\nline 0003\n"
    assert file.tail(100, limit=15) == "0002\nline 0003\n"
    assert file.tail(0) == ""
    file.write(b"half \xff")
    assert file.tail(1) == "half \ufffd\n"
    file.close()


def test_tail_of_nothing(tmp_path: Path) -> None:
    file = LogFile(str(tmp_path / "log"), 30, 1)
    assert file.tail(5) == ""
    (tmp_path / "log").unlink()
    assert file.tail(5) == ""
    file.close()


@pytest.mark.parametrize("backups", [1, 3])
@pytest.mark.parametrize("listening", [False, True])
def test_killed_at_any_system_call_it_loses_and_doubles_nothing(
    tmp_path: Path, backups: int, listening: bool
) -> None:
    """In each place of a rotation, in the middle of a line, and of the moves around it."""
    text = b"".join(b"%03d %s\n" % (n, b"x" * (n % 23)) for n in range(30))  # ~ 480 bytes
    path, fifo = tmp_path / "log", tmp_path / "fifo"

    def serve() -> None:
        pipe = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        file = LogFile(str(path), 700, backups)
        if listening:
            file.listener = lambda _: None
        while file.move(pipe):
            pass
        file.close()
        os.close(pipe)

    for number in range(1, 1000):
        for old in tmp_path.iterdir():
            old.unlink()
        os.mkfifo(fifo)
        # The end of a file, in the middle of a line, and more than fits into it.
        path.write_bytes(b"first line\n" * 50 + text[:100])
        held = os.open(fifo, os.O_RDWR)
        os.write(held, text[100:])
        killed = run_until_call(number, serve)
        serve()
        os.close(held)
        assert whole(path) == b"first line\n" * 50 + text
        if not killed:
            break
    assert number > 10
