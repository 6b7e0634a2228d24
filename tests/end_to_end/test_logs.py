"""Logs as the administrator meets them: cmappctl logs -f, cmappctl reopen, logrotate, journald."""

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.guest import Guest
from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import PROGRAMS, Program, wait_for

COUNT = "n=0; while :; do n=$((n + 1)); echo line $n; sleep 0.01; done"
JOURNALD = Path("/lib/systemd/systemd-journald")


def follow(guest: Guest, *words: str) -> Program:
    """cmappctl logs -f of db, whose output and errors go on in one file."""
    control = ("--socket", str(guest.state / "control.sock"))
    log = guest.folder / "followed.log"
    return Program("cmappctl", *control, "logs", "-f", *words, "db", folder=guest.folder, log=log)


def numbers(text: str) -> list[int]:
    return [int(one) for one in re.findall(r"line (\d+)", text)]


def test_follow_until_it_is_interrupted(scene: Scene) -> None:
    scene.guest.shell("db", COUNT, autostart=True)
    scene.guest.start()
    wait_for(lambda: "line 20\n" in scene.guest.app_said("db"))
    follower = follow(scene.guest, "-n", "3")
    wait_for(lambda: len(numbers(follower.said())) > 50)
    follower.signal(signal.SIGINT)
    assert follower.wait() == 130
    found = numbers(follower.said())
    assert found == list(range(found[0], found[0] + len(found)))
    assert follower.said() == "".join(f"line {n}\n" for n in found)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_goes_away_is_told_of(scene: Scene, end: int) -> None:
    scene.guest.shell("db", COUNT, autostart=True)
    server = scene.guest.start()
    follower = follow(scene.guest)
    wait_for(lambda: numbers(follower.said()))
    server.signal(end)
    assert follower.wait() == 4
    last = follower.said().splitlines()[-1]
    assert last.startswith("cmappctl: cmappserver went away: ")
    server.wait()
    if end == signal.SIGKILL:
        scene.guest.start()


def test_what_is_not_in_a_file_is_said(scene: Scene) -> None:
    scene.guest.shell("db", "seq 20; exec sleep 600", autostart=True)
    scene.guest.apps["db"]["log"] = {"destination": "none"}
    scene.guest.start()
    wait_for(lambda: "20\n" in scene.guest.ctl("logs", "db").stdout)
    done = scene.guest.ctl("logs", "-n", "2", "db")
    assert (done.returncode, done.stdout) == (0, "19\n20\n")
    assert done.stderr.startswith("cmappctl: the log of db goes nowhere; this is the end of it, ")
    assert done.stderr.count("\n") == 1


def test_logrotate_and_reopen(scene: Scene) -> None:
    if shutil.which("logrotate") is None:
        pytest.skip("logrotate is not installed")
    guest, log = scene.guest, scene.guest.app_log("db")
    guest.shell("db", COUNT, autostart=True)
    guest.start()
    page = (Path(__file__).parents[2] / "man" / "cmappctl.8").read_text()
    (stanza,) = re.findall(r"^/var/log/cmappd/.*?^}$", page, re.DOTALL | re.MULTILINE)
    words = f"{PROGRAMS}/cmappctl --socket {guest.state}/control.sock reopen"
    stanza = stanza.replace("/var/log/cmappd/*.log", str(log)).replace("cmappctl reopen", words)
    config = guest.folder / "logrotate.conf"
    config.write_text(stanza.replace("compress", "nocompress"))
    config.chmod(0o644)
    for n in (1, 2, 3):
        wait_for(lambda: len(numbers(guest.app_said("db"))) > 20)
        rotate = ["logrotate", "--force", "--state", str(guest.folder / "rotated"), str(config)]
        ran = subprocess.run(rotate, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert len(list(guest.folder.glob("db.log.*"))) == n
    wait_for(lambda: len(numbers(guest.app_said("db"))) > 20)
    texts = [Path(f"{log}.{n}").read_text() for n in (3, 2, 1)] + [guest.app_said("db")]
    found = numbers("".join(texts))
    assert found == list(range(1, len(found) + 1))


# In a mount namespace of its own, with a /run of its own, where journald runs; then the words.
WITH_JOURNALD = f"""
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd /run/log/journal
{JOURNALD} 2>journald.err &
echo $! >journald.pid
until test -S /run/systemd/journal/stdout; do sleep 0.02; done
exec "$@"
"""


@pytest.mark.root
def test_the_journal_has_the_lines_of_a_failed_application(scene: Scene) -> None:
    if not JOURNALD.exists() or shutil.which("unshare") is None:
        pytest.skip("needs systemd-journald and unshare")
    guest = scene.guest
    guest.shell("db", "echo '<3>cannot go on' >&2; printf 'last words'; exit 3")
    guest.apps["db"]["log"] = {"destination": "journal"}
    server = guest.start(prefix=("unshare", "--mount", "sh", "-c", WITH_JOURNALD, "sh"))
    try:
        manager = scene.manager("db")
        assert manager.wait() == 3
        assert "last words" in manager.said()
        done = guest.ctl("logs", "db")
        assert done.stdout == "<3>cannot go on\nlast words\n"
        assert "the log of db goes to the journal (journalctl -t db)" in done.stderr
        inside = ["nsenter", "--mount", "--target", str(server.pid), "journalctl"]
        subprocess.run([*inside, "--sync"], check=True, capture_output=True)
        query = ["--directory=/run/log/journal", "--output=json", "--identifier=db"]
        shown = subprocess.run([*inside, *query], check=True, capture_output=True, text=True)
        entries = [json.loads(line) for line in shown.stdout.splitlines()]
        found = [(entry["MESSAGE"], entry["PRIORITY"]) for entry in entries]
        assert found == [("cannot go on", "3"), ("last words", "6")]
        assert {entry["_PID"] for entry in entries} == {str(server.pid)}
    finally:
        subprocess.run(["kill", (guest.folder / "journald.pid").read_text().strip()], check=True)
