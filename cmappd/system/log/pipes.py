"""What waits in a pipe: to be looked at, and left there.

tee(2) copies the head of one pipe into another without taking it away. So what a log keeps for
people can be had beside splice(2), which moves the bytes themselves without passing through here.
"""

import ctypes
import errno
import os

# What one call moves: a pipe of the usual size.
CHUNK = 65536

_NONBLOCK = 2  # SPLICE_F_NONBLOCK (splice(2)); Python has no tee, but the constant since 3.10
_LIBC = ctypes.CDLL(None, use_errno=True)


def peek(pipe: int) -> bytes:
    """What a pipe holds, at most 64 KiB of it; empty where it holds nothing. Raises OSError."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if _LIBC.tee(pipe, writing, ctypes.c_size_t(CHUNK), _NONBLOCK) < 0:
            code = ctypes.get_errno()
            if code == errno.EAGAIN:
                return b""
            raise OSError(code, os.strerror(code))
        return os.read(reading, CHUNK)
    except BlockingIOError:
        return b""
    finally:
        os.close(reading)
        os.close(writing)


def take(pipe: int, size: int = CHUNK) -> bytes:
    """What a non-blocking pipe holds, taken out of it; empty where it holds nothing."""
    try:
        return os.read(pipe, size)
    except BlockingIOError:
        return b""
