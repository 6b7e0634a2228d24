"""Notification sockets, with real senders, and servers that are killed."""

import asyncio
import contextlib
import errno
import logging
import os
import re
import resource
import select
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import pytest

from cmappd.core.sd_notify import Notification
from cmappd.errors import ConfigError
from cmappd.system.notify_socket import MESSAGES_PER_CALLBACK, MESSAGES_PER_DRAIN, NotifySocket

DEADLINE = 30.0
PYTHON = [sys.executable, "-S", "-E", "-c"]
# Sends each line of its input, and says how that went; as another user if one is named.
CLIENT = """
import errno, os, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
if len(sys.argv) > 1:
    os.setgroups([])
    os.setresgid(*[int(sys.argv[1])] * 3)
    os.setresuid(*[int(sys.argv[1])] * 3)
for line in sys.stdin:
    try:
        sock.sendto(line.encode(), os.environ["NOTIFY_SOCKET"])
        print("sent", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"""
# The same system calls as `systemd-notify --ready --status=up` of systemd 252 makes; the pid it
# puts into the credentials is an argument.
SYSTEMD_NOTIFY = """
import os, select, socket, struct, sys
credentials = struct.pack("iII", eval(sys.argv[1]), os.getuid(), os.getgid())
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
sock.sendmsg(
    [b"READY=1\\nSTATUS=up"],
    [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)],
    socket.MSG_NOSIGNAL,
    os.environ["NOTIFY_SOCKET"],
)
reading, writing = os.pipe2(os.O_CLOEXEC)
sock.sendmsg(
    [b"BARRIER=1"],
    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", writing))],
    socket.MSG_NOSIGNAL,
    os.environ["NOTIFY_SOCKET"],
)
os.close(writing)
poll = select.poll()
poll.register(reading, 0)
print(poll.poll(20000) == [(reading, select.POLLHUP)])
"""
FLOOD = """
import os, socket
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.connect(os.environ["NOTIFY_SOCKET"])
while True:
    sock.send(b"WATCHDOG=1")
"""
SERVER = """
import asyncio, sys
from cmappd.system.notify_socket import NotifySocket

async def main():
    heard = lambda pid, uid, said: print(pid, uid, said.status, flush=True)
    sock = NotifySocket(asyncio.get_running_loop(), sys.argv[1], None, heard)
    print("ready", flush=True)
    while not sock.refused:
        await asyncio.sleep(0.01)
    print("refused", flush=True)
    sock.close(remove=True)

asyncio.run(main())
"""
Heard = list[tuple[int, int, Notification]]


def environment(address: str) -> dict[str, str]:
    return {**os.environ, "NOTIFY_SOCKET": address}


class Client:
    """A process that sends what it is told to."""

    def __init__(self, address: str, uid: int | None = None) -> None:
        self.process = subprocess.Popen(
            [*PYTHON, CLIENT, *([] if uid is None else [str(uid)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(address),
            text=True,
        )
        self.pid = self.process.pid

    def send(self, line: str) -> str:
        """Give "sent", or the name of the error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate(timeout=DEADLINE)


class Place:
    """Makes sockets in a folder, and keeps what they hear."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Path) -> None:
        self.loop = loop
        self.folder = folder
        self.heard: Heard = []
        self._made: list[NotifySocket] = []

    def listen(
        self,
        callback: Callable[[int, int, Notification], None] | None = None,
        owner: tuple[int, int] | None = None,
        name: str = "db.notify",
    ) -> NotifySocket:
        path = str(self.folder / name)
        made = NotifySocket(self.loop, path, owner, callback or self._hear)
        self._made.append(made)
        return made

    def _hear(self, pid: int, uid: int, said: Notification) -> None:
        self.heard.append((pid, uid, said))

    @property
    def said(self) -> list[Notification]:
        return [said for _, _, said in self.heard]

    @property
    def statuses(self) -> list[str | None]:
        return [said.status for said in self.said]

    def run_until(self, condition: Callable[[], object]) -> None:
        async def wait() -> None:
            async with asyncio.timeout(DEADLINE):
                while not condition():
                    await asyncio.sleep(0.001)

        self.loop.run_until_complete(wait())

    def run_until_said(self, status: str) -> None:
        self.run_until(lambda: status in self.statuses)

    def close(self) -> None:
        for made in self._made:
            made.close(remove=True)
        assert os.listdir(self.folder) == []


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def place(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[Place]:
    folder = tmp_path / "n"
    folder.mkdir(0o700)
    made = Place(loop, folder)
    yield made
    made.close()


@pytest.fixture
def open_place(loop: asyncio.AbstractEventLoop) -> Iterator[Place]:
    """A place that every user can get to, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="cmappd-") as folder:
        os.chmod(folder, 0o711)
        made = Place(loop, Path(folder))
        yield made
        made.close()


def sender(address: str) -> socket.socket:
    """Sends from this process."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(DEADLINE)
    sock.connect(address)
    return sock


def send_with_pipe(address: str, data: bytes) -> int:
    """Send the writing end of a pipe along; the reading end, which the caller closes."""
    reading, writing = os.pipe()
    with sender(address) as sock:
        socket.send_fds(sock, [data], [writing])
    os.close(writing)
    return reading


def is_hung_up(reading: int) -> bool:
    poll = select.poll()
    poll.register(reading, 0)
    return poll.poll(0) == [(reading, select.POLLHUP)]


def closers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "cmappd-close"]


# What is heard ---------------------------------------------------------------------------


def test_a_process_is_heard_with_its_pid_and_uid(place: Place) -> None:
    made = place.listen()
    with Client(made.address) as client:
        assert client.send("READY=1") == "sent"
        assert client.send("STATUS=at work") == "sent"
        place.run_until(lambda: len(place.heard) == 2)
    who = (client.pid, os.getuid())
    assert place.heard == [
        (*who, Notification(ready=True)),
        (*who, Notification(status="at work")),
    ]
    assert made.refused == 0


def test_what_systemd_notify_does_is_understood(place: Place) -> None:
    made = place.listen()
    command = [*PYTHON, SYSTEMD_NOTIFY, "os.getpid()"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment(made.address)
    ) as process:
        assert process.stdout is not None
        place.run_until(lambda: process.poll() is not None)
        # It waited for its barrier, and not for its time limit.
        assert process.stdout.read() == b"True\n"
    assert place.heard == [(process.pid, os.getuid(), Notification(ready=True, status="up"))]


@pytest.mark.root
def test_root_may_speak_for_another_process(place: Place) -> None:
    made = place.listen()
    command = [*PYTHON, SYSTEMD_NOTIFY, "os.getppid()"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env=environment(made.address)
    ) as process:
        place.run_until(lambda: process.poll() is not None)
    assert [pid for pid, _, _ in place.heard] == [os.getpid()]


def test_nothing_is_told_of_a_message_that_says_nothing(place: Place) -> None:
    made = place.listen()
    with sender(made.address) as sock:
        for data in (b"", b"X_OTHER=1", b"\0\0", b"\xff\xfe"):
            sock.send(data)
        sock.send(b"\xff=\xff\nREADY=1")
        place.run_until(lambda: place.heard)
    assert place.said == [Notification(ready=True)]
    assert made.refused == 0


def test_a_message_that_is_too_long_is_refused_and_counted(place: Place) -> None:
    made = place.listen()
    with sender(made.address) as sock:
        sock.send(b"READY=1\nX=".ljust(4097, b"x"))
        sock.send(b"STOPPING=1\nX=".ljust(4096, b"x"))
        place.run_until(lambda: place.heard)
    assert place.said == [Notification(stopping=True)]
    assert made.refused == 1


def test_a_sender_that_cannot_be_known_is_refused_and_counted(place: Place) -> None:
    # From inside a pid namespace, a process outside has no pid.
    inside = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    path = str(place.folder / "db.notify")
    with subprocess.Popen(
        [*inside, sys.executable, "-c", SERVER, path], stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == b"ready\n"
            with sender(path) as sock:
                sock.send(b"STATUS=who?")
            assert server.stdout.readline() == b"refused\n"
            assert server.wait(DEADLINE) == 0
        finally:
            server.kill()


def test_the_defect_of_a_callback_costs_nothing_else(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    told = []

    def callback(_pid: int, _uid: int, said: Notification) -> None:
        told.append(said.status)
        if said.status == "bad":
            raise ValueError("a defect")

    made = place.listen(callback)
    with sender(made.address) as sock:
        sock.send(b"STATUS=bad")
        reading = send_with_pipe(made.address, b"STATUS=bad")
        sock.send(b"STATUS=good")
        place.run_until(lambda: told == ["bad", "bad", "good"])
    assert is_hung_up(reading)
    os.close(reading)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert str(os.getpid()) in caplog.text


def test_a_callback_may_close(place: Place) -> None:
    told = []

    def callback(_pid: int, _uid: int, said: Notification) -> None:
        told.append(said.status)
        made.close(remove=True)

    made = place.listen(callback)
    reading = send_with_pipe(made.address, b"STATUS=first")
    with sender(made.address) as sock:
        sock.send(b"STATUS=second")
    place.run_until(lambda: is_hung_up(reading))
    os.close(reading)
    assert told == ["first"]


def test_drain_hears_the_last_words_of_a_killed_process(place: Place) -> None:
    made = place.listen()
    with Client(made.address) as client:
        client.send("STATUS=cannot go on")
        client.send("STOPPING=1")
    made.drain()
    assert place.said == [
        Notification(status="cannot go on"),
        Notification(stopping=True),
    ]
    made.close(remove=True)
    made.drain()


# Descriptors -----------------------------------------------------------------------------


def test_a_barrier_is_lifted_after_all_before_it_was_told(place: Place) -> None:
    up_at: list[bool] = []
    made = place.listen(lambda *_: up_at.append(is_hung_up(reading)))
    with sender(made.address) as sock:
        for _ in range(3):
            sock.send(b"WATCHDOG=1")
        reading = send_with_pipe(made.address, b"BARRIER=1")
        place.run_until(lambda: is_hung_up(reading))
        assert up_at == [False] * 3
        sock.send(b"WATCHDOG=1")
        place.run_until(lambda: up_at == [False] * 3 + [True])
    os.close(reading)


def test_descriptors_of_any_number_are_closed_and_inherited_by_nobody(place: Place) -> None:
    inheritable: list[list[bool]] = []

    def callback(_pid: int, _uid: int, _said: Notification) -> None:
        open_files = [path for path in Path("/proc/self/fd").iterdir() if path.exists()]
        received = {int(path.name) for path in open_files if path.samefile(pipe)} - {reading}
        inheritable.append([os.get_inheritable(number) for number in received])

    made = place.listen(callback)
    reading, writing = os.pipe()
    pipe = Path(f"/proc/self/fd/{reading}")
    with sender(made.address) as sock:
        for count in (1, 2, 253):
            socket.send_fds(sock, [b"FDSTORE=1\nREADY=1"], [writing] * count)
    os.close(writing)
    place.run_until(lambda: is_hung_up(reading))
    os.close(reading)
    assert inheritable == [[False] * count for count in (1, 2, 253)]


def test_descriptors_that_were_not_heard_are_closed_at_the_end(place: Place) -> None:
    made = place.listen()
    pipes = [send_with_pipe(made.address, b"BARRIER=1") for _ in range(5)]
    made.close(remove=True)
    place.run_until(lambda: all(map(is_hung_up, pipes)))
    for reading in pipes:
        os.close(reading)
    assert place.heard == []


def test_what_waits_is_heard_by_who_is_given_the_socket(place: Place) -> None:
    made = place.listen()
    address = made.address
    with Client(address) as client:
        descriptor = made.detach()
        assert client.send("STATUS=waits") == "sent"
        heard: Heard = []
        next_one = NotifySocket(
            place.loop, address, None, lambda *said: heard.append(said), inherited=descriptor
        )
        next_one.drain()
        assert heard == [(client.pid, os.getuid(), Notification(status="waits"))]
        next_one.close(remove=True)
    assert not os.path.exists(address)


def test_a_server_without_descriptors_to_spare_hears_all_the_same(place: Place) -> None:
    made = place.listen()
    reading = send_with_pipe(made.address, b"READY=1")
    free = os.dup(0)
    os.close(free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        made.drain()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert place.said == [Notification(ready=True)]
    assert is_hung_up(reading)
    os.close(reading)


def lingering_socket() -> tuple[socket.socket, socket.socket]:
    """A TCP socket whose close(2) waits for the other one, which does not read."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        slow = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 300))
    slow.setblocking(False)
    while select.select([], [slow], [], 0.1)[1]:
        slow.send(bytes(65536))
    return slow, peer


def test_a_descriptor_that_is_slow_to_close_holds_up_its_sender_only(place: Place) -> None:
    bad, good = place.listen(name="bad"), place.listen(name="good")
    slow, peer = lingering_socket()
    with peer, sender(bad.address) as to_bad, sender(good.address) as to_good:
        socket.send_fds(to_bad, [b"STATUS=bad 1"], [slow.fileno()])
        slow.close()
        to_bad.send(b"STATUS=bad 2")
        for n in range(50):
            to_good.send(b"STATUS=good %d" % n)
            place.run_until_said(f"good {n}")
        bad.drain()
        assert len(closers()) == 1
        assert "bad 1" in place.statuses
        assert "bad 2" not in place.statuses
        peer.close()
        place.run_until_said("bad 2")


def test_closing_does_not_wait_for_what_is_slow_to_close(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    heard, unheard = place.listen(name="heard"), place.listen(name="unheard")
    pairs = [lingering_socket(), lingering_socket()]
    for made, (slow, _) in zip((heard, unheard), pairs, strict=True):
        with sender(made.address) as sock:
            socket.send_fds(sock, [b"READY=1"], [slow.fileno()])
        slow.close()
    heard.drain()
    heard.close(remove=True)
    unheard.close(remove=True)
    assert len(closers()) == 2
    for _, peer in pairs:
        peer.close()
    place.run_until(lambda: not closers())
    assert place.said == [Notification(ready=True)]
    assert caplog.records == []


def test_descriptors_are_closed_where_no_thread_can_be_made(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    made = place.listen()
    reading = send_with_pipe(made.address, b"READY=1")
    with sender(made.address) as sock:
        sock.send(b"STATUS=next")
    place.run_until(lambda: len(place.heard) == 2)
    assert is_hung_up(reading)
    os.close(reading)


# Floods ----------------------------------------------------------------------------------


def test_a_queue_that_never_empties_lets_the_others_have_their_turns(place: Place) -> None:
    pings = 0
    pings_before: list[int] = []

    def ping_again(_pid: int, _uid: int, _said: Notification) -> None:
        nonlocal pings
        pings += 1
        if pings == 1:
            to_quiet.send(b"READY=1")
        if pings < 100 * MESSAGES_PER_CALLBACK:
            to_busy.send(b"WATCHDOG=1")

    busy = place.listen(ping_again, name="busy")
    quiet = place.listen(lambda *_: pings_before.append(pings), name="quiet")
    with sender(busy.address) as to_busy, sender(quiet.address) as to_quiet:
        to_busy.send(b"WATCHDOG=1")
        place.run_until(lambda: pings_before)
    # Its own turn, and the next one if it comes first in that again.
    assert pings_before[0] <= 2 * MESSAGES_PER_CALLBACK


def test_a_flood_does_not_silence_the_others(place: Place) -> None:
    pings = []
    flood = place.listen(lambda pid, _uid, _said: pings.append(pid), name="flood")
    quiet = place.listen(name="quiet")
    command = [*PYTHON, FLOOD]
    with subprocess.Popen(command, env=environment(flood.address)) as child:
        try:
            place.run_until(lambda: pings)
            with sender(quiet.address) as sock:
                for n in range(50):
                    sock.send(b"STATUS=%d" % n)
                    place.run_until_said(str(n))
            assert child.poll() is None
        finally:
            child.kill()
    assert set(pings) == {child.pid}


def test_drain_ends_while_somebody_goes_on_sending(place: Place) -> None:
    pings = 0

    def ping_again(_pid: int, _uid: int, _said: Notification) -> None:
        nonlocal pings
        pings += 1
        if pings < 2 * MESSAGES_PER_DRAIN:
            sock.send(b"WATCHDOG=1")

    made = place.listen(ping_again)
    with sender(made.address) as sock:
        sock.send(b"WATCHDOG=1")
        made.drain()
    assert pings == MESSAGES_PER_DRAIN


def test_close_ends_while_somebody_goes_on_sending(place: Place) -> None:
    sent = 0

    def send_more(_frame: object, event: str, function: object) -> None:
        nonlocal sent
        if event == "c_call" and getattr(function, "__name__", "") == "recvmsg" and sent < 1000:
            with contextlib.suppress(BrokenPipeError):
                sock.send(b"WATCHDOG=1")
                sent += 1

    made = place.listen()
    with sender(made.address) as sock:
        sock.send(b"WATCHDOG=1")
        sys.setprofile(send_more)  # called before each message is received
        try:
            made.close(remove=True)
        finally:
            sys.setprofile(None)
    assert sent == 0


# Who may send ----------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_nobody_else_may_send_whatever_the_umask(place: Place, mask: int) -> None:
    before = os.umask(mask)
    try:
        made = place.listen()
    finally:
        os.umask(before)
    found = os.lstat(made.address)
    assert stat.filemode(found.st_mode) == "srw-------"
    assert found.st_uid == os.geteuid()


@pytest.mark.root
def test_the_user_of_the_application_may_send_and_a_stranger_may_not(open_place: Place) -> None:
    made = open_place.listen(owner=(12345, 12345))
    with Client(made.address, 12345) as user, Client(made.address, 23456) as stranger:
        assert stranger.send("STATUS=stranger") == "EACCES"
        assert user.send("STATUS=user") == "sent"
        open_place.run_until(lambda: open_place.heard)
    assert open_place.heard == [(user.pid, 12345, Notification(status="user"))]


@pytest.mark.root
def test_a_socket_changes_its_user_with_the_application(open_place: Place) -> None:
    # The server was killed, and the definition edited.
    open_place.listen(owner=(12345, 12345)).close(remove=False)
    made = open_place.listen(owner=(23456, 23456))
    with Client(made.address, 12345) as old, Client(made.address, 23456) as new:
        assert old.send("STATUS=old") == "EACCES"
        assert new.send("STATUS=new") == "sent"
        open_place.run_until(lambda: open_place.heard)
    assert open_place.statuses == ["new"]


@pytest.mark.root
def test_a_place_that_the_user_cannot_get_to_is_refused(open_place: Place) -> None:
    for mode in (0o700, 0o600):
        open_place.folder.chmod(mode)
        with pytest.raises(ConfigError, match=r"user 12345 cannot get there.* chmod o\+x /") as why:
            open_place.listen(owner=(12345, 12345))
        assert str(why.value).endswith(str(open_place.folder))
    # Of these the mode does not say that the user is not let through.
    for mode in (0o710, 0o701):
        open_place.folder.chmod(mode)
        open_place.listen(owner=(12345, 12345))


@pytest.mark.root
def test_a_place_of_another_user_is_refused(open_place: Place) -> None:
    os.chown(open_place.folder, 12345, 12345)
    with pytest.raises(ConfigError, match="must be a directory of user 0"):
        open_place.listen(owner=(12345, 12345))


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o1777])
def test_a_place_that_others_can_write_is_refused(place: Place, mode: int) -> None:
    place.folder.chmod(mode)
    with pytest.raises(ConfigError, match=r"nobody else can write \(mode 0711\)"):
        place.listen()


def test_what_is_no_directory_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(place.folder)
    (tmp_path / "file").touch(0o600)
    for name in ("link", "file"):
        with pytest.raises(ConfigError, match="must be a directory"):
            place.listen(name=str(tmp_path / name / "db.notify"))


def test_a_place_that_does_not_exist_is_refused(place: Place) -> None:
    path = str(place.folder / "none/db.notify")
    why = f"cannot make notify socket {path}: No such file or directory"
    with pytest.raises(ConfigError, match=f"^{re.escape(why)}$"):
        place.listen(name="none/db.notify")


def test_the_longest_path_is_107_bytes(place: Place) -> None:
    room = 107 - len(os.fsencode(place.folder)) - 1
    made = place.listen(name="x" * room)
    with sender(made.address) as sock:
        sock.send(b"READY=1")
        place.run_until(lambda: place.heard)
    with pytest.raises(ConfigError, match="has less than 108 bytes"):
        place.listen(name="x" * (room + 1))


# One server after another ----------------------------------------------------------------


def test_what_a_process_says_next_reaches_the_next_server(place: Place) -> None:
    path = str(place.folder / "db.notify")
    with Client(path) as client:
        assert client.send("STATUS=too early") == "ENOENT"
        for n in range(3):
            with subprocess.Popen(
                [sys.executable, "-c", SERVER, path], stdout=subprocess.PIPE, text=True
            ) as server:
                assert server.stdout is not None
                assert server.stdout.readline() == "ready\n"
                assert client.send(f"STATUS=to {n}") == "sent"
                assert server.stdout.readline() == f"{client.pid} {os.getuid()} to {n}\n"
                server.kill()
            assert client.send("STATUS=to nobody") == "ECONNREFUSED"
        made = place.listen()
        assert made.address == path
        assert client.send("STATUS=to the last") == "sent"
        place.run_until(lambda: place.heard)
    assert place.heard == [(client.pid, os.getuid(), Notification(status="to the last"))]


def test_a_path_that_is_kept_refuses_until_it_is_taken_over(place: Place) -> None:
    place.listen().close(remove=False)
    with Client(str(place.folder / "db.notify")) as client:
        assert client.send("READY=1") == "ECONNREFUSED"
        made = place.listen()
        assert client.send("READY=1") == "sent"
        made.close(remove=True)
        assert client.send("READY=1") == "ENOENT"
        made.close(remove=True)


def test_a_path_that_is_another_ones_by_now_is_not_removed(place: Place) -> None:
    first = place.listen()
    second = place.listen()
    first.close(remove=True)
    with sender(second.address) as sock:
        sock.send(b"READY=1")
        place.run_until(lambda: place.heard)


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "directory", "fifo"])
def test_what_is_no_socket_is_neither_used_nor_removed(
    place: Place, tmp_path: Path, kind: str
) -> None:
    path, target = place.folder / "db.notify", tmp_path / "target"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(target))
        if kind == "file":
            path.write_text("of value")
        elif kind == "directory":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(target if kind == "link" else tmp_path / "nowhere")
        before = os.lstat(path)
        with pytest.raises(ConfigError, match="that is not a socket; remove it"):
            place.listen()
        assert os.lstat(path) == before
        assert target.is_socket()
    assert not (tmp_path / "nowhere").exists()
    path.rmdir() if kind == "directory" else path.unlink()


def test_what_cannot_be_made_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: object, **__: object) -> None:
        assert stat.S_ISSOCK(os.lstat(path).st_mode)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ConfigError, match=r"cannot make notify socket .*: Operation not permitted"):
        place.listen(owner=(os.getuid(), os.getgid()))
