"""An application that writes much. Arguments: how many bytes, and where to say how long it took.

It stays when it is done, as a service does; it ends with whoever supervises it.
"""

import os
import sys
import time

LINE = b"2026-01-01 00:00:00 an ordinary line of an ordinary application, with a number: 1234567\n"
BLOCK = LINE * (8192 // len(LINE))


def main() -> None:
    """Write whole blocks, as buffered output comes."""
    size, path = int(sys.argv[1]), sys.argv[2]
    time.sleep(1)  # whoever supervises it may still be starting
    began = time.perf_counter()
    written = 0
    while written < size:
        written += os.write(1, BLOCK)
    took = time.perf_counter() - began
    with open(f"{path}.new", "w") as file:
        file.write(f"took {took} wrote {written}\n")
    os.replace(f"{path}.new", path)
    os.close(1)
    os.close(2)
    time.sleep(3600)


if __name__ == "__main__":
    main()
