"""The examples run: their stanzas as they are, with other paths, other ports and less patience.

What else these applications do is in test_postgres and test_redis.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import Table, processes_in
from tests.ports import free_port

APPS = Path(__file__).parents[2] / "examples" / "apps.d"


def example(name: str) -> Table:
    """The one application of an example."""
    (stanza,) = tomllib.loads((APPS / f"{name}.toml").read_text())["apps"].values()
    return dict(stanza)


def run(scene: Scene, name: str, stanza: Table, **health: object) -> str:
    """Have it run until it is healthy, stop it in order, and give what it has said."""
    stanza["health"] |= {"interval": "300ms", **health}
    scene.guest.apps[name] = {**stanza, "log": {"path": str(scene.guest.app_log(name))}}
    scene.guest.start()
    manager = scene.manager(name)
    manager.wait_said("health: healthy")
    pid = scene.guest.pid_of(name)
    assert manager.stop() == 0
    assert not Path(f"/proc/{pid}").exists()
    return scene.guest.app_said(name)


@pytest.fixture
def data(postgres_programs: Path) -> Iterator[Path]:
    """A database cluster, in a folder where the user postgres may go."""
    account = pwd.getpwnam("postgres")
    with tempfile.TemporaryDirectory(prefix="cmappd-pg-") as name:
        os.chown(name, account.pw_uid, account.pw_gid)
        data = Path(name) / "data"
        subprocess.run(
            [postgres_programs / "initdb", "--no-sync", "--auth=trust", "-D", data],
            user="postgres",
            group=account.pw_gid,
            extra_groups=[],
            cwd=name,
            capture_output=True,
            check=True,
        )
        yield data


@pytest.mark.root
@pytest.mark.postgres
def test_postgresql(data: Path, scene: Scene, postgres_programs: Path) -> None:
    stanza, port = example("postgresql"), str(free_port())
    scene.guest.state = data.parent / "state"  # where the user postgres may reach a socket
    stanza["command"] = [
        *(str(postgres_programs / "postgres"), "-D", str(data), "-p", port, "-k", str(data)),
        *("-c", "listen_addresses="),
    ]
    program, quiet, *_where = stanza["health"]["command"]
    command = [program, quiet, f"--host={data}", f"--port={port}"]
    said = run(scene, "postgresql", stanza, command=command)
    assert "postgresql: it says that it is ready" in scene.guest.server_said()
    assert "postgresql: it says that it is stopping" in scene.guest.server_said()
    assert "received fast shutdown request" in said
    assert said.rstrip().endswith("database system is shut down")
    assert not processes_in(data)


def test_redis(scene: Scene) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    stanza, port = example("redis"), str(free_port())
    file = scene.folder / "redis.conf"
    file.write_text(f"port {port}\nbind 127.0.0.1\ndaemonize yes\nlogfile /nowhere/redis.log\n")
    stanza["command"] = [
        str(file) if word.endswith(".conf") else word for word in stanza["command"]
    ]
    stanza["directory"] = str(scene.folder)
    del stanza["user"]  # it takes root
    program = stanza["health"]["command"]
    program[program.index("-p") + 1] = port
    assert "Redis is now ready to exit" in run(scene, "redis", stanza)
    assert "redis: it says that it is ready" in scene.guest.server_said()


def test_webapp(scene: Scene) -> None:
    stanza, port = example("webapp"), str(free_port())
    folder = str(scene.folder)
    for command in (stanza["command"], stanza["health"]["command"]):
        command[:] = [word.replace("8000", port).replace("/srv/www", folder) for word in command]
        command[0] = sys.executable
    del stanza["user"]  # it takes root
    assert '"GET / HTTP/1.1" 200' in run(scene, "webapp", stanza)


def test_shop(scene: Scene) -> None:
    """Two applications: who starts the one starts both, and who stops the other stops both."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    text = (APPS / "shop.toml").read_text().replace("/srv/shop", str(scene.folder))
    text = text.replace("8001", str(free_port())).replace("6380", str(free_port()))
    for name, stanza in tomllib.loads(text)["apps"].items():
        del stanza["user"]  # it takes root
        scene.guest.apps[name] = {**stanza, "log": {"path": str(scene.guest.app_log(name))}}
    scene.guest.apps["shop"]["command"][0] = sys.executable
    scene.guest.start()
    assert "shop is running" in scene.guest.ctl("start", "shop").stdout
    scene.guest.wait_status("sessions", phase="running", health="healthy")
    assert "sessions is stopped" in scene.guest.ctl("stop", "sessions").stdout
    assert scene.guest.status("shop")["phase"] == "stopped"


def test_worker(scene: Scene) -> None:
    """It is well as long as it pings, and is ended soon after it has ceased to."""
    stanza = example("worker")
    program = "\n".join(
        line.removeprefix("#     ")
        for line in (APPS / "worker.toml").read_text().splitlines()
        if line.startswith("#     ")
    )
    file = scene.folder / "worker"
    file.write_text(program.replace("time.sleep(5)", "time.sleep(0.05)"))
    stanza["command"] = [sys.executable, str(file)]
    stanza["health"]["watchdog"] = "1s"
    del stanza["user"]  # it takes root
    scene.guest.apps["worker"] = {**stanza, "log": {"path": str(scene.guest.app_log("worker"))}}
    scene.guest.start()
    assert "worker is running" in scene.guest.ctl("start", "worker").stdout
    status = scene.guest.wait_status("worker", health="healthy")
    assert (status["announced"], status["status_text"][-5:]) == ("ready", " done")
    os.kill(status["pid"], signal.SIGSTOP)  # it hangs
    scene.guest.wait_status("worker", restarts=1)
    assert "unhealthy: no ping of its watchdog within 1 s" in scene.guest.server_said()
    assert scene.guest.wait_status("worker", health="healthy")["pid"] != status["pid"]
