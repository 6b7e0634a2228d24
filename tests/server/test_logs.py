"""Logs of applications: wherever they go, no line is lost or doubled, and they can be read.

The writers count, so that a line that is missing or there twice is seen.
"""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cmappd.core.messages import Claim, Done, Ended, Logs, Refused, Reopen, Stop, Text
from tests.server.harness import PATIENCE, Client, Guest, shell, stanza, suspend, wait_for

# Counts in lines: all at once up to a number, then one each few milliseconds.
COUNT = """
import os, sys, time
for n in range(int(sys.argv[1])):
    os.write(1, b"%08d %s\\n" % (n, b"x" * (n % 190)))
while True:
    n += 1
    os.write(1, b"%08d\\n" % n)
    time.sleep(0.003)
"""


def counting(first: int, **log: Any) -> str:
    return stanza("db", sys.executable, "-c", COUNT, str(first), autostart=True, log=log)


def numbers(text: str) -> list[int]:
    return [int(one) for one in re.findall(r"^(?:\S+ )?(\d{8})\b", text, re.MULTILINE)]


def whole(path: Path) -> str:
    """The log with its backups, the oldest first; they may be renamed meanwhile."""
    backups = sorted(path.parent.glob(f"{path.name}.[0-9]*"), key=lambda one: -int(one.suffix[1:]))
    return "".join(map(text_of, (*backups, path)))


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def wait_counted(path: Path, more: int = 50) -> int:
    """Wait until so many more lines are there; the last number."""
    last = max(numbers(whole(path)), default=0)
    return wait_for(
        lambda: found[-1] if (found := numbers(whole(path)))[-1:] > [last + more] else 0
    )


def stopped(guest: Guest) -> None:
    admin = guest.control()
    assert isinstance(admin.ask(Stop(admin.next(), "db")), Done)


def read(client: Client, lines: int = 10) -> tuple[str, list[str]]:
    """The end of the log, and the remarks about it."""
    seq = client.next()
    client.send(Logs(seq, "db", lines))
    texts: list[Text] = []
    while isinstance(reply := client.answer(seq), Text):
        texts.append(reply)
    assert isinstance(reply, Done), reply
    return "".join(one.text for one in texts if not one.remark), [
        one.text for one in texts if one.remark
    ]


# Files -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["raw", "timestamps"])
def test_killed_again_and_again_while_it_rotates(tmp_path: Path, form: str) -> None:
    log = tmp_path / "db.log"
    text = counting(60_000, max_size=200_000, backups=1000, format=form)
    with Guest(tmp_path, text, tls=False).started() as guest:
        for n in range(6):
            wait_for(log.exists)
            time.sleep(0.02 * n)  # another moment of the stream for each
            guest.kill()
            guest.start()
        wait_for(lambda: numbers(text_of(log))[-1:] > [60_000])  # it is away while it rotates
        stopped(guest)
        found = numbers(whole(log))
        assert found == list(range(len(found)))
        assert len(list(tmp_path.glob("db.log.*"))) > 10


def test_a_file_that_is_moved_away_and_opened_anew(tmp_path: Path) -> None:
    """As logrotate does it: the moved file is complete when the request is answered."""
    log = tmp_path / "db.log"
    with Guest(tmp_path, counting(1000), tls=False).started() as guest:
        admin = guest.control()
        for n in (3, 2, 1):
            wait_counted(log)
            log.rename(tmp_path / f"db.log.{n}")
            wait_counted(tmp_path / f"db.log.{n}", 1)
            reply = admin.ask(Reopen(admin.next(), ("db",) if n % 2 else ()))
            assert isinstance(reply, Done)
            assert reply.text == "1 log opened anew"
            complete = (tmp_path / f"db.log.{n}").read_text()
        wait_counted(log)
        assert (tmp_path / "db.log.1").read_text() == complete
        stopped(guest)
        found = numbers(whole(log))
        assert found == list(range(len(found)))


def test_a_file_that_cannot_be_opened_anew_is_written_on(tmp_path: Path) -> None:
    log = tmp_path / "db.log"
    with Guest(tmp_path, counting(10), tls=False).started() as guest:
        wait_counted(log)
        log.rename(tmp_path / "moved")
        log.mkdir()
        admin = guest.control()
        reply = admin.ask(Reopen(admin.next()))
        assert isinstance(reply, Refused)
        assert reply.text == f"db: cannot open {log}: Is a directory"
        assert "Is a directory" in admin.app("db").problem
        wait_counted(tmp_path / "moved")
        reply = admin.ask(Reopen(admin.next(), ("web",)))
        assert isinstance(reply, Refused)
        assert reply.reason == "unknown-app"


def test_a_file_that_is_copied_and_truncated_has_no_hole(tmp_path: Path) -> None:
    """Between two lines; at the very moment of a write nobody can see it come."""
    log = tmp_path / "db.log"
    with Guest(tmp_path, counting(10), tls=False).started() as guest:
        wait_counted(log)
        control = guest.control()
        pid = control.app("db").pid
        assert pid is not None
        suspend(pid)
        # The log has all that was written until now.
        assert isinstance(control.ask(Reopen(control.next(), ("db",))), Done)
        copy = log.read_bytes()
        os.truncate(log, 0)
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: text_of(log).count("\n") > 20)
        stopped(guest)
        after = log.read_bytes()
        assert b"\0" not in after
        found = numbers((copy + after).decode())
        assert found == list(range(found[-1] + 1))


def test_a_rotated_log_neither_spins_nor_loses(tmp_path: Path) -> None:
    """What users of supervisord complain of: rotated, moved away, and at rest afterwards."""
    log, moved, enough = (tmp_path / name for name in ("db.log", "moved", "enough"))
    count = f"{sys.executable} -c '{COUNT}' 2000"
    script = f"{count} & until test -e {enough}; do sleep 0.02; done; kill $!; exec sleep 600"
    text = shell("db", script, autostart=True, log={"max_size": 4096, "backups": 1000})

    def counted() -> list[int]:
        return sorted(numbers(whole(log) + text_of(moved)))

    with Guest(tmp_path, text, tls=False).started() as guest:
        seen = wait_counted(log, 2000)
        log.rename(moved)
        wait_for(lambda: counted()[-1] > seen + 300)  # there, and then in new files
        enough.touch()
        wait_for(lambda: quiet(guest.pid, seconds=1.0), 2 * PATIENCE)
        found = counted()
        assert found == list(range(len(found)))
        assert len(list(tmp_path.glob("db.log.*"))) > 20


def quiet(pid: int, seconds: float = 0.2) -> bool:
    """Whether a process does next to nothing for a while; one that spins takes all that it gets."""

    def used() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(seconds)
    return used() - before <= 0.02 + seconds / 20


@pytest.mark.parametrize("form", ["raw", "json"])
def test_a_full_disk_drops_lines_counts_them_and_holds_nobody_up(tmp_path: Path, form: str) -> None:
    script = 'for n in 1 2 3; do echo "line $n"; done; touch written; exec sleep 600'
    keys: dict[str, Any] = {"autostart": True, "directory": str(tmp_path)}
    text = shell("db", script, **keys, log={"path": "/dev/full", "format": form})
    with Guest(tmp_path, text, tls=False).started() as guest:
        wait_for((tmp_path / "written").exists)
        admin = guest.control()
        status = admin.wait_app("db", lambda status: status.log_dropped == 3)
        assert status.problem == "cannot write /dev/full: No space left on device"
        assert quiet(guest.pid) or quiet(guest.pid)
        guest.write(shell("db", script, **keys, log={"format": form}))
        wait_for(lambda: (tmp_path / "db.log").exists())
        # Nothing more is written, and yet it is told.
        wait_for(lambda: "dropped" in (tmp_path / "db.log").read_text())
        told = (tmp_path / "db.log").read_text()
        assert re.search(r"cmappd: 3 lines \(\d+ bytes\) were dropped: No space left", told)
        assert not admin.app("db").problem
        assert admin.app("db").log_dropped == 3


@pytest.mark.parametrize(
    ("before", "after"),
    [("raw", "raw"), ("raw", "timestamps"), ("timestamps", "raw"), ("json", "timestamps")],
)
def test_a_reload_that_changes_file_and_form(tmp_path: Path, before: str, after: str) -> None:
    first, second = tmp_path / "db.log", tmp_path / "other.log"
    with Guest(tmp_path, counting(3000, format=before), tls=False).started() as guest:
        wait_for(lambda: first.exists() and first.stat().st_size > 10_000)
        guest.write(counting(3000, format=after, path="other.log"))
        wait_for(lambda: second.exists() and second.stat().st_size > 10_000)
        stopped(guest)
        texts = [
            "".join(json.loads(one)["message"] + "\n" for one in text.splitlines())
            if form == "json"
            else text
            for text, form in ((first.read_text(), before), (second.read_text(), after))
        ]
        # A line may be divided between the two: it is whole when they are put together.
        joined = re.sub(r"(?<!\n)\n?\d{4}-\S+ (?!\d{8})", "", "".join(texts))
        found = numbers(joined) if "timestamps" in (before, after) else numbers("".join(texts))
        assert set(range(found[-1])) - set(found) <= {found[len(numbers(texts[0])) - 1] + 1}
        assert len(found) == len(set(found))


# Elsewhere ---------------------------------------------------------------------------


def test_without_a_log_the_end_is_kept_for_people(tmp_path: Path) -> None:
    text = shell("db", "seq 5000; echo end; exit 3", log={"destination": "none", "path": None})
    with Guest(tmp_path, text).started() as guest:
        manager = guest.manager()
        manager.send(Claim(manager.next(), "db"))
        ended = manager.hear(Ended)
        assert ended.log_tail.endswith("\n4999\n5000\nend\n")
        shown, remarks = read(guest.control(), 3)
        assert shown == "4999\n5000\nend\n"
        assert remarks == [
            "the log of db goes nowhere; this is the end of it, as far as cmappserver has kept it "
            "since it started"
        ]


# Following ---------------------------------------------------------------------------


class Follower:
    """A client that follows the log of db."""

    def __init__(self, guest: Guest, lines: int = 1) -> None:
        self.client = guest.control()
        self.seq = self.client.next()
        self.text = ""
        self.remarks: list[str] = []
        self.client.send(Logs(self.seq, "db", lines, follow=True))

    def hear(self) -> None:
        reply = self.client.answer(self.seq)
        assert isinstance(reply, Text), reply
        if reply.remark:
            self.remarks.append(reply.text)
        else:
            self.text += reply.text

    def hear_until(self, number: int) -> list[int]:
        while numbers(self.text[-200:])[-1:] < [number]:
            self.hear()
        return numbers(self.text)


def test_a_follower_sees_each_line_once_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    log = tmp_path / "db.log"
    text = counting(10, max_size=2048, backups=1000)
    with Guest(tmp_path, text, tls=False).started() as guest:
        follower = Follower(guest)
        found = follower.hear_until(500)
        assert len(list(tmp_path.glob("db.log.*"))) > 1
        log.rename(tmp_path / "moved")
        admin = guest.control()
        assert isinstance(admin.ask(Reopen(admin.next())), Done)
        found = follower.hear_until(found[-1] + 100)
        guest.write(counting(10, format="timestamps"))
        found = follower.hear_until(found[-1] + 300)
        assert found == list(range(found[0], found[0] + len(found)))
        assert re.search(r"^2\d\d\d-\d\d-\d\dT\S+ \d{8}$", follower.text, re.MULTILINE)


@pytest.mark.parametrize("destination", ["none", "file"])
def test_a_follower_that_does_not_read_skips_lines_and_holds_nobody_up(
    tmp_path: Path, destination: str
) -> None:
    text = counting(100_000, **({"path": None} if destination == "none" else {}),
                    destination=destination)  # fmt: skip
    with Guest(tmp_path, text, tls=False).started() as guest:
        follower = Follower(guest)
        admin = guest.control()
        before = guest.memory()
        wait_for(lambda: numbers(read(admin, 1)[0])[-1:] > [100_000])
        assert guest.memory() - before < 8 * 1024 * 1024
        found = follower.hear_until(100_100)
        told = [one for one in follower.remarks if "skipped" in one]
        skipped = sum(int(one.split()[0]) for one in told)
        assert skipped > 10_000
        assert found == sorted(set(found))
        # What was cut by a skip is neither a line here, nor counted as more than one there.
        missing = found[-1] - found[0] + 1 - len(found)
        assert 0 <= missing - skipped <= len(told)


def test_a_follower_is_told_that_the_application_has_left(tmp_path: Path) -> None:
    with Guest(tmp_path, counting(10), tls=False).started() as guest:
        follower = Follower(guest)
        follower.hear_until(20)
        again = follower.client.ask(Logs(follower.client.next(), "db", follow=True))
        assert isinstance(again, Refused)
        assert again.reason == "busy"
        guest.write("")
        guest.control().wait_app("db", lambda status: status.removed)
        stopped(guest)
        while isinstance(reply := follower.client.answer(follower.seq), Text):
            pass
        assert isinstance(reply, Refused)
        assert reply.text == "there is nothing more to follow: 'db' has left"


def test_a_follower_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    log = tmp_path / "db.log"
    with Guest(tmp_path, counting(10), tls=False).started() as guest:
        follower = Follower(guest)
        follower.hear_until(20)
        follower.client.socket.shutdown(2)
        wait_counted(log)
        guest.signal(signal.SIGHUP)
        wait_counted(log)
