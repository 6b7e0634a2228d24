"""The floor under starting many: a bare loop. Arguments: how many, and the command."""

import subprocess
import sys
import time


def main() -> None:
    """Start them, say how many seconds that took, and wait to be killed."""
    count, *command = sys.argv[1:]
    began = time.perf_counter()
    children = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(int(count))
    ]
    print(f"took {time.perf_counter() - began}", flush=True)
    children[0].wait()


main()
