"""A process that is killed at its n-th system call of the kinds that change files.

Whatever a log does between two of them, no byte may be lost or doubled: so all places are tried.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

CALLS = ("open", "write", "pwrite", "splice", "rename", "link", "unlink", "ftruncate", "read")


def run_until_call(number: int, work: Callable[[], None]) -> bool:
    """Do the work in a child that is killed before that call; whether it was."""
    pid = os.fork()
    if pid == 0:
        try:
            _arm(number)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL


def _arm(number: int) -> None:
    left = number

    def guard(call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*words: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*words, **named)

        return guarded

    for name in CALLS:
        setattr(os, name, guard(getattr(os, name)))
