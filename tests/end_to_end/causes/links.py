"""The way between host and guest, and who is at its other end."""

import contextlib
import os
import platform
import signal
from collections.abc import Callable, Iterator

from cmappd import reasons
from cmappd.system.proc import read_stat
from tests.end_to_end.causes import Case, Cause
from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import Manager, wait_for
from tests.end_to_end.proxy import Proxy
from tests.end_to_end.stranger import (
    OURS,
    Talk,
    listening,
    speaks_http,
    speaks_ssh,
    speaks_tls,
)

LONG = "25s"  # of lost_after, where the link comes back
SHORT = "1s"  # where it does not

KERNEL = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))
# Of a process that is not the child of who asks, older kernels do not tell how it ended.
TELLS = KERNEL >= (6, 15)


# Nobody, or somebody else --------------------------------------------------------------


def nobody(scene: Scene) -> Manager:
    return scene.manager("db", config=scene.host(connect_timeout="1s"))


def stranger(make: Callable[[Scene], Talk | None]) -> Cause:
    """Somebody else listens where the server should."""

    def cause(scene: Scene) -> Manager:
        with listening(make(scene)) as port:
            manager = scene.manager("db", config=scene.host(port=port, connect_timeout="1s"))
            manager.wait()
        return manager

    return cause


# The link that was there ---------------------------------------------------------------


@contextlib.contextmanager
def followed(scene: Scene, lost_after: str) -> Iterator[tuple[Proxy, Manager]]:
    """An application that is followed through a proxy."""
    scene.guest.obedient("db")
    scene.guest.start()
    proxy = Proxy(scene.guest.port)
    try:
        config = scene.host(port=proxy.port, lost_after=lost_after)
        manager = scene.manager("db", config=config)
        manager.wait_said("running")
        yield proxy, manager
    finally:
        proxy.close()


def cut_for_less(cut: Callable[[Proxy], None], mend: Callable[[Proxy], None]) -> Cause:
    """The cluster does not notice: the same run is followed on."""

    def cause(scene: Scene) -> Manager:
        with followed(scene, LONG) as (proxy, manager):
            pid = scene.guest.pid_of("db")
            cut(proxy)
            manager.wait_said("the link was lost")
            mend(proxy)
            manager.wait_said("connected again")
            goes_on(scene, manager, pid)
        return manager

    return cause


def cut_for_more(cut: Callable[[Proxy], None]) -> Cause:
    """The manager gives up; it does not know, and the application runs on."""

    def cause(scene: Scene) -> Manager:
        with followed(scene, SHORT) as (proxy, manager):
            pid = scene.guest.pid_of("db")
            cut(proxy)
            manager.wait()
            assert scene.guest.pid_of("db") == pid
        return manager

    return cause


def paused_for_less(scene: Scene) -> Manager:
    with followed(scene, LONG) as (_, manager):
        pid = scene.guest.pid_of("db")
        assert scene.guest.server is not None
        scene.guest.server.signal(signal.SIGSTOP)
        manager.wait_said("the link was lost")
        scene.guest.server.signal(signal.SIGCONT)
        manager.wait_said("connected again")
        goes_on(scene, manager, pid)
    return manager


def paused_for_more(scene: Scene) -> Manager:
    with followed(scene, SHORT) as (_, manager):
        pid = scene.guest.pid_of("db")
        assert scene.guest.server is not None
        scene.guest.server.signal(signal.SIGSTOP)
        manager.wait()
        scene.guest.server.signal(signal.SIGCONT)
        assert scene.guest.pid_of("db") == pid
    return manager


def goes_on(scene: Scene, manager: Manager, pid: int) -> None:
    """The same process, the same owner, and its end is told."""
    status = scene.guest.status("db")
    assert (status["pid"], status["owner"], status["owner_silent_for"]) == (pid, "vmhost1", None)
    scene.guest.order("db", 7)
    manager.wait()
    assert manager.said().count("running, pid") == 1


def paused_manager(scene: Scene) -> Manager:
    """The manager stands still for longer than the lease; the guest ends the application."""
    scene.guest.define("db", "/bin/sleep", "600", manager={"on_lost": "stop", "lease": "5s"})
    scene.guest.start()
    manager = scene.manager("db")
    manager.wait_said("running")
    manager.signal(signal.SIGSTOP)
    scene.guest.wait_status("db", phase="stopped")
    assert not scene.guest.pids("db")
    manager.signal(signal.SIGCONT)
    return manager


def right_taken_away(scene: Scene) -> Manager:
    """The application runs on, and the cluster is told only when it may be started elsewhere."""
    with followed(scene, SHORT) as (_, manager):
        pid = scene.guest.pid_of("db")
        scene.guest.managers = {"vmhost1": {"apps": ["other"]}}
        scene.guest.write()
        manager.wait()
        assert "the application may run, so waiting for 1s" in manager.said()
        assert scene.guest.pid_of("db") == pid
    return manager


# The server or its guest begins anew ---------------------------------------------------


def server_killed(scene: Scene) -> Manager:
    """The new server takes the application up, and its manager follows on."""
    with followed(scene, LONG) as (_, manager):
        guest = scene.guest
        pid = guest.pid_of("db")
        _restart_server(scene, manager)
        manager.wait_said("cmappserver has been restarted")
        assert guest.pids("db") == [guest.pid_of("db")] == [pid]
        guest.order("db", 7)
        manager.wait()
    return manager


def ended_unseen(scene: Scene) -> Manager:
    """The application ends while no server is there."""
    with followed(scene, LONG) as (_, manager):
        pid = scene.guest.pid_of("db")
        _restart_server(scene, manager, lambda: _end_unseen(pid))
        manager.wait()
    assert not scene.guest.pids("db")
    return manager


def _end_unseen(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)  # orphans may be handed to this process
    wait_for(lambda: read_stat(pid) is None, f"process {pid} to be gone")


def _restart_server(
    scene: Scene, manager: Manager, meanwhile: Callable[[], object] = lambda: None
) -> None:
    assert scene.guest.server is not None
    scene.guest.server.kill()
    meanwhile()
    manager.wait_said("the link was lost")
    scene.guest.start()


def guest_rebooted(scene: Scene) -> Manager:
    """The server and all applications end at once, and the next server finds a new boot id.

    It reads the id from a file of ours, which is mounted over the kernel's for it alone.
    """
    with followed(scene, LONG) as (_, manager):
        guest = scene.guest
        pid = guest.pid_of("db")
        assert guest.server is not None
        guest.server.kill()
        os.kill(pid, signal.SIGKILL)
        for left in ("epochs", "control.sock", "db.fifo"):  # a reboot empties /run
            (guest.state / left).unlink()
        boot_id = scene.folder / "boot_id"
        boot_id.write_text("11111111-2222-3333-4444-555555555555\n")
        mount = f'mount --bind {boot_id} /proc/sys/kernel/random/boot_id && exec "$0" "$@"'
        guest.start(prefix=("unshare", "--mount", "sh", "-c", mount))
        manager.wait()
        assert not guest.pids("db")
    return manager


CASES = (
    Case("nobody listening", reasons.UNREACHABLE, 201, "Connection refused", nobody),
    Case(
        "a listener that never answers",
        reasons.UNREACHABLE,
        201,
        "the peer did not answer in time",
        stranger(lambda _: None),
    ),
    Case(
        "a server that never says welcome",
        reasons.UNREACHABLE,
        201,
        "no answer",
        stranger(lambda scene: speaks_tls(scene.guest.identity, OURS)),
    ),
    Case(
        "a secure shell",
        reasons.PROTOCOL,
        213,
        "the peer does not speak TLS",
        stranger(lambda _: speaks_ssh),
    ),
    Case(
        "a web server",
        reasons.PROTOCOL,
        213,
        "the peer does not speak TLS",
        stranger(lambda _: speaks_http),
    ),
    Case(
        "a secure web server",
        reasons.PROTOCOL,
        213,
        "the peer does not speak cmapp/1",
        stranger(lambda scene: speaks_tls(scene.guest.identity, "h2")),
    ),
    Case(
        "a server that speaks nonsense",
        reasons.PROTOCOL,
        213,
        "a frame cannot be read",
        stranger(lambda scene: speaks_tls(scene.guest.identity, OURS, words=b'{"type":"?"}\n')),
    ),
    Case(
        "link frozen for less",
        reasons.APP,
        7,
        "exit code 7",
        cut_for_less(Proxy.freeze, Proxy.thaw),
    ),
    Case(
        "link broken for less",
        reasons.APP,
        7,
        "exit code 7",
        cut_for_less(Proxy.reset, lambda _: None),
    ),
    Case(
        "port closed for less",
        reasons.APP,
        7,
        "exit code 7",
        cut_for_less(Proxy.close_port, Proxy.open_port),
    ),
    Case(
        "link frozen for more",
        reasons.LOST,
        202,
        "the application's state is unknown",
        cut_for_more(Proxy.freeze),
    ),
    Case(
        "port closed for more",
        reasons.LOST,
        202,
        "the application's state is unknown",
        cut_for_more(Proxy.close_port),
    ),
    Case("server paused for less", reasons.APP, 7, "exit code 7", paused_for_less),
    Case(
        "server paused for more",
        reasons.LOST,
        202,
        "the application's state is unknown",
        paused_for_more,
    ),
    Case(
        "manager paused for the lease",
        reasons.LOST,
        202,
        "stopped because no manager was heard for its lease",
        paused_manager,
    ),
    Case(
        "not allowed any more",
        reasons.DENIED,
        204,
        "vmhost1 may not drive 'db' any more",
        right_taken_away,
    ),
    Case(
        "server killed and begun anew",
        reasons.APP if TELLS else reasons.UNKNOWN_STATUS,
        7 if TELLS else 210,
        "exit code 7" if TELLS else "its status cannot be known",
        server_killed,
    ),
    Case(
        "ended while no server was there",
        reasons.UNKNOWN_STATUS,
        210,
        "its status cannot be known",
        ended_unseen,
    ),
    Case(
        "guest rebooted",
        reasons.GUEST_RESTARTED,
        211,
        "the guest rebooted under it",
        guest_rebooted,
        needs_root=True,
    ),
)
