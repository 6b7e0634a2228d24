"""The other end of a log that leaves the machine's files: it reads, counts, and throws away.

Arguments: "stream" or "datagram", the socket, and a file for the number of bytes and reads so far.
"""

import os
import selectors
import socket
import sys
import time

SAY = 0.02  # seconds between two notes


def main() -> None:
    """Until it is killed."""
    kind = socket.SOCK_STREAM if sys.argv[1] == "stream" else socket.SOCK_DGRAM
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind(sys.argv[2])
    selector = selectors.DefaultSelector()
    selector.register(server, selectors.EVENT_READ)
    if kind == socket.SOCK_STREAM:
        server.listen()
    size = count = 0
    said = 0.0
    while True:
        for key, _ in selector.select(SAY):
            source = key.fileobj
            assert isinstance(source, socket.socket)
            if source is server and kind == socket.SOCK_STREAM:
                selector.register(source.accept()[0], selectors.EVENT_READ)
                continue
            data = source.recv(1 << 18)
            size, count = size + len(data), count + 1
            if not data:
                selector.unregister(source)
        if time.monotonic() - said > SAY:
            said = time.monotonic()
            with open(f"{sys.argv[3]}.new", "w") as file:
                file.write(f"{size} {count}\n")
            os.replace(f"{sys.argv[3]}.new", sys.argv[3])


main()
