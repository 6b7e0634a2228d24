"""Signals as calls on the event loop, however many come at once.

Not by ``loop.add_signal_handler``. That learns of signals from the bytes in a pipe of some
hundred, so a thousand SIGCHLDs push a SIGTERM out of it; and it leaves the warning about a full
pipe on, which CPython gives under a lock that the next signal's handler takes again: when a
thousand processes die at once, that stops the whole process for ever.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any


class Signals:
    """The signals of this process; of use in the main thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._before: dict[int, Any] = {}
        self._noted: set[int] = set()
        self._postponed = False
        # What is in the pipe is of no interest: a byte wakes the loop, and then Python runs
        # the handlers of all signals that have come.
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        loop.add_reader(self._reading, self._drain)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)

    def on(self, signum: int, callback: Callable[[], None]) -> None:
        """Call back, on the loop, after one or more of these signals; it is heard from now on."""
        self._callbacks[signum] = callback
        before = signal.signal(signum, self._note)
        self._before.setdefault(signum, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})

    def postpone(self) -> None:
        """Call back no more: what comes now is for the program that is executed next."""
        self._postponed = True

    def pass_on(self) -> None:
        """Block what this heard, and have what was postponed wait for the next program.

        Mask and waiting signals outlive execve(2); in between no signal is lost, and none kills.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, self._callbacks)
        for signum in tuple(self._noted):
            signal.pthread_kill(threading.get_ident(), signum)

    def close(self, *ignored: int) -> None:
        """Handle signals as before, but those ``ignored``: for a program that is about to end."""
        for signum, before in self._before.items():
            signal.signal(signum, signal.SIG_IGN if signum in ignored else before)
        signal.set_wakeup_fd(-1)
        self._loop.remove_reader(self._reading)
        os.close(self._reading)
        os.close(self._writing)

    def _note(self, signum: int, _frame: object) -> None:
        if signum not in self._noted:
            self._noted.add(signum)
            self._loop.call_soon_threadsafe(self._call, signum)

    def _call(self, signum: int) -> None:
        if self._postponed:
            return
        self._noted.discard(signum)
        self._callbacks[signum]()

    def _drain(self) -> None:
        os.read(self._reading, 65536)


def deafen() -> None:
    """Have no signal delivered to this thread: the main one alone is to take them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
