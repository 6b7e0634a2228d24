"""The end of a process that is not our child, and its status where the kernel tells.

A pidfd becomes readable when its process has ended. Since Linux 6.15 it also keeps the exit
status after the process was waited for, whoever did so (PIDFD_GET_INFO, linux/pidfd.h); an older
kernel refuses the question, and the status is unknown.
"""

import asyncio
import fcntl
import os
import struct
from collections.abc import Callable

from cmappd.core.state import ExitStatus
from cmappd.system.proc import Identity, read_stat

_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info), of 64 bytes
_INFO = struct.Struct("=QQ11Ii")  # mask, cgroup id, pids and uids, exit_code
_INFO_EXIT = 1 << 3
_UNKNOWN = ExitStatus()
# The status is there when the parent, usually init, has waited; seconds between two looks.
_LOOK_AGAIN = 0.005
_LONGEST_WAIT = 2.0


class PidWatch:
    """Calls back, once and on the loop, when a process has ended."""

    def __init__(self, identity: Identity, callback: Callable[[ExitStatus], None]) -> None:
        """Raises ProcessLookupError if the process is gone, OSError without a descriptor."""
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._timer: asyncio.TimerHandle | None = None
        self._fd = os.pidfd_open(identity.pid)
        # Only now is it certain whose descriptor that is: the pid may have been used again.
        try:
            stat = read_stat(identity.pid)
        except OSError:
            self.close()
            raise
        if stat is None or stat.start != identity.start:
            self.close()
            raise ProcessLookupError(f"process {identity.pid} is gone")
        self._loop.add_reader(self._fd, self._ended)

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _ended(self) -> None:
        # Readable it stays: what is awaited from here on is that somebody has waited for it.
        self._loop.remove_reader(self._fd)
        self._look(self._loop.time() + _LONGEST_WAIT)

    def _look(self, deadline: float) -> None:
        status = _exit_status(self._fd)
        if status is None and self._loop.time() < deadline:
            self._timer = self._loop.call_later(_LOOK_AGAIN, self._look, deadline)
            return
        self.close()
        self._callback(status or _UNKNOWN)


def _exit_status(fd: int) -> ExitStatus | None:
    """How the process ended; None if that may still be told, unknown if it never will."""
    asked = bytearray(_INFO.size)
    struct.pack_into("=Q", asked, 0, _INFO_EXIT)
    try:
        fcntl.ioctl(fd, _GET_INFO, asked)
    except OSError:  # this kernel does not know the question
        return _UNKNOWN
    mask, *_, status = _INFO.unpack(asked)
    if not mask & _INFO_EXIT:
        return None
    if os.WIFSIGNALED(status):
        return ExitStatus(signal=os.WTERMSIG(status))
    return ExitStatus(code=os.WEXITSTATUS(status))
