"""Ports for the servers that a test starts, which nobody else is given meanwhile."""

import socket

_held: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 that a server can listen on, as servers do, with SO_REUSEADDR.

    It is held by a socket that is bound and does not listen: the kernel gives such a port to
    nobody who asks for any, and lets those have it who ask for it by number.
    """
    holder = socket.socket()
    _held.append(holder)
    holder.bind(("127.0.0.1", 0))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return int(holder.getsockname()[1])


def release() -> None:
    """The test is over: give all ports back."""
    while _held:
        _held.pop().close()
