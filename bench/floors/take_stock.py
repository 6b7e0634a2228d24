"""The floor under taking up many: read the files that say what may run, and find what does.

Arguments: the folder with the files, and what marks the processes in their environment.
"""

import os
import sys
import tomllib
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Say how many processes are marked."""
    folder, mark = Path(sys.argv[1]), sys.argv[2].encode()
    for file in folder.iterdir():
        tomllib.loads(file.read_text())
    found = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            found += mark in Path(f"/proc/{name}/environ").read_bytes()
    print(f"found {found}", flush=True)


main()
