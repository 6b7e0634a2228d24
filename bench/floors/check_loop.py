"""The floor under many health checks: a bare loop that runs each command again after an interval.

Arguments: the interval in seconds, a program, and the last word of each of its command lines.
"""

import heapq
import subprocess
import sys
import time


def main() -> None:
    """Run them for ever, one at a time, and read what they print."""
    interval, program, *words = sys.argv[1:]
    pause, began = float(interval), time.monotonic()
    due = [(began + pause * number / len(words), word) for number, word in enumerate(words)]
    while True:
        instant, word = due[0]
        time.sleep(max(0.0, instant - time.monotonic()))
        subprocess.run((program, word), capture_output=True, check=True, start_new_session=True)
        heapq.heapreplace(due, (time.monotonic() + pause, word))


main()
