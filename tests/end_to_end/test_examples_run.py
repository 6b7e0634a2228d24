"""The examples run: their stanzas as they are, with other paths, other ports and less patience.

What else these applications do is in test_postgres and test_redis.
"""

import grp
import os
import pwd
import re
import shutil
import signal
import socket
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import Manager, Table, processes_in, wait_for
from tests.ports import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
APPS = EXAMPLES / "apps.d"


def example(file: str, name: str = "", places: Mapping[str, str] = {}) -> Table:
    """An application of an example, by default its only one, with other paths or ports."""
    text = (APPS / f"{file}.toml").read_text()
    for old, new in places.items():
        assert old in text
        text = text.replace(old, new)
    apps = tomllib.loads(text)["apps"]
    (only,) = [name] if name else apps
    return dict(apps[only])


def begin(scene: Scene, name: str, stanza: Table, **health: object) -> Manager:
    """Have it run until it is healthy."""
    define(scene, name, stanza, **health)
    scene.guest.start()
    manager = scene.manager(name)
    manager.wait_said("health: healthy")
    return manager


def define(scene: Scene, name: str, stanza: Table, **health: object) -> None:
    """Set its stanza; its log and its health are here, and looked after more often."""
    stanza["log"] = {**stanza.get("log", {}), "path": str(scene.guest.app_log(name))}
    if "health" in stanza:
        stanza["health"] |= {"interval": "300ms", **health}
    scene.guest.apps[name] = stanza


def end(scene: Scene, name: str, manager: Manager) -> None:
    """Stop it in order; nothing of it is left, also of what writes its title over its mark."""
    main = psutil.Process(scene.guest.pid_of(name))
    tree = [main, *main.children(recursive=True)]
    assert manager.stop() == 0
    assert not [process for process in tree if process.is_running()]
    assert not scene.guest.pids(name)


def run(scene: Scene, name: str, stanza: Table, **health: object) -> str:
    """Have it run until it is healthy, stop it in order, and give what it has said."""
    manager = begin(scene, name, stanza, **health)
    end(scene, name, manager)
    return scene.guest.app_said(name)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder where any user may go."""
    with tempfile.TemporaryDirectory(prefix="cmappd-example-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.root
@pytest.mark.postgres
def test_postgresql(database_cluster: Path, scene: Scene, postgres_programs: Path) -> None:
    stanza, port = example("postgresql"), str(free_port())
    scene.guest.state = (
        database_cluster.parent / "state"
    )  # where the user postgres may reach a socket
    stanza["command"] = [
        *(
            str(postgres_programs / "postgres"),
            "-D",
            str(database_cluster),
            "-p",
            port,
            "-k",
            str(database_cluster),
        ),
        *("-c", "listen_addresses="),
    ]
    program, quiet, *_where = stanza["health"]["command"]
    command = [program, quiet, f"--host={database_cluster}", f"--port={port}"]
    said = run(scene, "postgresql", stanza, command=command)
    assert "postgresql: it says that it is ready" in scene.guest.server_said()
    assert "postgresql: it says that it is stopping" in scene.guest.server_said()
    assert "received fast shutdown request" in said
    assert said.rstrip().endswith("database system is shut down")
    assert not processes_in(database_cluster)


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


def test_minimal(scene: Scene) -> None:
    define(scene, "minimal", example("minimal"))
    scene.guest.start()
    manager = scene.manager("minimal")
    manager.wait_said("running, pid")
    end(scene, "minimal", manager)


# nginx -----------------------------------------------------------------------------------

NGINX = """\
pid {folder}/nginx.pid;
error_log stderr notice;
events {{ }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{servers}
}}
"""


def nginx(folder: Path, stanza: Table, servers: str) -> Path:
    """Have the commands of a stanza take another configuration; its file."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, servers=servers))
    for table in (stanza, stanza["start"]):
        if "command" in table:
            table["command"] += ["-c", str(file), "-e", "stderr"]
    return file


def test_nginx(scene: Scene) -> None:
    """The check goes on to where it is led, by https, with a certificate of nobody's."""
    port, secure = str(free_port()), str(free_port())
    stanza = example("nginx", places={"127.0.0.1/": f"127.0.0.1:{port}/"})
    certificate, key = scene.guest.identity
    nginx(
        scene.folder,
        stanza,
        f"server {{ listen 127.0.0.1:{port}; return 301 https://127.0.0.1:{secure}/there; }}\n"
        f"server {{ listen 127.0.0.1:{secure} ssl; return 200;"
        f" ssl_certificate {certificate}; ssl_certificate_key {key}; }}",
    )
    assert "(SIGQUIT) received" in run(scene, "nginx", stanza)
    assert '"GET /there HTTP/1.1" 200' in (scene.folder / "access.log").read_text()


def test_nginx_as_a_daemon(scene: Scene) -> None:
    port, pid_file = str(free_port()), scene.folder / "nginx.pid"
    places = {"127.0.0.1/": f"127.0.0.1:{port}/", "/run/nginx.pid": str(pid_file)}
    stanza = example("nginx-daemon", places=places)
    file = nginx(scene.folder, stanza, f"server {{ listen 127.0.0.1:{port}; return 200; }}")
    stanza["restart"]["limit"] = 0
    manager = begin(scene, "nginx-daemon", stanza)
    pid = scene.guest.pid_of("nginx-daemon")
    assert pid == int(pid_file.read_text())
    assert re.search(r"Max open files +8192 +8192 ", Path(f"/proc/{pid}/limits").read_text())
    end(scene, "nginx-daemon", manager)
    manager = scene.manager("nginx-daemon")
    manager.wait_said("health: healthy")
    os.kill(scene.guest.pid_of("nginx-daemon"), signal.SIGKILL)
    assert manager.wait() == 137
    assert not scene.guest.pids("nginx-daemon")
    assert not pid_file.exists(), "what it could not take away itself"
    file.write_text("mistake;")
    assert scene.manager("nginx-daemon").wait() == 207
    assert f'unknown directive "mistake" in {file}:1' in scene.guest.app_said("nginx-daemon")


# memcached -------------------------------------------------------------------------------


def test_memcached(scene: Scene) -> None:
    """When it takes no connections, that is reported, and it is left alone."""
    if shutil.which("memcached") is None:
        pytest.skip("memcached is not installed")
    port = free_port()
    stanza = example("memcached", places={"11211": str(port)})
    stanza["command"] += ["-b", "1"]  # connections that wait to be taken
    if os.geteuid() != 0:
        del stanza["user"]
    manager = begin(scene, "memcached", stanza, timeout="300ms")
    pid = scene.guest.pid_of("memcached")
    os.kill(pid, signal.SIGSTOP)
    waiting = [socket.socket() for _ in range(4)]
    for each in waiting:
        each.setblocking(False)
        each.connect_ex(("127.0.0.1", port))
    scene.guest.wait_status("memcached", health="unhealthy")
    manager.wait_said("health: unhealthy")
    os.kill(pid, signal.SIGCONT)
    for each in waiting:
        each.close()
    status = scene.guest.wait_status("memcached", health="healthy")
    assert (status["pid"], status["restarts"]) == (pid, 0)
    end(scene, "memcached", manager)


# Scripts ---------------------------------------------------------------------------------


def script(path: Path, text: str) -> str:
    """An executable one; its path."""
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.mark.root
def test_a_script(scene: Scene, open_folder: Path) -> None:
    """It runs from the start on, as who it is to be, and comes back."""
    stanza = example("script", "import")
    once = script(open_folder / "once", "#!/bin/sh\necho imported\n")
    shown = re.findall(r"^#     (#!.*)\n#     (.*)$", (APPS / "script.toml").read_text(), re.M)
    text = "\n".join(*shown).replace("/usr/local/lib/import/once", once)
    stanza["command"][0] = script(open_folder / "import-loop", f"{text}\n")
    stanza |= {"user": "nobody", "group": "games", "supplementary_groups": ["man", "mail"]}
    stanza["restart"]["delay"] = "100ms"
    define(scene, "import", stanza)
    scene.guest.start()
    pid = scene.guest.pid_of("import")
    wait_for(lambda: "imported" in scene.guest.app_said("import"), "its line")
    status = Path(f"/proc/{pid}/status").read_text()
    uid, gid = pwd.getpwnam("nobody").pw_uid, grp.getgrnam("games").gr_gid
    more = sorted(grp.getgrnam(each).gr_gid for each in stanza["supplementary_groups"])
    assert f"Uid:\t{uid}\t{uid}" in status
    assert f"Gid:\t{gid}\t{gid}" in status
    assert f"Groups:\t{' '.join(map(str, more))} \n" in status
    assert "Umask:\t0027\n" in status
    assert psutil.Process(pid).nice() == 10
    assert re.search(r"^\d{4}-\d\d-\d\dT\S+ imported$", scene.guest.app_said("import"), re.M)
    os.kill(pid, signal.SIGKILL)
    assert scene.guest.wait_status("import", phase="running", restarts=1)["pid"] != pid
    assert len(scene.guest.pids("import")) > 1, "the script and its child"
    assert "import is stopped" in scene.guest.ctl("stop", "import").stdout
    assert not scene.guest.pids("import")


def test_a_script_that_ends(scene: Scene) -> None:
    """What it has done is taken back by a stop, and is looked after until then."""
    flag = scene.folder / "flag"
    text = """#!/bin/sh
case $1 in
    on) echo "$TITLE" >flag ;;
    off) rm flag ;;
    check) test -e flag ;;
esac
"""
    own, file = script(scene.folder / "archive", text), scene.folder / "environment"
    places = {"/usr/local/sbin/archive": own, "/etc/default/archive": str(file)}
    stanza = example("script", "archive", places)
    stanza["directory"] = str(scene.folder)
    file.write_text("TITLE='Orders of old'\n")
    manager = begin(scene, "archive", stanza)
    assert flag.read_text() == "Orders of old\n"
    assert manager.stop() == 0
    assert not flag.exists()
    manager = scene.manager("archive")
    manager.wait_said("health: healthy")
    flag.unlink()
    assert manager.wait() == 209


# Another program for the one that nobody has ------------------------------------------------

ORDERS = """\
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/actuator/health" else 404)
        self.end_headers()
        self.wfile.write(Path("page").read_bytes())

HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""


def test_java(scene: Scene) -> None:
    """It is ready when it says so in the page, and is ended when its manager is not heard."""
    port = str(free_port())
    stanza = example("java", places={"8080": port})
    stanza["command"] = [sys.executable, "-c", ORDERS, port]
    stanza["directory"] = str(scene.folder)
    stanza["manager"]["lease"] = "5s"  # the least
    for key in ("user", "resources", "log"):  # these take root, cgroups, and journald
        del stanza[key]
    page = scene.folder / "page"
    page.write_text('{"status":"DOWN"}')
    define(scene, "orders", stanza)
    scene.guest.start()
    manager = scene.manager("orders")
    asked = '"GET /actuator/health HTTP/1.1" 200'
    wait_for(lambda: scene.guest.app_said("orders").count(asked) >= 2, "two checks")
    assert scene.guest.status("orders")["phase"] == "starting"
    page.write_text('{"status":"UP"}')
    manager.wait_said("health: healthy")
    manager.kill()
    scene.guest.wait_status("orders", phase="stopped")
    assert not scene.guest.pids("orders")


# The guest's own file -----------------------------------------------------------------------


@pytest.mark.parametrize("on_shutdown", ["stop", "keep"])
def test_what_runs_when_cmappserver_ends(scene: Scene, on_shutdown: str) -> None:
    guest = scene.guest
    text = (EXAMPLES / "cmappserver.toml").read_text()
    assert 'on_shutdown = "stop"' in text
    table = tomllib.loads(text.replace('on_shutdown = "stop"', f'on_shutdown = "{on_shutdown}"'))
    guest.keys, guest.managers = table["server"], table["managers"]
    (scene.folder / "apps.d").mkdir()
    log = f'[apps.minimal.log]\npath = "{guest.app_log("minimal")}"\n'
    (scene.folder / "apps.d/minimal.toml").write_text(f"{(APPS / 'minimal.toml').read_text()}{log}")
    first = guest.start()
    assert "minimal is running" in guest.ctl("start", "minimal").stdout
    pid = guest.pid_of("minimal")
    assert first.stop() == 0
    assert guest.pids("minimal") == ([pid] if on_shutdown == "keep" else [])
    guest.start()
    assert guest.status("minimal")["pid"] == (pid if on_shutdown == "keep" else None)
    guest.ctl("stop", "minimal")
