"""The three programs as people run them: a guest and its host, in one folder.

Every program is the real one, in a process of its own; the link between them is real TLS. ::

    def test_it(scene: Scene) -> None:
        scene.guest.define("db", "/bin/sleep", "600")
        scene.guest.start()
        manager = scene.manager("db")
        manager.wait_said("running")
        os.kill(scene.guest.pid_of("db"), signal.SIGKILL)
        assert manager.wait() == 137

Every wait has a deadline. ``Scene.close`` ends all of it, and sees that nothing is left.
"""

from collections.abc import Sequence
from pathlib import Path

import tomli_w

from tests.certificates import Authority, Identity
from tests.end_to_end.guest import Guest
from tests.end_to_end.programs import Manager

# A server that comes back may take long when the machine is busy.
INTERVALS = {"poll_interval": "500ms", "connect_timeout": "10s", "lost_after": "25s"}


class Scene:
    """A guest, and the host of its managers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "pki")
        self.guest = Guest(folder, self.authority)
        self.identity = self.authority.manager("vmhost1")
        self.managers: list[Manager] = []
        self._hosts = 0

    def host(
        self,
        identity: Identity | None = None,
        *,
        ca: str | None = None,
        port: int | None = None,
        server_name: str = "guest1",
        **intervals: str,
    ) -> str:
        """Write a cmappmgr.toml, and give its path."""
        self._hosts += 1
        certificate, key = identity or self.identity
        address = f"127.0.0.1:{port or self.guest.port}"
        table = {
            "guests": {"guest1": {"address": address, "server_name": server_name}},
            "tls": {"certificate": certificate, "key": key, "ca": ca or self.authority.ca},
            "manager": {**INTERVALS, **intervals},
        }
        path = self.folder / f"cmappmgr{self._hosts}.toml"
        path.write_text(tomli_w.dumps(table))
        return str(path)

    def manager(
        self, app: str, *words: str, config: str | None = None, prefix: Sequence[str] = ()
    ) -> Manager:
        """Start a manager of an application."""
        return self.command("--app", app, *words, config=config, prefix=prefix)

    def command(
        self, *words: str, config: str | None = None, prefix: Sequence[str] = ()
    ) -> Manager:
        """Start a cmappmgr with these words."""
        name = f"manager{len(self.managers) + 1}"
        report, log = self.folder / f"{name}.json", self.folder / f"{name}.log"
        words = ("--config", config or self.host(), *words)
        manager = Manager(report, *words, folder=self.folder, log=log, prefix=prefix)
        self.managers.append(manager)
        return manager

    def close(self) -> None:
        """End all of it; nothing may be left, and nobody may have shown a traceback."""
        for manager in self.managers:
            manager.kill()
        self.guest.close()
        for manager in self.managers:
            assert "Traceback" not in manager.said()

    def print_logs(self) -> None:
        """For people who read of a failure."""
        for path in sorted(self.folder.glob("*.log")):
            print(f"---- {path.name}\n{path.read_text(errors='replace')}")
