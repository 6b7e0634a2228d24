"""What an application may use: resource limits, the nice value, no new privileges.

All of it must hold from the application's first instruction on. Popen's ``preexec_fn`` would
do that, but it forks the whole of this process next to its threads; prlimit(2) on the child
comes too late; and to put our own limits where the child's should be, around the vfork, does
not work: as, fsize or nproc would strike ourselves, and an ordinary user gets no hard limit
back. So small programs stand before the command, each of which sets something and becomes the
next by exec: nice(1), and setpriv(1) and prlimit(1) of util-linux. Only who configures
something pays for it. The pid and its start time are the application's from the beginning.

These programs run as the application's user, as its environment is theirs: root would obey
LD_PRELOAD in it. What only root may do is therefore done here before the fork, in `room_for`.
"""

import contextlib
import os
import resource
import shutil
from collections.abc import Iterator, Mapping

from cmappd.errors import LaunchError

UNLIMITED = resource.RLIM_INFINITY  # -1
# As prlimit(1) and the Limit... settings of systemd.exec(5) call them; units as in getrlimit(2).
# Values are from 0 to 2**63 - 1, or UNLIMITED.
RESOURCES: Mapping[str, int] = {
    "as": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "locks": 10,  # RLIMIT_LOCKS in asm-generic/resource.h, which Python does not name
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "rttime": resource.RLIMIT_RTTIME,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}
_PACKAGES = {"nice": "coreutils", "prlimit": "util-linux", "setpriv": "util-linux"}
_SPARE = 8  # Popen takes three; the others are for threads that open something meanwhile

_started_with: int | None = None
_spare: list[int] = []


# Our own open files ------------------------------------------------------------------


def raise_open_files(started_with: int | None = None) -> None:
    """Raise our own soft limit of open files to the hard one; call it once, early.

    ``started_with`` is the soft limit of before, where that has been raised already, by the
    program that was in our place.

    What is launched later gets the soft limit of before, usually 1024: select(2) breaks with
    descriptors above that, and some programs close one by one all that a limit allows.
    """
    global _started_with
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    _started_with = soft if started_with is None else started_with
    if _started_with != hard:
        _hold_spare()
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_files_at_the_start() -> int | None:
    """The soft limit that what is launched gets; None before `raise_open_files`."""
    return _started_with


def check_spare_descriptors() -> None:
    """Raise OSError where a few more files cannot be opened (EMFILE, or ENFILE of all)."""
    opened: list[int] = []
    try:
        for _ in range(_SPARE // 2):
            opened += os.pipe2(os.O_CLOEXEC)
    finally:
        for descriptor in opened:
            os.close(descriptor)


@contextlib.contextmanager
def _open_files_as_at_the_start() -> Iterator[None]:
    """Within, the soft limit of open files is what it was before `raise_open_files`.

    Files that are open stay so, whatever their number. New ones need a number below the
    limit; some are therefore held in reserve, and free within.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _started_with is None or _started_with >= soft:
        yield
        return
    while _spare:
        os.close(_spare.pop())
    resource.setrlimit(resource.RLIMIT_NOFILE, (_started_with, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        _hold_spare()


def _hold_spare() -> None:
    with contextlib.suppress(OSError):  # what there is must do, and next time there may be more
        _spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        while len(_spare) < _SPARE:
            _spare.append(os.dup(_spare[0]))


# Before the fork ---------------------------------------------------------------------


@contextlib.contextmanager
def room_for(limits: Mapping[str, tuple[int, int]], nice: int | None) -> Iterator[None]:
    """Within, a child is born with limits from which it needs no privileges to get to its own.

    A hard limit that must be raised is raised in this process, a nice value that must be
    lowered is lowered in this thread, and both are put back afterwards. So it is the kernel
    that says what may not be: LaunchError then.
    """
    with contextlib.ExitStack() as stack:
        for name, (_soft, hard) in limits.items():
            stack.enter_context(_hard_at_least(name, hard))
        if nice is not None:
            stack.enter_context(_nice_at_most(nice))
        stack.enter_context(_open_files_as_at_the_start())
        yield


@contextlib.contextmanager
def _hard_at_least(name: str, hard: int) -> Iterator[None]:
    soft, own = resource.getrlimit(RESOURCES[name])
    if not _exceeds(hard, own):
        yield
        return
    try:
        resource.setrlimit(RESOURCES[name], (soft, hard))
    except ValueError as error:  # which is how Python says EPERM here
        raise LaunchError(f"cannot set limit {_named(name, hard)}: {_why(name, own)}") from error
    try:
        yield
    finally:
        resource.setrlimit(RESOURCES[name], (soft, own))


def _exceeds(one: int, other: int) -> bool:
    return other != UNLIMITED and (one == UNLIMITED or one > other)


def _named(name: str, value: int) -> str:
    return f"{name} to {'unlimited' if value == UNLIMITED else value}"


def _why(name: str, own: int) -> str:
    why = (
        f"cmappserver's own hard limit is {own}, and it may not exceed that "
        f"without CAP_SYS_RESOURCE; start it with a higher one (Limit{name.upper()}= in systemd)"
    )
    if name == "nofile":
        with open("/proc/sys/fs/nr_open", "rb") as file:
            why += f", up to fs.nr_open, which is {int(file.read())}"
    return why


@contextlib.contextmanager
def _nice_at_most(nice: int) -> Iterator[None]:
    own = _own_nice()
    if nice >= own:
        yield
        return
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except PermissionError as error:
        raise LaunchError(
            f"cannot set nice to {nice}: cmappserver's own value is {own}, and it may not go "
            "below that without CAP_SYS_NICE; start it as root, or with LimitNICE= in systemd"
        ) from error
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, own)


def _own_nice() -> int:
    """Of this thread, which is what a child inherits: Linux has one for each (sched(7))."""
    return os.getpriority(os.PRIO_PROCESS, 0)


# After the fork ----------------------------------------------------------------------


def prefix(
    limits: Mapping[str, tuple[int, int]], nice: int | None, no_new_privileges: bool
) -> tuple[str, ...]:
    """The words to put before a command that is launched within `room_for`; often none.

    The limits come last, so that they strike the application alone. Raises LaunchError when
    a program that is needed is not installed, or a soft limit exceeds its hard one.
    """
    words: list[str] = []
    steps = 0 if nice is None else nice - min(nice, _own_nice())
    if steps:
        words += [_tool("nice"), "-n", str(steps), "--"]
    if no_new_privileges:
        words += [_tool("setpriv"), "--no-new-privs", "--"]
    if limits:
        words += [_tool("prlimit"), *(_option(name, *limits[name]) for name in limits), "--"]
    return tuple(words)


def _option(name: str, soft: int, hard: int) -> str:
    if _exceeds(soft, hard):
        raise LaunchError(f"cannot set limit {_named(name, soft)}: its hard limit is {hard}")
    values = ("unlimited" if value == UNLIMITED else str(value) for value in (soft, hard))
    return f"--{name}={':'.join(values)}"


def _tool(name: str) -> str:
    path = shutil.which(name, path=os.defpath)
    if path is None:
        raise LaunchError(
            f"cannot find {name}(1) in {os.defpath}, which sets what is configured; "
            f"install the package {_PACKAGES[name]}"
        )
    return path
