"""A process of an application in the chaos test, and what becomes of it. Standard library only.

    python -I -S actor.py FOLDER ROLE [KEY=VALUE ...]

FOLDER is the application's own. It stands in the command line of each of its processes, whatever
they do to their session, parents, environment and descriptors: by that the test knows them.

Each process notes its birth, and an end of its own will, in ``FOLDER/../journal``. All processes of
a tree share one lock on ``FOLDER/tree``, which the kernel gives back when the last of them has
ended: whoever finds it taken at the begin of a run has found two trees.

Each line of output is numbered, and how many were written is in ``FOLDER/said.PID.START``.
"""

import contextlib
import fcntl
import mmap
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable

TREE = "tree"
ORDER = "order"  # the exit code that SIGUSR1 asks for
SICK = "sick"  # the health checks of the run that stands in this file fail
UNABLE = "unable"  # where there is such a file, start.command removes it and fails
UNABLE_CODE = 3
SAID = struct.Struct("QQ")  # lines begun, lines written
MEMORY = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE


def main() -> None:
    folder, role, *words = sys.argv[1:]
    options = dict(word.split("=", 1) for word in words)
    ROLES[role](Actor(folder, options))


class Actor:
    """One process. A fork becomes another by ``born``."""

    def __init__(self, folder: str, options: dict[str, str]) -> None:
        self.folder = folder
        self.app = os.path.basename(folder)
        self.options = options
        self.run = options.get("run") or os.environ.get("CMAPPD_RUN", "-")
        self.journal = os.open(
            os.path.join(os.path.dirname(folder), "journal"),
            os.O_WRONLY | os.O_APPEND | os.O_CREAT,
            0o600,
        )
        self.key = ""
        self.count = 0
        self.said: mmap.mmap | None = None
        self.memory: mmap.mmap | None = None
        self.heard: set[signal.Signals] = set()
        self.manner = "default"

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def note(self, event: str, *words: object) -> None:
        line = " ".join(map(str, (event, f"{time.monotonic():.6f}", self.app, self.key, *words)))
        os.write(self.journal, f"{line}\n".encode())

    def born(self, role: str) -> None:
        """From here on this process is another one."""
        with open("/proc/self/stat", "rb") as file:
            start = file.read().rpartition(b")")[2].split()[19].decode()
        self.key = f"{os.getpid()}.{start}"
        self.count, self.said = 0, None
        self.note("born", role, self.run)

    # The tree ------------------------------------------------------------------------

    def found_tree(self) -> None:
        """Take the lock of the tree; all that is forked or executed from here on shares it."""
        lock = os.open(self.path(TREE), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 200, 0).decode(errors="replace").strip()
            self.note("double", self.run, holder)
        else:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{self.key} {self.run}\n".encode(), 0)
        os.set_inheritable(lock, True)

    def fork(self, role: str, life: Callable[[], None], *, orphan: bool, session: bool) -> None:
        """A child that is another process of this tree."""
        if os.fork():
            return
        if role != "main":
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if session:
            os.setsid()
        if orphan and os.fork():
            os._exit(0)
        self.born(role)
        life()
        os._exit(0)

    def have_children(self) -> None:
        """One for each letter: (c)hild, (s)ession of its own, (d)aemon, (b)are of environment,
        (h)idden in every way but its command line."""
        for kind in self.options.get("children", ""):
            self.fork(f"child-{kind}", lambda kind=kind: self._childhood(kind),  # type: ignore[misc]
                      orphan=kind in "dbh", session=kind in "sdbh")  # fmt: skip

    def _childhood(self, kind: str) -> None:
        if kind in "bh":
            if kind == "h":
                null = os.open(os.devnull, os.O_RDWR)
                for fd in (0, 1, 2):
                    os.dup2(null, fd)
            words = [sys.argv[0], self.folder, "child", f"run={self.run}", f"kind={kind}"]
            os.execve(sys.executable, [sys.executable, "-I", "-S", *words], {})
        child(self, fresh=False)

    # Output --------------------------------------------------------------------------

    def say(self, lines: int = 1) -> None:
        """Write numbered lines, each whole or not at all."""
        if self.said is None:
            fd = os.open(self.path(f"said.{self.key}"), os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(fd, SAID.size)
            self.said = mmap.mmap(fd, SAID.size)
            os.close(fd)
        for _ in range(lines):
            number = self.count + 1
            SAID.pack_into(self.said, 0, number, self.count)
            os.write(1, line_of(self.app, self.key, number))
            self.count = number
            SAID.pack_into(self.said, 0, number, number)

    # Life ----------------------------------------------------------------------------

    def have_manners(self) -> None:
        """Be ready for signals: to be called before it is born, as the test sends some then."""
        self.heard = {signal.SIGUSR1}
        self.manner = self.options.get("term", "default")
        if self.manner == "ignore":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif self.manner != "default":
            self.heard.add(signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_BLOCK, self.heard)

    def live(self) -> None:
        """Write at the rate that was asked for, until told to end."""
        rate, lines = float(self.options.get("rate", "1")), int(self.options.get("lines", "1"))
        while True:
            self.say(lines)
            if "WATCHDOG_USEC" in os.environ:
                notify(b"WATCHDOG=1")
            # After SIGCONT and its timeout it may give what is no signal: CPython's own defect.
            word = signal.sigtimedwait(self.heard, 1 / rate)
            if word is not None and word.si_signo == signal.SIGTERM:
                self.end("term", int(self.manner))
            elif word is not None and word.si_signo == signal.SIGUSR1 and word.si_pid:
                with open(self.path(ORDER)) as file:
                    self.end("exit", int(file.read()))

    def end(self, why: str, code: int) -> None:
        self.note(why, code)
        os._exit(code)


def line_of(app: str, key: str, number: int) -> bytes:
    """The line of this number: of various lengths, and like no other."""
    return f"{app} {key} {number} {'.' * (number * 7919 % 97)}|\n".encode()


# The roles ----------------------------------------------------------------------------


def simple(actor: Actor) -> None:
    """The main process of an application of type simple."""
    actor.have_manners()
    actor.born("main")
    actor.found_tree()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if "slow" in actor.options:
        time.sleep(float(actor.options["slow"]))
    if "NOTIFY_SOCKET" in os.environ:
        notify(b"READY=1")
    # Memory makes it slow to die: the lock of its tree is given back after that.
    if "heavy" in actor.options:
        actor.memory = mmap.mmap(-1, int(actor.options["heavy"]) << 20, MEMORY)
    actor.have_children()
    actor.live()


def forking(actor: Actor) -> None:
    """A command that daemonises, once its daemon is at work."""
    actor.have_manners()
    actor.born("command")
    actor.found_tree()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    reading, writing = os.pipe()

    def daemon() -> None:
        os.close(reading)
        if "pid_file" in actor.options:
            aside = f"{actor.options['pid_file']}.new"
            with open(aside, "w") as file:
                file.write(f"{os.getpid()}\n")
            os.rename(aside, actor.options["pid_file"])
        os.close(writing)
        actor.have_children()
        actor.live()

    # Without a pid file the leader of a session is the main process.
    actor.fork("main", daemon, orphan="pid_file" in actor.options, session=True)
    os.close(writing)
    os.read(reading, 1)
    actor.end("exit", 0)


def oneshot(actor: Actor) -> None:
    """Does something, and has succeeded."""
    actor.born("main")
    actor.found_tree()
    actor.have_children()
    actor.say(5)
    actor.end("exit", 0)


def child(actor: Actor, *, fresh: bool = True) -> None:
    """What is below a main process: the test kills it, or the end of its tree does."""
    if fresh:
        actor.born(f"child-{actor.options.get('kind', '')}")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    hidden = actor.options.get("kind") == "h"
    while True:
        if not hidden:
            actor.say()
        time.sleep(1.5)


def prepare(actor: Actor) -> None:
    """start.command."""
    actor.born("start")
    actor.found_tree()
    actor.say(2)
    try:
        os.unlink(actor.path(UNABLE))
    except FileNotFoundError:
        actor.end("exit", 0)
    actor.end("exit", UNABLE_CODE)


def ask(actor: Actor) -> None:
    """stop.command: asks the main process to end, as an administrator's script would."""
    actor.born("stop")
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(os.environ["CMAPPD_MAIN_PID"]), signal.SIGTERM)
    actor.end("exit", 0)


def clean(actor: Actor) -> None:
    """stop.after: nothing may be left of the tree."""
    actor.born("after")
    actor.found_tree()
    actor.say(2)
    actor.end("exit", 0)


def check(actor: Actor) -> None:
    """health.command."""
    actor.born("health")
    sick = False
    with contextlib.suppress(FileNotFoundError), open(actor.path(SICK)) as file:
        sick = file.read() == actor.run.partition("/")[0]
    print("sick" if sick else "well")
    sys.stdout.flush()
    actor.end("exit", 1 if sick else 0)


def notify(words: bytes) -> None:
    """As sd_notify(3): once, whether anybody hears it or not."""
    address = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        sock.send(words, socket.MSG_DONTWAIT)


ROLES: dict[str, Callable[[Actor], None]] = {
    "simple": simple,
    "forking": forking,
    "oneshot": oneshot,
    "child": child,
    "start": prepare,
    "stop": ask,
    "after": clean,
    "health": check,
}

if __name__ == "__main__":
    main()
