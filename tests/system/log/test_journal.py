"""The journal's native stream, to a reader like journald, and to journald itself."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmappd.system.log import journal, outlet
from cmappd.system.log.journal import JournalLog
from tests.system.daemons import Feed, Journald, feeding
from tests.system.killer import run_until_call
from tests.system.numbered import lines

JOURNALD = Path("/lib/systemd/systemd-journald")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "stdout"))
    monkeypatch.setattr(outlet, "HOLD", 0.3)
    return tmp_path / "stdout"


@pytest.fixture
def feed(path: Path) -> Iterator[Feed[JournalLog]]:
    with feeding(JournalLog("db")) as feed:
        yield feed


def test_a_stream_begins_with_its_header_and_has_every_byte(
    path: Path, feed: Feed[JournalLog]
) -> None:
    journald = Journald(path)
    feed.write(b"one\n<3>bad\nhalf ")
    feed.pump()
    feed.write(b"a line\n\xff\n")
    feed.pump_until(journald, lambda: len(journald.entries) == 4)
    assert journald.headers == [(b"db", b"", b"6", b"1", b"0", b"0", b"0")]
    assert journald.entries == [b"one", b"<3>bad", b"half a line", b"\xff"]
    assert feed.log.tail(2, 1000, b"") == "half a line\n\ufffd\n"
    journald.close()


def test_the_last_words_of_a_run_are_an_entry(path: Path, feed: Feed[JournalLog]) -> None:
    journald = Journald(path)
    feed.write(b"last words")
    feed.pump()
    feed.log.finish()
    feed.log.finish()
    feed.pump_until(journald, lambda: journald.entries == [b"last words"])
    journald.close()


def test_while_it_is_away_lines_wait_and_none_is_lost(path: Path, feed: Feed[JournalLog]) -> None:
    journald = Journald(path)
    feed.write(b"one\n")
    feed.pump_until(journald, lambda: journald.entries)
    journald.close()
    feed.write(b"two\n")
    feed.pump()
    assert feed.log.pause > 0
    journald = Journald(path)
    feed.pump_until(journald, lambda: journald.entries == [b"two"])
    assert (feed.log.dropped, feed.log.problem) == (0, None)
    journald.close()


def test_when_it_stays_away_lines_are_dropped_and_told_of(
    path: Path, feed: Feed[JournalLog]
) -> None:
    feed.write(b"lost\nlost\nlo")
    feed.pump_until(None, lambda: feed.log.dropped)
    assert feed.log.dropped == 3
    assert feed.log.pause == 0
    assert f"cannot write to {path}: No such file" in (feed.log.problem or "")
    assert feed.log.tail(2, 1000, b"") == "lost\nlo\n"
    journald = Journald(path)
    time.sleep(max(feed.log._outlet._retry_at - time.monotonic(), 0))  # it is tried so soon
    feed.write(b"st\nkept\n")
    feed.pump_until(journald, lambda: b"kept" in journald.entries)
    notice, kept = journald.entries
    assert notice.startswith(b"<4>cmappd: 3 lines (15 bytes) were dropped: cannot write to")
    assert kept == b"kept"
    assert (feed.log.dropped, feed.log.problem) == (3, None)
    journald.close()


def test_one_that_sleeps_holds_nobody_up_for_ever(path: Path, feed: Feed[JournalLog]) -> None:
    journald = Journald(path)
    given = 0

    def stuck() -> bool:
        nonlocal given
        feed.write(lines(given, given + 20))
        given += 20
        feed.pump()
        return feed.log.pause > 0 or feed.log.dropped > 0

    while not stuck():
        pass
    feed.pump_until(None, lambda: feed.log.dropped)
    assert "it does not read what it is sent" in (feed.log.problem or "")

    def told() -> bool:
        feed.write(b"more\n")
        return any(b"were dropped" in one for one in journald.entries)

    feed.pump_until(journald, told)
    assert feed.log.problem is None
    numbers = [int(one[:8]) for one in journald.entries if one[:8].isdigit()]
    assert numbers == list(range(len(numbers)))
    journald.close()


def test_killed_at_any_system_call_it_loses_and_doubles_nothing(path: Path, tmp_path: Path) -> None:
    fifo, text = tmp_path / "fifo", lines(0, 50)

    def serve() -> None:
        pipe = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        log = JournalLog("db")
        while log.move(pipe):
            pass
        log.close()
        os.close(pipe)

    for number in range(1, 100):
        os.mkfifo(fifo)
        held = os.open(fifo, os.O_RDWR)
        os.write(held, text)
        journald = Journald(path)
        killed = run_until_call(number, serve)
        serve()
        journald.read()
        journald.close()
        os.close(held)
        os.unlink(fifo)
        assert b"".join(one + b"\n" for one in journald.entries) == text
        if not killed:
            break
    assert number > 3


# journald itself ------------------------------------------------------------------------

# Arguments: a folder. In a mount namespace of its own, with a /run of its own.
REAL = f"""
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd /run/log/journal
journald() {{
    {JOURNALD} 2>"$1/journald.$2" &
    until test -S /run/systemd/journal/stdout; do sleep 0.02; done
}}
journald "$1" 1; first=$!
"$2" -c "$3" "$1" &
writer=$!
until test -e "$1/restart"; do sleep 0.02; done
kill $first; wait $first || true; rm -f /run/systemd/journal/stdout
journald "$1" 2; second=$!
touch "$1/restarted"
wait $writer
journalctl --sync
journalctl --directory=/run/log/journal --output=json --identifier=db >"$1/entries"
kill $second; wait $second || true
"""
WRITER = """
import sys, time
from pathlib import Path
from cmappd.system.log.journal import JournalLog
from tests.system.daemons import feeding
folder = Path(sys.argv[1])
with feeding(JournalLog("db")) as feed:
    for n in range(2000):
        feed.write(b"%08d\\n" % n)
        feed.pump()
        if n == 999:
            time.sleep(0.5)  # what it has not read, it cannot keep
            (folder / "restart").touch()
        if n == 1000:
            feed.pump_until(None, (folder / "restarted").exists)
    feed.pump_until(None, lambda: not feed.log.pause)
    feed.write(b"<3>bad\\nlast words")
    feed.pump()
    feed.log.finish()
    assert feed.log.dropped == 0, feed.log.problem
"""


@pytest.mark.root
def test_journald_itself_has_every_line_also_when_it_is_restarted(tmp_path: Path) -> None:
    if not JOURNALD.exists() or shutil.which("unshare") is None:
        pytest.skip("needs systemd-journald and unshare")
    command = ["unshare", "--mount", "sh", "-c", REAL, "sh", str(tmp_path), sys.executable, WRITER]
    ran = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()}
    )
    assert ran.returncode == 0, ran.stderr
    entries = [json.loads(text) for text in (tmp_path / "entries").read_text().splitlines()]
    found = [(entry["MESSAGE"], entry["PRIORITY"]) for entry in entries]
    assert found[-2:] == [("bad", "3"), ("last words", "6")]
    assert found[:-2] == [(f"{n:08d}", "6") for n in range(2000)]
