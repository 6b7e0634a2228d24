"""What the processes of one application say of it by sd_notify(3): the socket, and who counts.

Every process of the tree may speak, as with NotifyAccess=all in systemd: a wrapper, its child,
and systemd-notify(1). The sender is looked at when its message is heard, and one that is gone by
then, or was never of the tree, does not count.

The sockets are in a directory beside the state directory, which others may pass (0711): that one is
for us alone.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable

from cmappd.core.config import Application
from cmappd.core.sd_notify import Notification
from cmappd.errors import CmappdError
from cmappd.server.shared.world import World
from cmappd.system.notify_socket import NotifySocket
from cmappd.system.trust import private_directory

SUFFIX = "-notify"  # of the directory, after the name of the state directory


class Notices:
    """Listens for one application, from the launch of its command to the end of the run."""

    __slots__ = ("_name", "_refused", "_socket", "_told", "_world")

    def __init__(self, world: World, name: str, told: Callable[[str, Notification], None]) -> None:
        """``told(run, notification)`` is called for each message that counts."""
        self._world = world
        self._name = name
        self._told = told
        self._socket: NotifySocket | None = None
        self._refused = False  # somebody was, and the log says so

    def open(
        self, run: str, definition: Application, owner: tuple[int, int] | None
    ) -> dict[str, str]:
        """Listen to a new run, of this user and group if they are not ours; gives what its command
        finds in its environment.

        Raises ConfigError where that cannot be.
        """
        self.close(remove=True)
        if not definition.notifies:
            return {}
        self._listen(run, owner)
        found = {"NOTIFY_SOCKET": self._path}
        if definition.watchdog is not None:
            found["WATCHDOG_USEC"] = str(max(1, round(definition.watchdog * 1_000_000)))
        return found

    @property
    def was_passed_on(self) -> bool:
        """Whether the socket was open all the time, as in an upgrade, so that no word is lost."""
        return self._world.given.has(self._mark)

    def pass_on(self) -> dict[str, list[int]]:
        """Listen no more, and give the socket, by the name for which the next program looks."""
        if self._socket is None:
            return {}
        descriptor, self._socket = self._socket.detach(), None
        return {self._mark: [descriptor]}

    def resume(self, run: str) -> bool:
        """Listen again to a run that an earlier cmappserver has launched; False if that fails."""
        try:
            # Not the definition tells whose it is: that may have changed since the launch.
            owner = os.lstat(self._path)
            self._listen(run, (owner.st_uid, owner.st_gid))
        except (CmappdError, OSError) as error:
            self._world.log_of(self._name).error("cannot hear its notifications: %s", error)
            return False
        return True

    def disregard(self, what: str) -> None:
        """Log what is not heeded: once a run, because who says that can say it without end."""
        if not self._refused:
            self._refused = True
            log = self._world.log_of(self._name)
            log.warning("not heeded: %s (more are not logged)", what)

    def drain(self) -> None:
        """Hear now what was said before a process ended."""
        if self._socket is not None:
            self._socket.drain()

    def close(self, remove: bool) -> None:
        """Listen no more; a path that is kept is for the next cmappserver."""
        if self._socket is None:
            return
        self._socket.close(remove)
        self._socket = None
        if remove:
            with contextlib.suppress(OSError):  # others are in it
                os.rmdir(os.path.dirname(self._path))

    @property
    def _mark(self) -> str:
        return f"notify {self._name}"

    @property
    def _path(self) -> str:
        # NAME.sock would be longer, and the path of a socket is short.
        return os.path.join(self._world.state_directory.rstrip("/") + SUFFIX, self._name)

    def _is_of(self, run: str, pid: int) -> bool:
        try:
            return self._world.forest.has(run, pid)
        except OSError:  # no descriptor to look with; and only its own user and root may write here
            return True

    def _listen(self, run: str, owner: tuple[int, int] | None) -> None:
        self._refused = False
        private_directory(os.path.dirname(self._path), 0o711)

        def hear(pid: int, _uid: int, word: Notification) -> None:
            if self._is_of(run, pid):
                self._told(run, word)
            else:
                self.disregard(f"a notification of process {pid}, which is gone or not of its tree")

        loop, given = asyncio.get_running_loop(), self._world.given.take(self._mark)
        self._socket = NotifySocket(
            loop, self._path, owner, hear, inherited=given[0] if given else None
        )
