"""One process: to launch it, to say how it ended, to signal it.

What launching costs: ``subprocess.Popen`` uses vfork(2), unless it must change user or
group. Then CPython forks, so that code with two sets of privileges never shares memory. The
child runs only C code between fork and exec, so that is as safe next to threads; it costs
a copy of the page tables. `launch` therefore asks for a change only where there is one. What
limits cost, and how they are set, is told in `limits`.
"""

import ctypes
import errno
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from cmappd.errors import LaunchError
from cmappd.system import executable
from cmappd.system.limits import prefix, room_for
from cmappd.system.proc import Identity as Identity  # part of what this module offers
from cmappd.system.proc import read_stat

HEARD = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Launch:
    """A program to execute, completely: nothing of it is inherited from this process.

    ``output`` is the descriptor for standard output and error. ``uid``, ``gid`` and
    ``groups`` belong together; None leaves them as they are, as it does the ``umask``.
    A ``command`` without a slash is looked up in the PATH of ``environment``.

    ``pid_variable`` is set, in the environment, to the pid that the program gets.

    ``limits`` are soft and hard ones by the names in `limits.RESOURCES`, -1 for unlimited; the
    others are those which this process was started with, as is a ``nice`` of None.
    """

    command: tuple[str, ...]
    directory: str | None
    environment: dict[str, str]
    uid: int | None
    gid: int | None
    groups: tuple[int, ...] | None
    umask: int | None
    output: int
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    nice: int | None = None
    no_new_privileges: bool = False
    pid_variable: str | None = None


# A shell that becomes the command. What it adds to the environment, it takes away again: dash
# PWD, and bash SHLVL too (but not _). At the gate it waits for a line.
_AT_GATE, _NAMING, _BECOME = "read -r _ || exit;", "export {}=$$;", 'unset {}; exec "$@" </dev/null'
_ADDED = ("PWD", "OLDPWD", "SHLVL")


def _shell(spec: Launch, gated: bool) -> tuple[str, ...]:
    """What comes before the command, if the command cannot be executed as it is."""
    words = [_AT_GATE] if gated else []
    if spec.pid_variable is not None:
        words.append(_NAMING.format(spec.pid_variable))
    if not words:
        return ()
    added = " ".join(name for name in _ADDED if name not in spec.environment)
    return ("/bin/sh", "-c", " ".join([*words, _BECOME.format(added)]), "/bin/sh")


@contextmanager
def held(spec: Launch) -> Iterator[Identity]:
    """Launch a program that begins at the end of the block: it can be put somewhere before.

    Where the block fails, or this process is killed in it, the program never begins: the shell
    that stands for it ends. Raises LaunchError.
    """
    reading, writing = os.pipe()
    try:
        try:
            identity = launch(spec, gate=reading)
        finally:
            os.close(reading)
        yield identity
        with suppress(BrokenPipeError):  # it was killed
            os.write(writing, b"\n")
    finally:
        os.close(writing)


def launch(spec: Launch, gate: int | None = None) -> Identity:
    """Execute a program in a session of its own; call it in the main thread.

    Returns when the exec has succeeded; with limits, a nice value, no new privileges, a variable
    for the pid or a ``gate``, a pipe from which a line is awaited, when that of a `prefix` has,
    which executes the program next. What can be foreseen of that is an error here; what cannot is
    told in its output, and by exit codes 126 and 127 (or 1). Raises LaunchError, which says what to
    repair.
    The caller must have the pid watched by the reaper before the loop runs again.
    """
    options = _account_options(spec)
    options["stdin"] = subprocess.DEVNULL if gate is None else gate
    before = _shell(spec, gated=gate is not None)
    before += prefix(spec.limits, spec.nice, spec.no_new_privileges)
    try:
        if before:
            _foresee(spec)
        with room_for(spec.limits, spec.nice):
            return _identify(_execute(spec, (*before, *spec.command), options))
    except OSError as error:
        raise LaunchError(f"cannot execute '{spec.command[0]}': {_why(spec, error)}") from error
    except (ValueError, subprocess.SubprocessError) as error:
        raise LaunchError(f"cannot execute '{spec.command[0]}': {error}") from error


def _identify(child: subprocess.Popen[bytes]) -> Identity:
    """Who was launched. Raises OSError where that cannot be seen; then nobody was."""
    # The reaper alone waits for children. A Popen that believes its child is running would
    # warn when it is deleted and wait for the pid at the next Popen, which takes the status
    # from the reaper. One that has a return code does neither.
    child.returncode = 0
    try:
        stat = read_stat(child.pid)
    except OSError:  # no free descriptor: nobody could watch it
        os.killpg(child.pid, signal.SIGKILL)
        raise
    assert stat is not None, "a child stays in /proc until it is waited for"
    return stat.identity


def _execute(
    spec: Launch, command: tuple[str, ...], options: dict[str, Any]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=spec.directory,
        env=spec.environment,
        stdout=spec.output,
        stderr=spec.output,
        start_new_session=True,
        restore_signals=True,
        close_fds=True,
        umask=-1 if spec.umask is None else spec.umask,
        **options,
    )


def _account_options(spec: Launch) -> dict[str, Any]:
    """The changes of user and group which are none are left out: they cost vfork, or need root."""
    options: dict[str, Any] = {}
    if spec.uid not in (None, os.geteuid()):
        options["user"] = spec.uid
    if spec.gid not in (None, os.getegid()):
        options["group"] = spec.gid
    if os.geteuid() != 0:
        if options:
            raise LaunchError(
                f"cannot execute '{spec.command[0]}' as uid {spec.uid}, gid {spec.gid}: "
                "cmappserver must run as root for it"
            )
    elif spec.groups is not None and set(spec.groups) != set(os.getgroups()):
        options["extra_groups"] = spec.groups
    return options


def _stop_ignoring() -> None:
    """Ignored signals stay ignored across exec, handled ones do not (execve(2)).

    So what this process was told to ignore, by nohup(1) for instance, gets a handler that
    does nothing. SIGPIPE and SIGXFSZ, which Python itself ignores, are restored by Popen.
    """
    for signum in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, _do_nothing)


def _do_nothing(signum: int, frame: object) -> None:
    pass


def _foresee(spec: Launch) -> None:
    """Raise the error of the exec that comes after that of a prefix, if there will be one.

    What is wrong with the directory Popen finds itself, before either.
    """
    if os.access(spec.directory or ".", os.X_OK):
        code = executable.foresee(_attempt(spec))
        if code is not None:
            raise OSError(code, os.strerror(code), spec.command[0])


def _attempt(spec: Launch) -> executable.Attempt:
    return executable.Attempt(
        program=spec.command[0],
        directory=spec.directory,
        path=os.pathsep.join(os.get_exec_path(spec.environment)),
        uid=os.geteuid() if spec.uid is None else spec.uid,
        gid=os.getegid() if spec.gid is None else spec.gid,
        groups=tuple(os.getgroups()) if spec.groups is None else spec.groups,
    )


def _why(spec: Launch, error: OSError) -> str:
    """What stands behind the errno of a failed launch. Looked at afterwards, so never at a cost."""
    if error.filename == spec.command[0]:
        assert error.errno is not None
        return executable.why(_attempt(spec), error.errno)
    if spec.directory is not None and error.filename in (spec.directory, None):
        match error.errno:
            case errno.ENOENT:
                return f"its directory '{spec.directory}' does not exist"
            case errno.ENOTDIR:
                return f"its directory '{spec.directory}' is not a directory"
            case errno.EACCES:
                return f"its directory '{spec.directory}' may not be entered"
    if error.errno == errno.EPERM:
        return f"it may not run as uid {spec.uid}, gid {spec.gid}"
    if error.errno == errno.E2BIG:
        return str(error.strerror)
    return f"the system cannot start a process: {error.strerror}"


def send(identity: Identity, signum: int) -> bool:
    """Signal this very process; False if it is gone.

    A zombie counts as gone: the kernel would take the signal, but nobody is there to act
    on it. Raises PermissionError where an ordinary user may not (a set-user-id program).
    """
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor holds on to whichever process has the pid now. If that is the one
        # meant, it still is when the signal is sent, whatever happens to the pid meanwhile.
        stat = read_stat(identity.pid)
        if stat is None or stat.start != identity.start or not stat.alive:
            return False
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def become_supervisor() -> None:
    """Prepare this process to launch others; call it once, before the first.

    Orphaned descendants become our children (PR_SET_CHILD_SUBREAPER(2const)), and what we were
    told to ignore, the launched do not ignore. Of the signals that were blocked when we were
    started, since a mask is inherited, those that we will hear stay blocked until there are
    handlers (`signals`); before, they would kill. They must be there before the first launch.
    """
    _stop_ignoring()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals() - HEARD)
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
