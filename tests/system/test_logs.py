"""Log files and FIFOs, with real disks that fill up and real processes that are killed."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmappd.errors import ConfigError
from cmappd.system import logs
from cmappd.system.logs import Capture, LogFile

DEADLINE = 30.0
WRITER = """
import os, sys
first, last = int(sys.argv[1]), int(sys.argv[2])
for n in range(first, last, 50):
    block = b"".join(b"%08d %s\\n" % (k, b"x" * (k % 190)) for k in range(n, min(n + 50, last)))
    while block:
        block = block[os.write(1, block):]
"""
SERVER = """
import asyncio, sys
from cmappd.system.logs import Capture, LogFile
loop = asyncio.new_event_loop()
capture = Capture(loop, sys.argv[1], LogFile(sys.argv[2], 1 << 40, 1))
print("ready", flush=True)
loop.run_forever()
"""


def line(n: int) -> bytes:
    return b"%08d %s\n" % (n, b"x" * (n % 190))


def lines(first: int, last: int) -> bytes:
    return b"".join(line(n) for n in range(first, last))


def whole(path: Path) -> bytes:
    """The log with its backups, the oldest first."""
    backups = sorted(path.parent.glob(f"{path.name}.*"), key=lambda p: -int(p.suffix[1:]))
    return b"".join(p.read_bytes() for p in [*backups, path])


def run_until(loop: asyncio.AbstractEventLoop, path: Path, last: bytes) -> None:
    """Run the loop until the log ends with a line."""

    async def wait() -> None:
        async with asyncio.timeout(DEADLINE):
            while not path.exists() or not path.read_bytes().endswith(last):
                await asyncio.sleep(0.01)

    loop.run_until_complete(wait())


def start_writer(capture: Capture, first: int, last: int) -> subprocess.Popen[bytes]:
    fd = capture.writer()
    try:
        return subprocess.Popen([sys.executable, "-c", WRITER, str(first), str(last)], stdout=fd)
    finally:
        os.close(fd)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try a broken disk again with every write."""
    monkeypatch.setattr(logs, "RETRY_DELAY", 0.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


class TestLogFile:
    def test_a_new_file_is_appended_to_and_readable_by_the_group_only(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        for text in (b"one\n", b"two\n"):
            file = LogFile(str(path), 1000, 1)
            file.write(text)
            file.close()
        assert path.read_bytes() == b"one\ntwo\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert file.problem is None

    @pytest.mark.parametrize("chunk", [1, 7, 100, 4096, 100_000])
    def test_rotation_keeps_every_line_once_and_whole(self, tmp_path: Path, chunk: int) -> None:
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

    def test_the_oldest_backups_go(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path), 10, 2)
        for n in range(5):
            file.write(b"line %04d\n" % n)
        file.close()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
        assert whole(path) == b"line 0002\nline 0003\nline 0004\n"

    def test_no_backups_means_a_fresh_file(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path), 10, 0)
        for n in range(3):
            file.write(b"line %04d\n" % n)
        file.close()
        assert [p.name for p in tmp_path.iterdir()] == ["log"]
        assert path.read_bytes() == b"line 0002\n"

    def test_a_line_without_end_is_cut(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path), 1000, 9)
        file.write(b"y" * 3500)
        file.close()
        assert whole(path) == b"y" * 3500
        assert path.stat().st_size == 500

    def test_a_file_truncated_by_somebody_else_is_not_rotated_early(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path), 100, 9)
        file.write(b"a" * 89 + b"\n")
        os.truncate(path, 0)
        file.write(b"b" * 89 + b"\n")
        file.close()
        assert path.read_bytes() == b"b" * 89 + b"\n"
        assert not (tmp_path / "log.1").exists()

    def test_a_failed_rotation_keeps_writing(self, tmp_path: Path, no_delay: None) -> None:
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

    def test_reopen_after_the_file_was_moved_away(self, tmp_path: Path) -> None:
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

    def test_reconfigure_takes_path_and_sizes(self, tmp_path: Path) -> None:
        file = LogFile(str(tmp_path / "a"), 1000, 1)
        file.write(b"to a\n")
        file.reconfigure(str(tmp_path / "b"), 5, 1)
        file.write(b"to b\nmore\n")
        file.close()
        assert (tmp_path / "a").read_bytes() == b"to a\n"
        assert (tmp_path / "b.1").read_bytes() == b"to b\n"
        assert (tmp_path / "b").read_bytes() == b"more\n"

    def test_a_missing_directory_is_a_problem_until_it_is_there(
        self, tmp_path: Path, no_delay: None
    ) -> None:
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

    def test_neither_a_symbolic_nor_a_hard_link_is_written(self, tmp_path: Path) -> None:
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

    def test_a_fifo_without_reader_does_not_block(self, tmp_path: Path, no_delay: None) -> None:
        os.mkfifo(tmp_path / "log")
        file = LogFile(str(tmp_path / "log"), 1000, 1)
        for _ in range(100):
            file.write(b"x" * 4095 + b"\n")
        assert file.problem is not None
        file.close()

    def test_a_full_disk_is_told_afterwards(self, tmp_path: Path, no_delay: None) -> None:
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

    def test_a_broken_disk_is_not_tried_with_every_write(self) -> None:
        file = LogFile("/dev/full", 1000, 1)
        file.write(b"x\n")
        before = file._retry_at
        for _ in range(1000):
            file.write(b"x\n")
        assert file._retry_at - before <= (time.monotonic() - before) + 2 * logs.RETRY_DELAY
        assert file._dropped_lines == 1001
        file.close()

    @pytest.mark.root
    def test_a_disk_that_fills_up_and_is_emptied(self, small_disk: Path, no_delay: None) -> None:
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

    @pytest.mark.root
    def test_a_full_disk_does_not_hold_up_the_application(
        self, small_disk: Path, tmp_path: Path, loop: asyncio.AbstractEventLoop, no_delay: None
    ) -> None:
        file = LogFile(str(small_disk / "log"), 1 << 30, 1)
        capture = Capture(loop, str(tmp_path / "fifo"), file)
        with start_writer(capture, 0, 20_000) as writer:

            async def ended() -> None:
                async with asyncio.timeout(DEADLINE):
                    while writer.poll() is None:
                        await asyncio.sleep(0.01)

            loop.run_until_complete(ended())
        capture.close(remove=True)
        assert file.problem is not None
        file.close()

    @pytest.mark.root
    def test_the_owner_gets_the_file_and_its_successors(self, tmp_path: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, to give files away")
        file = LogFile(str(tmp_path / "log"), 10, 1, owner=(12345, 23456))
        file.write(b"line 0000\nline 0001\n")
        file.close()
        for name in ("log", "log.1"):
            found = (tmp_path / name).stat()
            assert (found.st_uid, found.st_gid) == (12345, 23456)

    def test_tail_reaches_into_the_backup(self, tmp_path: Path) -> None:
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

    def test_tail_of_nothing(self, tmp_path: Path) -> None:
        file = LogFile(str(tmp_path / "log"), 30, 1)
        assert file.tail(5) == ""
        (tmp_path / "log").unlink()
        assert file.tail(5) == ""
        file.close()


class TestCapture:
    def test_a_stream_is_rotated_with_every_line_once(
        self, tmp_path: Path, loop: asyncio.AbstractEventLoop
    ) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path), 20_000, 1000)
        capture = Capture(loop, str(tmp_path / "fifo"), file)
        with start_writer(capture, 0, 20_000):
            run_until(loop, path, line(19_999))
        capture.close(remove=True)
        file.close()
        assert whole(path) == lines(0, 20_000)
        for backup in tmp_path.glob("log.*"):
            assert backup.stat().st_size <= 20_000
            assert backup.read_bytes().endswith(b"\n")
        assert not (tmp_path / "fifo").exists()

    def test_drain_takes_the_last_words_of_a_killed_writer(
        self, tmp_path: Path, loop: asyncio.AbstractEventLoop
    ) -> None:
        file = LogFile(str(tmp_path / "log"), 1 << 20, 1)
        capture = Capture(loop, str(tmp_path / "fifo"), file)
        fd = capture.writer()
        script = "import os, signal; os.write(1, b'last words\\n'); os.kill(os.getpid(), 9)"
        child = subprocess.Popen([sys.executable, "-c", script], stdout=fd)
        os.close(fd)
        assert child.wait(DEADLINE) == -signal.SIGKILL
        capture.drain()
        assert file.tail(1) == "last words\n"
        capture.drain()
        assert file.tail(5) == "last words\n"
        capture.close(remove=True)
        file.close()

    def test_the_writing_end_blocks_and_is_not_inherited(
        self, tmp_path: Path, loop: asyncio.AbstractEventLoop
    ) -> None:
        file = LogFile(str(tmp_path / "log"), 1 << 20, 1)
        capture = Capture(loop, str(tmp_path / "fifo"), file)
        fd = capture.writer()
        assert os.get_blocking(fd)
        assert not os.get_inheritable(fd)
        os.close(fd)
        capture.close(remove=True)
        file.close()

    def test_the_next_capture_goes_on_where_the_last_one_stopped(
        self, tmp_path: Path, loop: asyncio.AbstractEventLoop
    ) -> None:
        path = tmp_path / "log"
        file = LogFile(str(path), 1 << 30, 1)
        capture = Capture(loop, str(tmp_path / "fifo"), file)
        with start_writer(capture, 0, 30_000):
            for _ in range(20):
                loop.run_until_complete(asyncio.sleep(0.005))
                capture.close(remove=False)
                capture = Capture(loop, str(tmp_path / "fifo"), file)
            run_until(loop, path, line(29_999))
        capture.close(remove=True)
        file.close()
        assert path.read_bytes() == lines(0, 30_000)

    def test_a_killed_server_loses_and_doubles_nothing(
        self, tmp_path: Path, loop: asyncio.AbstractEventLoop
    ) -> None:
        path, fifo = tmp_path / "log", str(tmp_path / "fifo")
        last = 100_000
        file = LogFile(str(path), 1 << 40, 1)
        capture = Capture(loop, fifo, file)
        # As an application that lives on does; the writer may have ended before the last server.
        held = capture.writer()
        with start_writer(capture, 0, last) as writer:
            capture.close(remove=False)
            for n in range(20):
                command = [sys.executable, "-c", SERVER, fifo, str(path)]
                with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
                    assert server.stdout is not None
                    assert server.stdout.readline() == b"ready\n"
                    time.sleep(0.0007 * n)  # Another moment of the stream for each.
                    server.kill()
            assert writer.poll() in (None, 0)
            capture = Capture(loop, fifo, file)
            run_until(loop, path, line(last - 1))
        os.close(held)
        capture.close(remove=True)
        file.close()
        assert path.read_bytes() == lines(0, last)

    def test_one_flood_does_not_silence_the_others(
        self, tmp_path: Path, loop: asyncio.AbstractEventLoop
    ) -> None:
        flood_file = LogFile(str(tmp_path / "flood"), 1 << 20, 1)
        quiet_file = LogFile(str(tmp_path / "quiet"), 1 << 20, 1)
        flood = Capture(loop, str(tmp_path / "f1"), flood_file)
        quiet = Capture(loop, str(tmp_path / "f2"), quiet_file)
        fd = flood.writer()
        with subprocess.Popen(["yes"], stdout=fd) as child:
            os.close(fd)
            fd = quiet.writer()
            for n in range(50):
                os.write(fd, line(n))
                run_until(loop, tmp_path / "quiet", line(n))
            os.close(fd)
            assert child.poll() is None
            child.kill()
        for capture, file in ((flood, flood_file), (quiet, quiet_file)):
            capture.close(remove=True)
            file.close()

    def test_drain_ends_while_somebody_goes_on_writing(
        self, tmp_path: Path, loop: asyncio.AbstractEventLoop
    ) -> None:
        file = LogFile(str(tmp_path / "log"), 1 << 20, 1)
        capture = Capture(loop, str(tmp_path / "fifo"), file)
        fd = capture.writer()
        with subprocess.Popen(["yes"], stdout=fd) as child:
            os.close(fd)
            for _ in range(20):
                capture.drain()
            assert child.poll() is None
            child.kill()
        capture.close(remove=True)
        capture.close(remove=True)
        file.close()

    @pytest.mark.parametrize("kind", ["file", "link", "directory"])
    def test_what_is_no_fifo_is_refused(
        self, tmp_path: Path, loop: asyncio.AbstractEventLoop, kind: str
    ) -> None:
        path = tmp_path / "fifo"
        if kind == "file":
            path.touch()
        elif kind == "link":
            os.mkfifo(tmp_path / "real")
            path.symlink_to("real")
        else:
            path.mkdir()
        file = LogFile(str(tmp_path / "log"), 1 << 20, 1)
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ConfigError, match=r"cannot (use|open)"):
            Capture(loop, str(path), file)
        assert os.listdir("/proc/self/fd") == before
        file.close()

    @pytest.mark.root
    def test_a_fifo_of_another_user_is_refused(
        self, tmp_path: Path, loop: asyncio.AbstractEventLoop
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, to give files away")
        path = tmp_path / "fifo"
        os.mkfifo(path)
        os.chown(path, 12345, 12345)
        file = LogFile(str(tmp_path / "log"), 1 << 20, 1)
        with pytest.raises(ConfigError, match="not a FIFO of this user"):
            Capture(loop, str(path), file)
        # It is not another's where it was given to the application.
        Capture(loop, str(path), file, owner=(12345, 12345)).close(remove=True)
        file.close()

    @pytest.mark.root
    def test_the_application_can_open_its_output_by_name(
        self, loop: asyncio.AbstractEventLoop, tmp_path: Path
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, to become another user")
        file = LogFile(str(tmp_path / "log"), 1 << 20, 1)
        capture = Capture(loop, str(tmp_path / "fifo"), file, owner=(12345, 12345))
        fd = capture.writer()
        command = ["/bin/sh", "-c", "echo by name > /dev/stdout"]
        subprocess.run(command, stdout=fd, user=12345, group=12345, extra_groups=[], check=True)
        os.close(fd)
        capture.drain()
        assert file.tail(1) == "by name\n"
        capture.close(remove=True)
        file.close()

    def test_a_thousand_idle_captures_are_small(
        self, tmp_path: Path, loop: asyncio.AbstractEventLoop
    ) -> None:
        def make(n: int) -> tuple[Capture, LogFile]:
            file = LogFile(str(tmp_path / f"log{n}"), 1 << 20, 5)
            return Capture(loop, str(tmp_path / f"fifo{n}"), file), file

        count = 100
        pairs = [make(count)]
        tracemalloc.start()
        pairs += [make(n) for n in range(count)]
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        for capture, file in pairs:
            capture.close(remove=True)
            file.close()
        assert size / count < 4096
