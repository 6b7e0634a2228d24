"""Signals on the loop; the storms run in a program of their own, because they may stop it."""

import asyncio
import os
import signal
import subprocess
import sys

from cmappd.system.signals import Signals

# The loop is kept busy, and nobody reads the pipe, while far more signals come than it holds:
# from two sides, so that one comes in the middle of the handling of another.
STORM = """
import asyncio, os, signal, subprocess, sys, time
from cmappd.system.signals import Signals

SHOOT = (
    "import os, signal, sys, time\\n"
    "end = time.monotonic() + 1.5\\n"
    "while time.monotonic() < end: os.kill(int(sys.argv[1]), int(sys.argv[2]))"
)

async def main():
    loop, heard = asyncio.get_running_loop(), []
    signals = Signals(loop)
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        signals.on(signum, lambda signum=signum: heard.append(signum))
    shooters = [
        subprocess.Popen([sys.executable, "-c", SHOOT, str(os.getpid()), str(int(signum))])
        for signum in (signal.SIGUSR1, signal.SIGUSR2)
    ]
    for shooter in shooters:
        while shooter.poll() is None:
            time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    while set(heard) != {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM}:
        await asyncio.sleep(0.01)
    signals.close()
    print("all heard")

asyncio.run(main())
"""


def test_a_storm_of_signals_neither_stops_the_process_nor_hides_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STORM], capture_output=True, text=True, timeout=40, check=False
    )
    assert (done.stdout, done.stderr) == ("all heard\n", "")


def test_signals_are_calls_on_the_loop_and_end_with_it() -> None:
    heard: list[int] = []
    before = signal.getsignal(signal.SIGUSR1)

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        signals = Signals(loop)
        signals.on(signal.SIGUSR1, lambda: heard.append(1))
        for count in (1, 2):
            os.kill(os.getpid(), signal.SIGUSR1)
            deadline = loop.time() + 10
            while len(heard) < count:
                assert loop.time() < deadline
                await asyncio.sleep(0)
        signals.close()

    asyncio.run(scene())
    assert heard == [1, 1]
    assert signal.getsignal(signal.SIGUSR1) is before
