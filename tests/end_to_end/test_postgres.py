"""PostgreSQL as the application: the real one, under its own user, with pg_isready as its health.

Needs root, to run it as the user ``postgres``, which may not enter pytest's own folders: so
its data is in a temporary directory of its own.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cmappd import reasons
from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import PATIENCE, Manager, processes_in, wait_for
from tests.ports import free_port

pytestmark = [pytest.mark.root, pytest.mark.postgres, pytest.mark.timeout(180)]
USER = "postgres"
# The processes in the data directory, from /proc, counted.
COUNT = 'ls -l /proc/[0-9]*/cwd 2>/dev/null | grep -c " -> $0$"'
# At the very moment of each launch: how many there are then; afterwards it becomes one.
GUARDED = f'{COUNT} >>"$0.launches"; exec "$@"'


class Postgres:
    """A database cluster of its own, on a socket in its folder."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()

    def make(self) -> None:
        words = ["--auth=trust", "--no-sync", "--no-instructions", "--locale=C", "-E", "UTF8"]
        making = self.as_user(str(self._programs / "initdb"), "-D", str(self.data), *words)
        output, _ = making.communicate(timeout=60)
        assert making.returncode == 0, output

    def query(self, sql: str) -> str:
        output, _ = self.session(sql).communicate(timeout=PATIENCE)
        return output.strip()

    def session(self, sql: str) -> "subprocess.Popen[str]":
        """Start a client with this one query."""
        where = ("-h", str(self.folder), "-p", str(self.port), "-d", "postgres")
        return self.as_user(str(self._programs / "psql"), *where, "--no-psqlrc", "-Atc", sql)

    def count(self) -> int:
        """What GUARDED counts, now."""
        words = ["/bin/sh", "-c", f"{COUNT} || true", str(self.data)]
        return int(self.as_user(*words).communicate(timeout=PATIENCE)[0])

    def as_user(self, *words: str) -> "subprocess.Popen[str]":
        """Start a program as the user of the data."""
        return subprocess.Popen(
            words,
            user=USER,
            group=pwd.getpwnam(USER).pw_gid,
            extra_groups=[],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def define(self, scene: Scene, **keys: object) -> None:
        """Make it an application of the guest."""
        server = [str(self._programs / "postgres"), "-D", str(self.data)]
        server += ["-k", str(self.folder), "-p", str(self.port), "-c", "listen_addresses="]
        where = ["-h", str(self.folder), "-p", str(self.port)]
        ask = [str(self._programs / "pg_isready"), "--timeout=1", *where]
        scene.guest.define(
            "postgres",
            *("/bin/sh", "-c", GUARDED, str(self.data), *server),
            user=USER,
            directory=str(self.folder),
            start={"ready": "health", "timeout": "1m"},
            stop={"signal": "SIGINT", "timeout": "30s"},
            health={"command": ask, "interval": "300ms", "timeout": "10s", "failures": 2},
            **keys,
        )

    def processes(self) -> list[psutil.Process]:
        """All that live in the data directory, from /proc: postmaster and backends."""
        return processes_in(self.data)

    def launches(self) -> list[int]:
        """For each launch, how many processes used the data directory then."""
        return [int(line) for line in Path(f"{self.data}.launches").read_text().split()]


@pytest.fixture
def postgres(postgres_programs: Path) -> Iterator[Postgres]:
    account = pwd.getpwnam(USER)
    folder = Path(tempfile.mkdtemp(prefix="cmappd-pg-"))
    os.chown(folder, account.pw_uid, account.pw_gid)
    postgres = Postgres(postgres_programs, folder)
    try:
        postgres.make()
        yield postgres
        assert not postgres.processes()
    finally:
        for process in postgres.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(folder)


def started(scene: Scene, postgres: Postgres, **keys: object) -> Manager:
    """It runs, is healthy, and answers."""
    postgres.define(scene, **keys)
    scene.guest.start()
    manager = scene.manager("postgres")
    manager.wait_said("health: healthy")
    assert postgres.query("select 6 * 7") == "42"
    return manager


def test_it_runs_and_a_sigterm_of_the_manager_shuts_it_down_cleanly(
    postgres: Postgres, scene: Scene
) -> None:
    manager = started(scene, postgres)
    postmaster = psutil.Process(scene.guest.pid_of("postgres"))
    assert postmaster.username() == USER
    assert postgres.count() == len(postgres.processes()) > 3
    assert manager.stop() == 0
    assert postgres.count() == len(postgres.processes()) == 0
    said = scene.guest.app_said("postgres")
    assert "received fast shutdown request" in said
    assert "database system is shut down" in said
    assert "the database system was not properly shut down" not in said
    assert manager.report()["reason"] == "stopped"


def test_kill_9_of_the_postmaster(postgres: Postgres, scene: Scene) -> None:
    manager = started(scene, postgres)
    os.kill(scene.guest.pid_of("postgres"), signal.SIGKILL)
    assert manager.wait() == 128 + signal.SIGKILL
    assert not postgres.processes()
    said = manager.said()
    assert "exit 137, app: ended by itself, SIGKILL (signal 9)" in said
    assert "last health output: " in said
    assert "accepting connections" in said
    assert "last log: " in said
    assert "database system is ready to accept connections" in said
    # What a cluster does next: the same again, which recovers.
    again = scene.manager("postgres")
    again.wait_said("health: healthy")
    assert "database system was not properly shut down" in scene.guest.app_said("postgres")
    assert postgres.query("select 6 * 7") == "42"
    assert again.stop() == 0
    assert postgres.launches() == [0, 0]


def test_a_postmaster_that_hangs_is_unhealthy(postgres: Postgres, scene: Scene) -> None:
    manager = started(scene, postgres)
    os.kill(scene.guest.pid_of("postgres"), signal.SIGSTOP)
    assert manager.wait() == reasons.UNHEALTHY.code
    assert not postgres.processes()
    assert manager.report()["cause"] == "unhealthy"
    line = f"last health output: {postgres.folder}:{postgres.port} - no response"
    assert line in manager.said()


def test_the_tree_is_empty_before_each_relaunch(postgres: Postgres, scene: Scene) -> None:
    """Two postmasters, or a backend of the one before, would ruin the data."""
    rule = {"policy": "on-failure", "limit": 3, "delay": "10ms", "max_delay": "20ms"}
    manager = started(scene, postgres, restart=rule)
    for ordeal in range(3):
        with busy_session(postgres):
            pid = scene.guest.pid_of("postgres")
            os.kill(pid, signal.SIGKILL)
            manager.wait_said("running, pid", times=ordeal + 2)
            assert scene.guest.pid_of("postgres") != pid
    assert postgres.query("select 6 * 7") == "42"
    assert manager.stop() == 0
    assert postgres.launches() == [0, 0, 0, 0]
    assert "lock file" not in scene.guest.app_said("postgres")


@contextlib.contextmanager
def busy_session(postgres: Postgres) -> Iterator[None]:
    """A client whose backend is in the middle of something when its postmaster dies."""
    sql = "select pg_sleep(600)"
    client = postgres.session(sql)
    try:
        active = f"select count(*) from pg_stat_activity where query = '{sql}'"
        wait_for(lambda: postgres.query(active) == "1", "the session")
        yield
        output, _ = client.communicate(timeout=PATIENCE)
        assert client.returncode != 0, output
    finally:
        client.kill()
        client.communicate()
