"""Notices that configuration changed on the disk, however that was done.

Editors write aside and rename, Kubernetes swaps a symbolic link above the files, package managers
replace directories. So what is watched is every directory on the way to a path, through all its
links, for the one name that leads on; and a directory of interest for all its names.

inotify(7) is used through watchfiles. RustNotify, not awatch: it needs none of anyio's worker
threads, and it can be replaced and stopped without cancelling a task.
"""

import asyncio
import contextlib
import os
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable

from watchfiles._rust_notify import RustNotify

# Milliseconds between two looks of the watching thread, which nothing else can wake. A change is
# told after one to two of them; each look costs some 40 µs of processor time.
STEP_MS = 50
# Seconds without a write after which a file counts as complete, and the longest wait for that.
SETTLE = 0.05
LONGEST_BURST = 0.75
# Seconds between two looks at all files where inotify is not to be had.
POLL_INTERVAL = 2.0
# Seconds in which close() expects its threads to end.
CLOSE_TIMEOUT = 1.0
# As many links as the kernel follows in one path (path_resolution(7)).
MAX_SYMLINKS = 40
# Directories may change between listing and watching them; how often to start over.
ARM_ATTEMPTS = 3

# Directory -> the names in it that matter; None: all.
Interest = dict[str, set[str] | None]
# Path -> what lstat(2) says that differs after a change.
Snapshot = dict[str, tuple[int, ...]]


class Watcher:
    """Tells that something about `paths` changed; never what: the reader compares.

    `paths` are absolute names of files and directories, which need not exist. `report` is told in
    one sentence when inotify fails (then files are compared every two seconds), and when it works
    again. To be made, used and closed in a running event loop.
    """

    def __init__(self, paths: Iterable[str], report: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._paths = frozenset(paths)
        self._report = report
        self._changed = asyncio.Event()
        self._closed = False
        self._threads: list[_WatchThread] = []
        self._interest: Interest = {}
        self._armed: Snapshot = {}
        self._burst: set[str] = set()
        self._burst_since = 0.0
        self._settle_timer: asyncio.TimerHandle | None = None
        self._poll_timer: asyncio.TimerHandle | None = None
        self._polled: Snapshot = {}
        self._arm()

    @property
    def polling(self) -> bool:
        """Whether inotify failed, and files are compared instead."""
        return self._poll_timer is not None

    async def changes(self) -> AsyncIterator[None]:
        """One turn for each settled burst of changes; ends with close()."""
        while True:
            await self._changed.wait()
            if self._closed:
                return
            self._changed.clear()
            yield

    def update(self, paths: Iterable[str]) -> None:
        """Watch these paths from now on; a change in between is told, not lost."""
        self._paths = frozenset(paths)
        if self._follow():
            self._changed.set()

    async def close(self) -> None:
        """End changes() and the thread."""
        self._closed = True
        self._changed.set()
        for timer in (self._settle_timer, self._poll_timer):
            if timer is not None:
                timer.cancel()
        self._stop_threads()
        deadline = self._loop.time() + CLOSE_TIMEOUT
        # A thread's end sets no asyncio event.
        while any(t.is_alive() for t in self._threads) and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(STEP_MS / 5000)

    def _follow(self) -> bool:
        """Watch other directories if others lead to our paths now; whether that was so."""
        interest = interest_in(self._paths)
        if self.polling or _directories(interest) == self._armed:
            self._interest = interest
            return False
        self._arm()
        return True

    def _arm(self) -> None:
        """Watch every directory that leads to our paths, with a new thread."""
        reason = "directories come and go"
        for _ in range(ARM_ATTEMPTS):
            self._interest = interest_in(self._paths)
            directories = _directories(self._interest)
            try:
                thread = _WatchThread(directories, self._loop, self._on_changes, self._on_failure)
                thread.start()
            except (OSError, RuntimeError) as error:
                reason = str(error)
                continue
            self._stop_threads()
            self._threads.append(thread)
            self._armed = directories
            # What appeared before it was watched would never be seen.
            if _directories(interest_in(self._paths)) == directories:
                self._end_polling()
                return
        self._fall_back(reason)

    def _end_polling(self) -> None:
        if self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_timer = None
            self._report("inotify works again")

    def _stop_threads(self) -> None:
        self._armed = {}
        for thread in self._threads:
            thread.stop.set()
        self._threads = [thread for thread in self._threads if thread.is_alive()]

    def _on_changes(self, paths: set[str]) -> None:
        """What the thread saw, on the loop."""
        concerning = {path for path in paths if self._concerns(path)}
        if not concerning or self._closed:
            return
        self._follow()
        if not self._burst:
            self._burst_since = self._loop.time()
        self._burst |= concerning
        self._settle()

    def _concerns(self, path: str) -> bool:
        directory, name = os.path.split(path)
        names = self._interest.get(directory, set())
        return names is None or name in names

    def _settle(self) -> None:
        """Tell of the burst, once nothing in it is still being written."""
        if self._settle_timer is not None:
            self._settle_timer.cancel()
            self._settle_timer = None
        wait = SETTLE - min(map(_age, self._burst))
        if wait > 0 and self._loop.time() - self._burst_since < LONGEST_BURST:
            self._settle_timer = self._loop.call_later(wait, self._settle)
            return
        self._burst.clear()
        self._changed.set()

    def _on_failure(self, thread: "_WatchThread", reason: str) -> None:
        if thread in self._threads and not thread.stop.is_set() and not self._closed:
            self._fall_back(reason)
            # What happened while the thread failed is not known.
            self._changed.set()

    def _fall_back(self, reason: str) -> None:
        """Compare files for a while; each comparison tries inotify again."""
        if self._poll_timer is None:
            self._report(
                f"cannot use inotify: {reason}; "
                f"changed files are noticed within {POLL_INTERVAL:g} s instead"
            )
            self._polled = _snapshot(self._interest)
        self._stop_threads()
        self._poll_timer = self._loop.call_later(POLL_INTERVAL, self._poll)

    def _poll(self) -> None:
        self._arm()
        now = _snapshot(self._interest)
        if now != self._polled:
            self._polled = now
            self._changed.set()


class _WatchThread(threading.Thread):
    """Waits for inotify, which watchfiles offers to a thread only, and tells the loop."""

    def __init__(
        self,
        directories: Iterable[str],
        loop: asyncio.AbstractEventLoop,
        on_changes: Callable[[set[str]], None],
        on_failure: Callable[["_WatchThread", str], None],
    ) -> None:
        super().__init__(name="cmappd-watch", daemon=True)
        self.stop = threading.Event()
        self._loop = loop
        self._on_changes = on_changes
        self._on_failure = on_failure
        # Not recursive, and no error ignored: that flag would also ignore exhausted watches.
        self._notify = RustNotify(list(directories), False, False, 0, False, False)

    def run(self) -> None:
        try:
            # No time-out: at each, watchfiles drops what came in meanwhile.
            while isinstance(found := self._notify.watch(STEP_MS, STEP_MS, 0, self.stop), set):
                self._tell(self._on_changes, {path for _, path in found})
        except RuntimeError as error:
            self._tell(self._on_failure, self, str(error))
        finally:
            self._notify.close()

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        # RuntimeError: the loop is closed, and nobody is left to be told.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)


def interest_in(paths: Iterable[str]) -> Interest:
    """The directories to watch, and for which names, to notice any change of `paths`."""
    interest: Interest = {}
    for path in paths:
        target = _walk(path, interest)
        if target is not None and os.path.isdir(target):
            interest[target] = None
            for link in _links_in(target):
                _walk(link, interest)
    return interest


def _walk(path: str, interest: Interest) -> str | None:
    """Note each name on the way to `path` through all links; where it leads, if anywhere."""
    here, links = "/", 0
    todo = path.split("/")[::-1]
    while todo:
        name = todo.pop()
        if name in ("", ".", ".."):
            here = os.path.dirname(here) if name == ".." else here
            continue
        names = interest.setdefault(here, set())
        if names is not None:
            names.add(name)
        step = os.path.join(here, name)
        try:
            if not stat.S_ISLNK(os.lstat(step).st_mode):
                here = step
                continue
            target = os.readlink(step)
        except OSError:
            return None
        links += 1
        if links > MAX_SYMLINKS:
            return None
        here = "/" if target.startswith("/") else here
        todo += target.split("/")[::-1]
    return here


def _links_in(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_symlink()]
    except OSError:
        return []


def _directories(interest: Interest) -> Snapshot:
    """The directories that can be read, which inotify requires; a replaced one differs."""
    return {path: _state(path) for path in interest if os.access(path, os.R_OK)}


def _snapshot(interest: Interest) -> Snapshot:
    """The state of everything that matters."""
    found = {}
    for directory, names in interest.items():
        with contextlib.suppress(OSError):
            for name in os.listdir(directory) if names is None else names:
                path = os.path.join(directory, name)
                found[path] = _state(path)
    return found


def _state(path: str) -> tuple[int, ...]:
    """What tells a change from lstat(2); empty: there is nothing."""
    try:
        found = os.lstat(path)
    except OSError:
        return ()
    identity = (found.st_dev, found.st_ino, found.st_mode)
    if stat.S_ISDIR(found.st_mode):
        # Its times change with every file in it, of interest or not.
        return identity
    return (*identity, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _age(path: str) -> float:
    """Seconds since a file was written or changed; infinite for what is gone."""
    try:
        # The kernel's coarse clock can be a little behind; a clock set back counts as long ago.
        age = time.time() - os.lstat(path).st_ctime
    except OSError:
        return float("inf")
    return age if age > -SETTLE else float("inf")
