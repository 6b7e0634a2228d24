"""What a manager leaves behind for whoever asks why the cluster acted."""

import signal
import socket
import threading
from pathlib import Path

import pytest

from cmappd import reasons
from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import PATIENCE, Table, wait_for

LAST_WORDS = "PANIC: cannot write to log"
HEALTH = {
    "command": ["/bin/sh", "-c", "echo 'connections: 9 of 9'; test -e well"],
    "interval": "200ms",
    "failures": 2,
}


def unhealthy(scene: Scene, *words: str) -> tuple[str, Table]:
    """A run that ends for its health; what the manager said, and its report."""
    (scene.folder / "well").touch()
    scene.guest.shell(
        "db",
        f"echo started; echo '{LAST_WORDS}'; exec sleep 600",
        start={"ready": "health"},
        health=HEALTH,
    )
    scene.guest.start()
    manager = scene.manager("db", *words)
    manager.wait_said("health: healthy")
    wait_for(lambda: LAST_WORDS in scene.guest.app_said("db"))
    (scene.folder / "well").unlink()
    assert manager.wait() == reasons.UNHEALTHY.code
    return manager.said(), manager.report()


def test_before_a_failing_exit_the_log_has_all_the_evidence(scene: Scene) -> None:
    said, _ = unhealthy(scene)
    lines = [line.partition(" cmappmgr db@guest1: ")[2] for line in said.splitlines()]
    run = lines[-1].partition("(run ")[2].rstrip(")")
    assert run.startswith("db.")
    how = "ended for failed health checks, SIGTERM (signal 15): "
    assert lines[-1].startswith(f"exit 209, unhealthy: {how}")
    assert f"last health output: connections: 9 of 9 (run {run})" in lines
    assert lines.index(f"last log: started (run {run})") < lines.index(
        f"last log: {LAST_WORDS} (run {run})"
    )
    assert all(line for line in lines)


def test_the_report_says_the_same_as_the_log(scene: Scene) -> None:
    said, report = unhealthy(scene)
    assert f"exit {report['code']}, {report['reason']}: {report['text']}" in said
    told = {key: report[key] for key in ("app", "guest", "cause", "exit_code", "signal")}
    assert told == {
        "app": "db",
        "guest": "guest1",
        "cause": "unhealthy",
        "exit_code": None,
        "signal": signal.SIGTERM,
    }
    assert f"(run {report['run']})" in said
    assert report["started"] <= report["ended"]


def test_the_log_file_has_what_standard_error_has(scene: Scene, tmp_path: Path) -> None:
    said, _ = unhealthy(scene, "--log-file", str(tmp_path / "copy.log"))
    assert (tmp_path / "copy.log").read_text() == said


def test_the_last_words_of_a_process_that_is_killed_are_not_lost(scene: Scene) -> None:
    """They are in the pipe when it dies, and must be in the evidence."""
    script = "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; kill -KILL $$"
    scene.guest.shell("db", script)
    scene.guest.start()
    manager = scene.manager("db")
    assert manager.wait() == 128 + signal.SIGKILL
    assert "last log: line 499 " in manager.said()
    assert scene.guest.app_said("db").count("\n") == 500


def test_a_success_tells_its_end_but_no_error(scene: Scene) -> None:
    scene.guest.shell("db", "echo done; exit 0")
    scene.guest.start()
    manager = scene.manager("db")
    assert manager.wait() == 0
    assert "exit 0, success: ended by itself, exit code 0" in manager.said()


def test_the_report_is_there_as_a_whole_or_not_at_all(scene: Scene, tmp_path: Path) -> None:
    """Whoever reads the file at any time reads the old one or the new one."""
    report = tmp_path / "report.json"
    report.write_text("before")
    seen = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.add(report.read_text())

    scene.guest.shell("db", "exit 3")
    scene.guest.start()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        manager = scene.manager("db", "--report", str(report))
        assert manager.wait() == 3
        wait_for(lambda: len(seen) == 2)
    finally:
        over.set()
        watcher.join()
    assert seen == {"before", report.read_text()}
    assert not list(tmp_path.glob("report.json.*"))


def test_a_report_that_cannot_be_written_does_not_change_the_exit(scene: Scene) -> None:
    scene.guest.shell("db", "exit 3")
    scene.guest.start()
    manager = scene.manager("db", "--report", "/no/such/folder/report.json")
    assert manager.wait() == 3
    assert "cannot write --report /no/such/folder/report.json: No such file" in manager.said()


@pytest.mark.root
def test_syslog_gets_the_same_lines(scene: Scene, tmp_path: Path) -> None:
    scene.guest.shell("db", "exit 3")
    scene.guest.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "syslog"))
        syslog.settimeout(PATIENCE)
        manager = scene.manager("db", prefix=in_a_dev_of_its_own(tmp_path, "syslog"))
        assert manager.wait() == 3
        texts = [line.partition(" cmappmgr ")[2] for line in manager.said().splitlines()]
        records = [syslog.recv(8192).decode() for _ in texts]
    assert [record.partition(f" cmappmgr[{manager.pid}]: ")[2] for record in records] == texts
    daemon, info, error = 3 << 3, 6, 3
    assert records[0].startswith(f"<{daemon | info}>")
    assert records[-1].startswith(f"<{daemon | error}>")


@pytest.mark.root
def test_without_syslog_nothing_else_changes(scene: Scene, tmp_path: Path) -> None:
    scene.guest.shell("db", "exit 3")
    scene.guest.start()
    manager = scene.manager("db", prefix=in_a_dev_of_its_own(tmp_path, "absent"))
    assert manager.wait() == 3
    assert manager.said().count("\n") == 5
    assert manager.report()["code"] == 3


def in_a_dev_of_its_own(folder: Path, log: str) -> tuple[str, ...]:
    """A prefix: the command sees a /dev with nothing in it but null, and log as a link to that."""
    dev = folder / "dev"
    dev.mkdir()
    (dev / "null").touch()
    (dev / "log").symlink_to(folder / log)
    mounts = f"mount --bind /dev/null {dev}/null && mount --rbind {dev} /dev"
    return ("unshare", "--mount", "sh", "-c", f'{mounts} && exec "$0" "$@"')
