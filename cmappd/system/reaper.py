"""All waiting for children, in one place.

Every child is waited for here and nowhere else, so that no status is taken by somebody who
does not know whose it is. Nothing else in this process may wait: no ``Popen.wait``, no
subprocesses of asyncio.
"""

import asyncio
import logging
import os
from collections.abc import Callable

from cmappd.core.state import ExitStatus

# A storm of double-forking processes makes zombies as fast as they can be waited for, so one
# call must end by itself. A thousand applications that die at once fit into one.
_BATCH = 1024

_log = logging.getLogger(__name__)


class Reaper:
    """Waits for children and hands each status to whoever watches that pid.

    ``on_orphan(pid)`` is called for a child that nobody watches, after it was waited for: a
    member of some tree that outlived its parent and was handed to us, the subreaper.

    A status cannot be lost if `watch` is called in the same callback of the loop as the launch.
    """

    def __init__(self, on_orphan: Callable[[int], None]) -> None:
        self._on_orphan = on_orphan
        self._watchers: dict[int, Callable[[ExitStatus], None]] = {}

    def watch(self, pid: int, callback: Callable[[ExitStatus], None]) -> None:
        """Have ``callback`` called, once, with the status of this child."""
        assert pid not in self._watchers, "a pid is not used again before it is waited for"
        self._watchers[pid] = callback

    def watches(self, pid: int) -> bool:
        """Whether somebody is to be told of the end of this child."""
        return pid in self._watchers

    def reap(self) -> None:
        """Wait for every child that has ended, without blocking; to be called at each SIGCHLD.

        Signals are merged by the kernel: one SIGCHLD may stand for many children, or for one
        that an earlier call took already. Beyond 1,024 children the loop gets a turn first.
        """
        for _ in range(_BATCH):
            try:
                result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if result is None:
                return
            self._dispatch(result)
        asyncio.get_running_loop().call_soon(self.reap)

    def _dispatch(self, result: os.waitid_result) -> None:
        watcher = self._watchers.pop(result.si_pid, None)
        try:
            if watcher is None:
                self._on_orphan(result.si_pid)
            elif result.si_code == os.CLD_EXITED:
                watcher(ExitStatus(code=result.si_status))
            else:
                watcher(ExitStatus(signal=result.si_status))
        except Exception:  # noqa: BLE001
            # The defect of one watcher must not cost the others their status.
            _log.exception("cannot tell of the end of process %d", result.si_pid)
