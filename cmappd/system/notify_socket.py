"""Hears what an application says of itself by sd_notify(3): one datagram socket for each.

A socket of its own for each application, because then the address says who is meant, also to a
server that was started after the application was: the path is the same, so what a running
application sends next reaches whoever has taken the path over. What is sent while nobody has it
is refused to the sender (ECONNREFUSED), and what a killed server had not read yet is lost.

The address is a path, and not a name in the abstract namespace. To an abstract name everybody in
the network namespace may send: a stranger could fill the queue, which holds eleven messages, and
so silence the application; and while cmappserver is down anybody could take the name, for good.
To a path one sends with write permission on the socket (unix(7)), which its mode 0600 gives to
the application's user and to root.

That user must also be able to get to the socket, that is to search every directory on the way. The
state directory is for us alone (0700), so the sockets are in a directory of their own, which the
caller makes: ours, mode 0711 (others may pass, but neither list it nor change it), and below
directories that all may search. Where applications have no other user than ours, 0700 will do.
It belongs to one cmappserver: a lock of the caller's keeps others out, so that a socket that is
found there is one that a killed server has left.
"""

import array
import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import PurePath
from typing import NamedTuple

from cmappd.core import sd_notify
from cmappd.core.sd_notify import Notification
from cmappd.errors import ConfigError

# Messages of one application that are heard before the loop turns to the others.
MESSAGES_PER_CALLBACK = 16
# Messages that `drain` hears at most: more than can wait (systemd sets net.unix.max_dgram_qlen to
# 512, the kernel's default is 10), so that it ends while somebody goes on sending.
MESSAGES_PER_DRAIN = 1024
# Bytes; systemd takes no more either.
MAX_MESSAGE = 4096
# Bytes with the NUL that ends it: sun_path in unix(7).
MAX_PATH = 108

_MAX_DESCRIPTORS = 253  # SCM_MAX_FD in unix(7)
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_CONTROL = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS)

_log = logging.getLogger(__name__)


class _Datagram(NamedTuple):
    data: bytes
    pid: int  # 0: unknown, or a process that is not in our pid namespace
    uid: int
    descriptors: list[int]
    whole: bool


class NotifySocket:
    """Receives the notifications of one application, on the event loop.

    ``callback(pid, uid, notification)`` is called with each message that says anything, in the
    order in which they were sent. Pid and uid come from the kernel (SCM_CREDENTIALS; the uid is the
    sender's real one), but root may name another process, and systemd-notify(1) names its parent
    if root runs it. Whether the pid belongs to the application is for the callback to decide, at
    once: a sender that waits for a barrier lives until the callback has returned, others may be
    gone already.

    Descriptors that come with a message are closed after it, which is what a barrier waits for.
    Nothing is stored for FDSTORE. ``refused`` counts the messages that were not read, being longer
    than 4 KiB or without a sender that can be known.
    """

    __slots__ = ("_callback", "_inode", "_loop", "_paused", "_socket", "address", "refused")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        owner: tuple[int, int] | None,
        callback: Callable[[int, int, Notification], None],
        inherited: int | None = None,
    ) -> None:
        """Listen at an absolute path; take it over from a server that was killed.

        ``owner``, a uid and a gid, is who may send besides root; None: who we are. ``inherited`` is
        the descriptor of the socket that is there, from `detach` in the program that was in our
        place: what waits in it is heard. Raises ConfigError where the directory is not as this
        module says, the owner cannot get there, something else has that name, or the socket cannot
        be made.
        """
        self._loop = loop
        self._callback = callback
        self._paused = False
        if inherited is None:
            self._socket = _bind(path, owner)
        else:
            self._socket = socket.socket(fileno=inherited)
        self._inode = _inode(path)
        self.address = path  # for $NOTIFY_SOCKET
        self.refused = 0
        loop.add_reader(self._socket, self._readable)

    def drain(self) -> None:
        """Hear now what has been sent, up to a message with descriptors.

        For the end of a process: its last words must not be heard after that.
        """
        self._hear(MESSAGES_PER_DRAIN)

    def detach(self) -> int:
        """Hear no more, and give the descriptor away, with what waits to be heard."""
        self._loop.remove_reader(self._socket)
        return self._socket.detach()

    def close(self, remove: bool) -> None:
        """Hear no more; what was not heard yet is lost. A path that is kept is for the next server.

        Without effect the second time.
        """
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        if remove and _inode(self.address) == self._inode:
            with contextlib.suppress(OSError):  # what stays is taken over the next time
                os.unlink(self.address)
        # The kernel would close what is in the queue here and now, however long that takes.
        self._socket.shutdown(socket.SHUT_RD)
        descriptors = []
        while (datagram := _receive(self._socket)) is not None:
            descriptors += datagram.descriptors
        self._socket.close()
        self._close_aside(descriptors)

    def _readable(self) -> None:
        self._hear(MESSAGES_PER_CALLBACK)

    def _hear(self, limit: int) -> None:
        for _ in range(limit):
            datagram = None if self._paused else _receive(self._socket)
            if datagram is None:
                return
            self._tell(datagram)
            self._close_aside(datagram.descriptors)

    def _tell(self, datagram: _Datagram) -> None:
        if not datagram.whole or datagram.pid <= 0:
            self.refused += 1
            return
        notification = sd_notify.parse(datagram.data)
        if notification == sd_notify.NOTHING:
            return
        try:
            self._callback(datagram.pid, datagram.uid, notification)
        except Exception:  # noqa: BLE001
            # The defect of the callback must cost neither later messages nor open descriptors.
            _log.exception("cannot tell of a notification of process %d", datagram.pid)

    def _close_aside(self, descriptors: list[int]) -> None:
        """Close descriptors in a thread, and hear nothing more until that is done.

        Their closing can take as long as the sender likes: a socket lingers (SO_LINGER in
        socket(7)), a file on a network is flushed. So it costs nobody but the sender, of whom
        no more than one thread and one message are held.
        """
        if not descriptors:
            return
        self._pause()
        thread = threading.Thread(
            target=self._close_all, args=(descriptors,), name="cmappd-close", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # there are too many threads on this machine
            self._close_all(descriptors)

    def _close_all(self, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            with contextlib.suppress(OSError):  # what was not written yet is the sender's loss
                os.close(descriptor)
        # RuntimeError: the loop is closed, and nobody hears anything any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._resume)

    def _pause(self) -> None:
        if self._socket.fileno() >= 0:
            self._paused = True
            self._loop.remove_reader(self._socket)

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            self._paused = False
            self._loop.add_reader(self._socket, self._readable)


def _receive(sock: socket.socket) -> _Datagram | None:
    """The next datagram, if there is one; none of a closed socket."""
    try:
        # Without that flag a program that is launched meanwhile would inherit the descriptors.
        data, control, flags, _ = sock.recvmsg(MAX_MESSAGE, _CONTROL, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    pid, uid, descriptors = 0, 0, array.array("i")
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid, uid, _gid = _CREDENTIALS.unpack(content)
    return _Datagram(data, pid, uid, list(descriptors), not flags & socket.MSG_TRUNC)


def _bind(path: str, owner: tuple[int, int] | None) -> socket.socket:
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with contextlib.ExitStack() as undo:
        try:
            _check_place(path, owner)
            sock = undo.enter_context(socket.socket(socket.AF_UNIX, kind))
            # Both before it has an address: nobody else may send, and nobody without a name.
            os.fchmod(sock.fileno(), 0o600)  # bind(2) makes the file with the mode of the socket
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            sock.bind(path)
            undo.callback(os.unlink, path)
            if owner is not None:
                os.chown(path, *owner, follow_symlinks=False)
        except OSError as error:
            raise ConfigError(f"cannot make notify socket {path}: {error.strerror}") from error
        undo.pop_all()
        return sock


def _check_place(path: str, owner: tuple[int, int] | None) -> None:
    """Make room for a socket at `path`. Raises OSError, and ConfigError where it is unsafe."""
    directory = os.path.dirname(path)
    found = os.lstat(directory)
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not ours or found.st_mode & 0o022:
        raise ConfigError(
            f"cannot use notify socket {path}: {directory} must be a directory of "
            f"user {os.geteuid()} that nobody else can write (mode 0711)"
        )
    if len(os.fsencode(path)) >= MAX_PATH:
        raise ConfigError(
            f"cannot use notify socket {path}: the path of a socket has "
            f"less than {MAX_PATH} bytes; use a state directory with a shorter path"
        )
    if owner is not None and owner[0] != os.geteuid():
        _check_reachable(path, owner[0])
    _remove_stale(path)


def _check_reachable(path: str, uid: int) -> None:
    """Raise ConfigError if that user certainly cannot get to the socket.

    Otherwise the application would be called not ready, and nobody would know why. With search
    permission for the group it is not certain: of the user's other groups, or an access control
    list, the mode says nothing (acl(5)).
    """
    for folder in PurePath(os.path.realpath(path)).parents:
        found = os.lstat(folder)
        searchable = 0o111 if found.st_uid == uid else 0o011
        if not found.st_mode & searchable:
            raise ConfigError(
                f"cannot use notify socket {path}: user {uid} cannot get there; "
                f"to mend it: chmod o+x {folder}"
            )


def _remove_stale(path: str) -> None:
    """Remove the socket of a killed server, and nothing else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"cannot use notify socket {path}: that is not a socket; remove it")
    os.unlink(path)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
