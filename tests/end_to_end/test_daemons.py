"""Real daemons in daemon mode: they fork twice, leave their session, and write a pid file.

nginx, sshd, and PostgreSQL by ``pg_ctl start``; each killed by every route.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cmappd import reasons
from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import Manager, Table, wait_for
from tests.ports import free_port

NGINX = """
daemon on;
pid {folder}/nginx.pid;
error_log stderr;
worker_processes 2;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 "it is up"; }} }}
}}
"""


SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/key
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
"""


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def nginx(folder: Path, port: int) -> Table:
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port))
    check = {"http": f"http://127.0.0.1:{port}/", "http_body": "it is up"}
    return {
        "command": [program("nginx"), "-p", str(folder), "-c", str(config), "-e", "stderr"],
        "pid_file": str(folder / "nginx.pid"),
        "stop": {"signal": "SIGQUIT", "timeout": "2s"},
        "health": {**check, "interval": "300ms", "failures": 2},
    }


def sshd(folder: Path, port: int) -> Table:
    """It closes its output, and writes its title over its environment: only its cgroup is left."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", key], check=True)
    (folder / "sshd_config").write_text(SSHD.format(folder=folder, port=port))
    return {
        "command": [program("sshd"), "-f", str(folder / "sshd_config")],
        "pid_file": str(folder / "sshd.pid"),
        "stop": {"timeout": "2s"},
        "health": {"tcp": f"127.0.0.1:{port}", "interval": "300ms", "failures": 2},
    }


def logs_to_a_file(make: Callable[[Path, int], Table]) -> Callable[[Path, int], Table]:
    """As it usually does: nginx then parts with its output, too."""

    def made(folder: Path, port: int) -> Table:
        table = make(folder, port)
        config = folder / "nginx.conf"
        config.write_text(config.read_text().replace("stderr", str(folder / "error.log")))
        table["command"][-1] = str(folder / "error.log")
        return table

    return made


def no_pid_file(make: Callable[[Path, int], Table]) -> Callable[[Path, int], Table]:
    def made(folder: Path, port: int) -> Table:
        table = make(folder, port)
        del table["pid_file"]
        return table

    return made


each = pytest.mark.parametrize(
    "make",
    [
        pytest.param(nginx, id="nginx"),
        pytest.param(no_pid_file(nginx), id="nginx without pid file"),
        pytest.param(logs_to_a_file(nginx), id="nginx that logs to a file"),
        pytest.param(no_pid_file(logs_to_a_file(nginx)), id="nginx with neither"),
        pytest.param(sshd, id="sshd", marks=pytest.mark.root),
    ],
)


@pytest.fixture(autouse=True)
def _privileges_separated(request: pytest.FixtureRequest) -> Iterator[None]:
    """As root sshd refuses to start without this folder, which the system makes at boot.

    One test at a time: another process of the tests would take it away from this one.
    """
    if "sshd" not in request.node.name:
        yield
        return
    folder, above = Path("/run/sshd"), os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(above, fcntl.LOCK_EX)
        missing = not folder.exists()
        if missing:
            folder.mkdir(mode=0o755)
        yield
        if missing:
            folder.rmdir()
    finally:
        os.close(above)


def run(scene: Scene, table: Table) -> tuple[Manager, list[psutil.Process]]:
    """The manager of a daemon that is healthy, and the daemon's processes, the main one first."""
    scene.guest.apps["daemon"] = {
        "type": "forking",
        "start": {"ready": "health", "timeout": "30s"},
        **table,
        "log": {"path": str(scene.guest.app_log("daemon"))},
    }
    scene.guest.start()
    manager = scene.manager("daemon")
    manager.wait_said("health: healthy")
    main = psutil.Process(scene.guest.pid_of("daemon"))
    return manager, [main, *main.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() for one in processes)


@each
def test_it_is_stopped_in_order(
    scene: Scene, tmp_path: Path, make: Callable[[Path, int], Table]
) -> None:
    manager, processes = run(scene, make(tmp_path, free_port()))
    assert scene.guest.server is not None
    assert processes[0].ppid() == scene.guest.server.pid
    assert manager.stop() == 0
    assert gone(processes)


@each
def test_the_end_of_its_main_process_ends_it(
    scene: Scene, tmp_path: Path, make: Callable[[Path, int], Table]
) -> None:
    manager, processes = run(scene, make(tmp_path, free_port()))
    processes[0].kill()
    assert manager.wait() == 128 + signal.SIGKILL
    assert gone(processes)


@each
def test_all_of_it_killed_at_once(
    scene: Scene, tmp_path: Path, make: Callable[[Path, int], Table]
) -> None:
    manager, processes = run(scene, make(tmp_path, free_port()))
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # the others may be ended by then
            process.kill()
    assert manager.wait() == 128 + signal.SIGKILL
    assert gone(processes)


@each
def test_stopped_by_sigstop_it_still_can_be_ended(
    scene: Scene, tmp_path: Path, make: Callable[[Path, int], Table]
) -> None:
    table = make(tmp_path, free_port())
    del table["health"]
    table["start"] = {"ready": "200ms"}
    manager, processes = run_unchecked(scene, table)
    for process in processes:
        process.suspend()
    assert manager.stop() == 0
    assert gone(processes)


def run_unchecked(scene: Scene, table: Table) -> tuple[Manager, list[psutil.Process]]:
    scene.guest.apps["daemon"] = {
        "type": "forking", **table, "log": {"path": str(scene.guest.app_log("daemon"))},
    }  # fmt: skip
    scene.guest.start()
    manager = scene.manager("daemon")
    manager.wait_said("running, pid")
    main = psutil.Process(scene.guest.pid_of("daemon"))
    return manager, [main, *main.children(recursive=True)]


def test_a_child_killed_is_the_daemons_own_affair(scene: Scene, tmp_path: Path) -> None:
    manager, processes = run(scene, nginx(tmp_path, free_port()))
    main, worker = processes[0], processes[1]
    worker.kill()
    wait_for(lambda: len(main.children()) == 2 and worker not in main.children(), "a new worker")
    assert scene.guest.status("daemon")["pid"] == main.pid
    assert manager.stop() == 0


def test_one_that_hangs_is_unhealthy(scene: Scene, tmp_path: Path) -> None:
    table = nginx(tmp_path, free_port())
    table["health"]["timeout"] = "300ms"
    manager, processes = run(scene, table)
    for process in processes:
        process.suspend()
    assert manager.wait() == reasons.UNHEALTHY.code
    assert gone(processes)


def test_it_is_taken_up_after_a_crash_of_the_server(scene: Scene, tmp_path: Path) -> None:
    manager, processes = run(scene, nginx(tmp_path, free_port()))
    assert scene.guest.server is not None
    scene.guest.server.kill()
    scene.guest.start()
    manager.wait_said("cmappserver has been restarted")
    assert scene.guest.pid_of("daemon") == processes[0].pid
    assert manager.stop() == 0
    assert gone(processes)


# PostgreSQL --------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.postgres
@pytest.mark.parametrize("route", ["stop", "main", "all", "frozen"])
def test_postgresql_by_pg_ctl(
    scene: Scene, database_cluster: Path, postgres_programs: Path, route: str
) -> None:
    port, pg_ctl = (
        str(free_port()),
        [str(postgres_programs / "pg_ctl"), "-D", str(database_cluster)],
    )
    ask = [str(postgres_programs / "pg_isready"), "-q", "-h", str(database_cluster), "-p", port]
    options = f"-p {port} -k {database_cluster} -c listen_addresses="
    table: Table = {
        "command": [*pg_ctl, "start", "-W", "-s", "-o", options],
        "user": "postgres",
        "directory": str(database_cluster),
        "pid_file": str(database_cluster / "postmaster.pid"),
        "stop": {"command": [*pg_ctl, "stop", "-s", "-m", "fast"], "timeout": "5s"},
        "health": {"command": ask, "interval": "300ms", "timeout": "1s", "failures": 2},
    }
    manager, processes = run(scene, table)
    if route == "stop":
        assert manager.stop() == 0
        assert "database system is shut down" in scene.guest.app_said("daemon")
    elif route == "main":
        processes[0].kill()
        assert manager.wait() == 128 + signal.SIGKILL
    elif route == "all":
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        assert manager.wait() == 128 + signal.SIGKILL
    else:
        processes[0].suspend()
        assert manager.wait() == reasons.UNHEALTHY.code
    assert gone(processes)
