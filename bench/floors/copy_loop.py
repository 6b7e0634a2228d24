"""The floor under log capture: a bare loop from a pipe to a file. Arguments: file, command."""

import os
import subprocess
import sys


def main() -> None:
    """Run the command with its output in a pipe, and copy that to the file."""
    path, *command = sys.argv[1:]
    reading, writing = os.pipe()
    with subprocess.Popen(command, stdout=writing, start_new_session=True):
        os.close(writing)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        while data := os.read(reading, 65536):
            os.write(log, data)


main()
