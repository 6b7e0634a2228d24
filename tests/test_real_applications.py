"""The examples run real applications: PostgreSQL under its own user, and Redis.

Each is the stanza of the example, with other paths, another port, and less patience.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from tests.server.harness import Guest, free_port, wait_for

EXAMPLES = Path(__file__).parents[1] / "examples"
MANAGER = "from cmappd.client.manager import main; main()"
PATIENCE = 40.0  # seconds, for a database that starts, recovers or ends on a busy machine

Stanza = dict[str, Any]


def example(name: str) -> Stanza:
    """The one application of an example."""
    (stanza,) = tomllib.loads((EXAMPLES / "apps.d" / f"{name}.toml").read_text())["apps"].values()
    return dict(stanza)


class Manager:
    """A cmappmgr, and what it says."""

    def __init__(self, guest: Guest, app: str) -> None:
        identity = guest.manager_identity("vmhost1")
        config = guest.folder / "cmappmgr.toml"
        table = {
            "guests": {"guest1": {"address": f"127.0.0.1:{guest.port}"}},
            "tls": {
                "certificate": identity.certificate,
                "key": identity.key,
                "ca": guest.authority.ca,
            },
        }
        config.write_text(tomli_w.dumps(table))
        self._path = guest.folder / "manager.log"
        with open(self._path, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", MANAGER, "--app", app, "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
            )

    def log(self) -> str:
        return self._path.read_text()

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def wait_until_healthy(self) -> None:
        wait_for(
            lambda: "health: healthy" in self.log() or self.process.poll() is not None, PATIENCE
        )
        assert self.process.poll() is None, self.log()

    def halt(self) -> int:
        """What the cluster does: SIGTERM. The exit code."""
        self.process.terminate()
        return self.wait()


@contextmanager
def managed(guest: Guest, app: str) -> Iterator[Manager]:
    """The application with its manager, from when it is healthy on."""
    manager = Manager(guest, app)
    try:
        manager.wait_until_healthy()
        yield manager
    finally:
        manager.process.kill()
        manager.process.wait()


def at_work_in(folder: Path) -> list[psutil.Process]:
    """The processes that work in a folder, or speak of it in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [process.cwd(), *process.cmdline()]
        except psutil.Error:
            continue  # it has ended meanwhile, or belongs to somebody else
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process)
    return found


# PostgreSQL --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(postgres_programs: Path) -> Iterator[Path]:
    """A database cluster of the user postgres, where that user may go."""
    account = pwd.getpwnam("postgres")
    with tempfile.TemporaryDirectory(prefix="cmappd-postgres-") as name:
        folder = Path(name)
        os.chown(folder, account.pw_uid, account.pw_gid)
        subprocess.run(
            [postgres_programs / "initdb", "--no-sync", "--auth=trust", "-D", folder / "data"],
            user="postgres",
            group=account.pw_gid,
            extra_groups=[],
            cwd=folder,
            capture_output=True,
            check=True,
        )
        yield folder


@pytest.fixture
def postgres(tmp_path: Path, data: Path, postgres_programs: Path) -> Iterator[Guest]:
    """A guest whose application "postgres" is the example."""
    stanza, port = example("postgresql"), str(free_port())
    stanza["command"] = [
        *(str(postgres_programs / "postgres"), "-D", str(data / "data"), "-p", port),
        *("-c", "listen_addresses=", "-c", f"unix_socket_directories={data}"),
    ]
    program, quiet, _host, _port = stanza["health"]["command"]
    stanza["health"]["command"] = [program, quiet, f"--host={data}", f"--port={port}"]
    stanza["health"] |= {"interval": "300ms", "timeout": "2s"}
    stanza["log"] = {"path": str(tmp_path / "postgres.log")}
    with Guest(tmp_path, tomli_w.dumps({"apps": {"postgres": stanza}})).started() as guest:
        yield guest
    assert at_work_in(data) == []


def query(data: Path) -> str:
    (socket,) = (path for path in data.glob(".s.PGSQL.*") if path.suffix != ".lock")
    result = subprocess.run(
        ["psql", "-h", data, "-p", socket.suffix[1:], "-U", "postgres", "-Atc", "select 6 * 7"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return result.stdout.strip()


def postmaster(guest: Guest, data: Path) -> psutil.Process:
    process = psutil.Process(guest.control().app("postgres").pid)
    assert process.username() == "postgres"
    assert len(at_work_in(data)) >= 5  # it and its workers: what must be gone later
    assert str(process.pid) == (data / "data" / "postmaster.pid").read_text().splitlines()[0]
    return process


@pytest.mark.root
@pytest.mark.postgres
def test_postgres_is_shut_down_cleanly(postgres: Guest, data: Path, tmp_path: Path) -> None:
    with managed(postgres, "postgres") as manager:
        assert query(data) == "42"
        postmaster(postgres, data)
        assert manager.halt() == 0
        assert at_work_in(data) == []
    log = (tmp_path / "postgres.log").read_text()
    assert "received fast shutdown request" in log
    assert log.rstrip().endswith("database system is shut down")


@pytest.mark.root
@pytest.mark.postgres
def test_postgres_killed_is_told_with_the_evidence(postgres: Guest, data: Path) -> None:
    with managed(postgres, "postgres") as manager:
        postmaster(postgres, data).kill()
        assert manager.wait() == 128 + signal.SIGKILL
        assert at_work_in(data) == []
        assert "database system is ready to accept connections" in manager.log()
        assert "exit 137, app" in manager.log()
    with managed(postgres, "postgres") as manager:
        assert query(data) == "42"
        assert manager.halt() == 0


@pytest.mark.root
@pytest.mark.postgres
def test_postgres_that_hangs_is_unhealthy(postgres: Guest, data: Path) -> None:
    with managed(postgres, "postgres") as manager:
        begun = time.monotonic()
        postmaster(postgres, data).suspend()
        assert manager.wait() == 209
        assert at_work_in(data) == []
        # Three failures of two seconds each, as the stanza says.
        assert time.monotonic() - begun >= 6
        assert "unhealthy" in manager.log()


# Redis -------------------------------------------------------------------------------


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[Guest, str]]:
    """A guest whose application "redis" is the example, and the port of it."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    stanza, port = example("redis"), str(free_port())
    own = tmp_path / "redis.conf"
    own.write_text(f"port {port}\nbind 127.0.0.1\nlogfile /nowhere/redis.log\ndaemonize yes\n")
    stanza["command"] = [str(own) if "/etc" in word else word for word in stanza["command"]]
    check = stanza["health"]["command"]
    check[check.index("-p") + 1] = port
    del stanza["user"]  # the test is for ordinary users too
    stanza["directory"] = str(tmp_path)
    stanza["health"]["interval"] = "300ms"
    stanza["log"] = {"path": str(tmp_path / "redis.log")}
    with Guest(tmp_path, tomli_w.dumps({"apps": {"redis": stanza}})).started() as guest:
        yield guest, port
    assert at_work_in(tmp_path) == []


def ask_redis(port: str, *words: str) -> str:
    result = subprocess.run(
        ["redis-cli", "-e", "-p", port, *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return result.stdout.strip()


def test_redis_keeps_its_data_over_a_stop(redis: tuple[Guest, str], tmp_path: Path) -> None:
    guest, port = redis
    with managed(guest, "redis") as manager:
        assert ask_redis(port, "set", "answer", "42") == "OK"
        ask_redis(port, "config", "set", "save", "60 1")
        assert manager.halt() == 0
    assert "Redis is now ready to exit" in (tmp_path / "redis.log").read_text()
    with managed(guest, "redis") as manager:
        assert ask_redis(port, "get", "answer") == "42"
        assert manager.halt() == 0


def test_redis_killed_is_told(redis: tuple[Guest, str]) -> None:
    guest, _port = redis
    with managed(guest, "redis") as manager:
        psutil.Process(guest.control().app("redis").pid).kill()
        assert manager.wait() == 128 + signal.SIGKILL
        assert "last health output: PONG" in manager.log()
