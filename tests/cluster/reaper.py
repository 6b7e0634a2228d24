"""The first process of a machine: runs the script that boots it, then reaps for ever.

    python3 -I -S reaper.py SCRIPT

It waits for the end of its standard input first, because the network card comes from outside.
SIGTERM ends it, and with it the machine.
"""

import os
import signal
import subprocess
import sys


def main() -> None:
    sys.stdin.read()
    signals = {signal.SIGCHLD, signal.SIGTERM}
    subprocess.run(["/bin/sh", "-e", sys.argv[1]], stdin=subprocess.DEVNULL, check=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    while True:
        reap()
        if signal.sigwait(signals) == signal.SIGTERM:
            return


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


main()
