"""FIFOs, with real writers and servers that are killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmappd.errors import ConfigError
from cmappd.system.log.capture import Capture
from cmappd.system.log.file import LogFile
from cmappd.system.log.null import NullLog
from tests.system.numbered import line, lines, whole

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
from cmappd.system.log.capture import Capture
from cmappd.system.log.file import LogFile
loop = asyncio.new_event_loop()
capture = Capture(loop, sys.argv[1], LogFile(sys.argv[2], 1 << 40, 1))
print("ready", flush=True)
loop.run_forever()
"""


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


def test_a_stream_is_rotated_with_every_line_once(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
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
    tmp_path: Path, loop: asyncio.AbstractEventLoop
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
    tmp_path: Path, loop: asyncio.AbstractEventLoop
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
    tmp_path: Path, loop: asyncio.AbstractEventLoop
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
    tmp_path: Path, loop: asyncio.AbstractEventLoop
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
    tmp_path: Path, loop: asyncio.AbstractEventLoop
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


def test_a_log_that_cannot_take_more_is_asked_again_and_not_all_the_time(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    class Slow(NullLog):
        asked = 0
        pause = 0.05

        def move(self, pipe: int) -> int:
            self.asked += 1
            if self.asked < 8:
                return 0
            self.pause = 0.0
            return super().move(pipe)

    log = Slow()
    capture = Capture(loop, str(tmp_path / "fifo"), log)
    fd = capture.writer()
    os.write(fd, b"held\n")
    loop.run_until_complete(asyncio.sleep(0.2))
    assert 2 <= log.asked <= 6
    assert capture.waiting() == b"held\n"

    async def moved() -> None:
        async with asyncio.timeout(DEADLINE):
            while not log.tail(1):
                await asyncio.sleep(0.01)

    loop.run_until_complete(moved())
    assert log.tail(1) == "held\n"
    os.close(fd)
    capture.close(remove=True)


def test_drain_ends_while_somebody_goes_on_writing(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
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
    tmp_path: Path, loop: asyncio.AbstractEventLoop, kind: str
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
def test_a_fifo_of_another_user_is_refused(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
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
    loop: asyncio.AbstractEventLoop, tmp_path: Path
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
    os.close(capture.writer((12346, 12347)))  # the next launch has another user
    found = os.stat(tmp_path / "fifo")
    assert (found.st_uid, found.st_gid) == (12346, 12347)
    capture.close(remove=True)
    file.close()


def test_a_thousand_idle_captures_are_small(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    def make(n: int) -> tuple[Capture, LogFile]:
        file = LogFile(str(tmp_path / f"log{n}"), 1 << 20, 5)
        return Capture(loop, str(tmp_path / f"fifo{n}"), file), file

    def measure(count: int) -> float:
        tracemalloc.start()
        pairs = [make(n) for n in range(count)]
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        for capture, file in pairs:
            capture.close(remove=True)
            file.close()
        return size / count

    # What else runs in this process may take memory meanwhile, so the least counts.
    assert min(measure(100) for _ in range(3)) < 4096


@pytest.mark.root
def test_a_full_disk_does_not_hold_up_the_application(
    small_disk: Path, tmp_path: Path, loop: asyncio.AbstractEventLoop, no_delay: None
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
