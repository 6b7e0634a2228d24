"""Redis as the application: the real one, as whoever runs the tests, with redis-cli as its health.

Its own log tells of an orderly end, and its data shows it.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from cmappd import reasons
from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import PATIENCE, Manager, processes_in
from tests.ports import free_port

SERVER, CLIENT = shutil.which("redis-server"), shutil.which("redis-cli")
pytestmark = pytest.mark.skipif(not (SERVER and CLIENT), reason="needs redis-server and redis-cli")


class Redis:
    """A Redis of its own, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "redis"
        self.data.mkdir()
        self._port = str(free_port())

    def ask(self, *words: str) -> str:
        done = subprocess.run(
            [str(CLIENT), "-e", "-p", self._port, *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        return done.stdout.strip()

    def started(self, scene: Scene, **keys: object) -> Manager:
        """Make it an application of the guest; it runs, and is healthy."""
        scene.guest.define(
            "redis",
            *(str(SERVER), "--port", self._port, "--bind", "127.0.0.1", "--save", "3600 1"),
            *("--dir", str(self.data)),
            start={"ready": "health", "timeout": "30s"},
            stop={"timeout": "30s"},
            health={
                "command": [str(CLIENT), "-e", "-p", self._port, "ping"],
                "interval": "300ms",
                "timeout": "1s",
                "failures": 2,
            },
            **keys,
        )
        scene.guest.start()
        manager = scene.manager("redis")
        manager.wait_said("health: healthy")
        return manager


@pytest.fixture
def redis(tmp_path: Path) -> Redis:
    return Redis(tmp_path)


def test_a_sigterm_of_the_manager_lets_it_save_its_data(redis: Redis, scene: Scene) -> None:
    manager = redis.started(scene)
    assert redis.ask("set", "answer", "42") == "OK"
    assert manager.stop() == 0
    assert not processes_in(redis.data)
    said = scene.guest.app_said("redis")
    assert "DB saved on disk" in said
    assert "Redis is now ready to exit, bye bye..." in said
    again = scene.manager("redis")
    again.wait_said("health: healthy")
    assert redis.ask("get", "answer") == "42"
    assert again.stop() == 0


def test_kill_9(redis: Redis, scene: Scene) -> None:
    manager = redis.started(scene)
    os.kill(scene.guest.pid_of("redis"), signal.SIGKILL)
    assert manager.wait() == 128 + signal.SIGKILL
    assert "last health output: PONG" in manager.said()
    assert "last log: " in manager.said()
    assert "Ready to accept connections" in manager.said()


def test_one_that_hangs_is_unhealthy(redis: Redis, scene: Scene) -> None:
    manager = redis.started(scene)
    os.kill(scene.guest.pid_of("redis"), signal.SIGSTOP)
    assert manager.wait() == reasons.UNHEALTHY.code
    assert "gave no answer within 1s" in manager.report()["text"]
    assert not processes_in(redis.data)


def test_the_guest_restarts_it_before_the_cluster_hears_of_it(redis: Redis, scene: Scene) -> None:
    manager = redis.started(scene, restart={"policy": "on-failure", "limit": 2, "delay": "100ms"})
    for times in (2, 3):
        os.kill(scene.guest.pid_of("redis"), signal.SIGKILL)
        manager.wait_said("health: healthy", times=times)
        (process,) = processes_in(redis.data)
        assert process.pid == scene.guest.pid_of("redis")
    os.kill(scene.guest.pid_of("redis"), signal.SIGKILL)
    assert manager.wait() == 128 + signal.SIGKILL


def test_it_is_never_doubled_though_it_writes_its_title_over_its_run_mark(
    redis: Redis, scene: Scene
) -> None:
    """The server is killed; the next one must know the process that it did not launch."""
    guest = scene.guest
    first = redis.started(scene)
    pid = guest.pid_of("redis")
    assert set(guest.pids()) <= {pid}  # known by its cgroup at most
    assert guest.server is not None
    guest.server.kill()
    first.kill()
    guest.apps["redis"]["command"][2] = str(free_port())  # nothing but us prevents a second one
    guest.start()
    second = scene.manager("redis")
    second.wait_said(f"running, pid {pid}")
    assert [process.pid for process in processes_in(redis.data)] == [pid]
    assert second.stop() == 0
    assert not processes_in(redis.data)
