"""Syslog: datagrams to a socket, and to a real syslog daemon."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmappd.system.log import outlet, syslog
from cmappd.system.log.syslog import LONGEST, SyslogLog
from tests.system.daemons import Feed, Syslogd, feeding
from tests.system.killer import run_until_call

HEAD = re.compile(rb"<(\d+)>[A-Z][a-z]{2} [ 1-3]\d \d\d:\d\d:\d\d db: ")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(syslog, "SOCKET", str(tmp_path / "log"))
    monkeypatch.setattr(outlet, "HOLD", 0.3)
    return tmp_path / "log"


@pytest.fixture
def feed(path: Path, tmp_path: Path) -> Iterator[Feed[SyslogLog]]:
    with feeding(SyslogLog("db", str(tmp_path / "spool"))) as feed:
        yield feed


def texts(syslogd: Syslogd) -> list[bytes]:
    return [HEAD.sub(b"", one, count=1) for one in syslogd.datagrams]


def test_a_line_is_a_datagram(path: Path, feed: Feed[SyslogLog]) -> None:
    syslogd = Syslogd(path)
    feed.write(b"one\n\nhalf ")
    feed.pump_until(syslogd, lambda: len(syslogd.datagrams) == 2)
    feed.write(b"a line\n" + b"x" * (LONGEST + 5) + b"\nrest")
    feed.pump()
    feed.log.finish()
    feed.pump_until(syslogd, lambda: len(syslogd.datagrams) == 6)
    assert texts(syslogd) == [b"one", b"", b"half a line", b"x" * LONGEST, b"xxxxx", b"rest"]
    assert {HEAD.match(one)[1] for one in syslogd.datagrams} == {b"30"}  # type: ignore[index]
    assert max(map(len, syslogd.datagrams)) <= 8192
    assert feed.log.tail(1, 1000, b"") == "rest\n"
    syslogd.close()


def test_while_it_is_away_or_slow_lines_wait_and_none_is_lost(
    path: Path, feed: Feed[SyslogLog]
) -> None:
    syslogd = Syslogd(path)
    numbered = b"".join(b"%d\n" % n for n in range(3000))  # more than its queue takes
    feed.write(numbered)
    feed.pump()
    syslogd.read()
    before = texts(syslogd)
    syslogd.close()  # with what it has not read: only that may be missing
    feed.pump()
    assert feed.log.pause > 0
    syslogd = Syslogd(path)
    feed.pump_until(syslogd, lambda: b"2999" in texts(syslogd))
    found = before + texts(syslogd)
    assert [int(one) for one in found] == list(range(3000))
    assert (feed.log.dropped, feed.log.problem) == (0, None)
    syslogd.close()


def test_when_it_stays_away_lines_are_dropped_and_told_of(
    path: Path, feed: Feed[SyslogLog]
) -> None:
    feed.write(b"lost\nlost\n")
    feed.pump_until(None, lambda: feed.log.dropped)
    assert feed.log.dropped == 2
    assert f"cannot write to {path}: No such file" in (feed.log.problem or "")
    syslogd = Syslogd(path)

    def kept() -> bool:
        feed.write(b"kept\n")
        return b"kept" in texts(syslogd)

    feed.pump_until(syslogd, kept)
    assert re.match(rb"cmappd: \d+ lines \(\d+ bytes\) were dropped: ", texts(syslogd)[0])
    assert HEAD.match(syslogd.datagrams[0])[1] == b"28"  # type: ignore[index]
    assert feed.log.problem is None
    syslogd.close()


def test_killed_at_any_system_call_one_line_comes_twice_at_most(path: Path, tmp_path: Path) -> None:
    fifo, spool = tmp_path / "fifo", tmp_path / "spool"
    wanted = [b"%d" % n for n in range(5)]

    def serve() -> None:
        pipe = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        log = SyslogLog("db", str(spool))
        while log.move(pipe):
            pass
        log.close()
        os.close(pipe)

    for number in range(1, 100):
        os.mkfifo(fifo)
        held = os.open(fifo, os.O_RDWR)
        os.write(held, b"".join(one + b"\n" for one in wanted))
        syslogd = Syslogd(path)
        killed = run_until_call(number, serve)
        serve()
        syslogd.read()
        syslogd.close()
        os.close(held)
        os.unlink(fifo)
        found = texts(syslogd)
        doubled = [one for at, one in enumerate(found[1:]) if one == found[at]]
        assert len(doubled) <= 1
        assert [one for at, one in enumerate(found) if at == 0 or one != found[at - 1]] == wanted
        if not killed:
            assert doubled == []
            break
    assert number > 10


# A real daemon ---------------------------------------------------------------------------

# Arguments: a folder. Only in this mount namespace /dev/log is what is there.
REAL = """
set -e
mount -t tmpfs tmpfs /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/urandom c 1 9
busybox syslogd -n -O "$1/messages" &
trap "kill $!" EXIT
until test -S /dev/log; do sleep 0.02; done
"$2" -c "$3" "$1"
for _ in $(seq 500); do grep -q 'last words' "$1/messages" && break; sleep 0.02; done
"""
WRITER = """
import sys
from cmappd.system.log.syslog import SyslogLog
from tests.system.daemons import feeding
with feeding(SyslogLog("db", sys.argv[1] + "/spool")) as feed:
    for n in range(1000):
        feed.write(b"%08d\\n" % n)
        feed.pump()
    feed.write(b"last words\\n")
    feed.pump()
    feed.pump_until(None, lambda: not feed.log.pause)
    assert feed.log.dropped == 0, feed.log.problem
"""


@pytest.mark.root
def test_a_real_daemon_has_every_line(tmp_path: Path) -> None:
    if shutil.which("busybox") is None or shutil.which("unshare") is None:
        pytest.skip("needs busybox and unshare")
    command = ["unshare", "--mount", "sh", "-c", REAL, "sh", str(tmp_path), sys.executable, WRITER]
    ran = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()}
    )
    assert ran.returncode == 0, ran.stderr
    messages = (tmp_path / "messages").read_text().splitlines()
    found = [text.partition(" daemon.info db: ")[2] for text in messages if " db: " in text]
    assert found == [*(f"{n:08d}" for n in range(1000)), "last words"]
