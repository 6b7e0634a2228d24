"""One process: to launch it, to say how it ended, to signal it.

What launching costs: ``subprocess.Popen`` uses vfork(2), unless it must change user or
group. Then CPython forks, so that code with two sets of privileges never shares memory. The
child runs only C code between fork and exec, so that is as safe next to threads; it costs
a copy of the page tables. `launch` therefore asks for a change only where there is one.
"""

import ctypes
import errno
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import Any

from cmappd.errors import LaunchError
from cmappd.system.proc import Identity as Identity  # part of what this module offers
from cmappd.system.proc import read_stat

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Launch:
    """A program to execute, completely: nothing of it is inherited from this process.

    ``output`` is the descriptor for standard output and error. ``uid``, ``gid`` and
    ``groups`` belong together; None leaves them as they are, as it does the ``umask``.
    A ``command`` without a slash is looked up in the PATH of ``environment``.
    """

    command: tuple[str, ...]
    directory: str | None
    environment: dict[str, str]
    uid: int | None
    gid: int | None
    groups: tuple[int, ...] | None
    umask: int | None
    output: int


def launch(spec: Launch) -> Identity:
    """Execute a program in a session of its own; call it in the main thread.

    Returns when the exec has succeeded. Raises LaunchError, which says what to repair.
    The caller must have the pid watched by the reaper before the loop runs again.
    """
    options = _account_options(spec)
    try:
        child = subprocess.Popen(
            spec.command,
            cwd=spec.directory,
            env=spec.environment,
            stdin=subprocess.DEVNULL,
            stdout=spec.output,
            stderr=spec.output,
            start_new_session=True,
            restore_signals=True,
            close_fds=True,
            umask=-1 if spec.umask is None else spec.umask,
            **options,
        )
    except OSError as error:
        raise LaunchError(f"cannot execute '{spec.command[0]}': {_why(spec, error)}") from error
    except (ValueError, subprocess.SubprocessError) as error:
        raise LaunchError(f"cannot execute '{spec.command[0]}': {error}") from error
    # The reaper alone waits for children. A Popen that believes its child is running would
    # warn when it is deleted and wait for the pid at the next Popen, which takes the status
    # from the reaper. One that has a return code does neither.
    child.returncode = 0
    stat = read_stat(child.pid)
    assert stat is not None, "a child stays in /proc until it is waited for"
    return stat.identity


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


def _why(spec: Launch, error: OSError) -> str:
    """What stands behind the errno of a failed launch. Looked at afterwards, so never at a cost."""
    if error.filename == spec.command[0]:
        return _why_not_executed(spec, error)
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
    return f"the system cannot start a process: {error.strerror}"


def _why_not_executed(spec: Launch, error: OSError) -> str:
    program = _located(spec)
    if program is None:
        if "/" in spec.command[0]:
            return "there is no such file"
        return f"it is not in PATH ({spec.environment.get('PATH', os.defpath)})"
    interpreter = _interpreter(program)
    match error.errno:
        case errno.ENOENT if interpreter:
            return f"its interpreter {interpreter!r}, named in its #! line, does not exist"
        case errno.ENOENT:
            return "the dynamic loader that it was built for does not exist"
        case errno.EACCES if os.path.isdir(program):
            return "it is a directory"
        case errno.EACCES if not os.stat(program).st_mode & 0o111:
            return "it is not executable (chmod +x)"
        case errno.EACCES if interpreter and not os.access(interpreter, os.X_OK):
            return f"its interpreter {interpreter!r}, named in its #! line, is not executable"
        case errno.EACCES:
            uid = os.geteuid() if spec.uid is None else spec.uid
            return f"uid {uid} has no permission to execute it, or to enter a directory above it"
        case errno.ENOEXEC:
            return "it is neither a program for this machine nor a script with a #! line"
    return str(error.strerror)


def _located(spec: Launch) -> str | None:
    """The file that was meant, as the failed child looked for it; None if there is none."""
    program = spec.command[0]
    path = [""] if "/" in program else os.get_exec_path(spec.environment)
    for folder in path:
        candidate = os.path.join(spec.directory or "", folder, program)
        if os.path.exists(candidate):
            return candidate
    return None


def _interpreter(program: str) -> str | None:
    """The interpreter in a script's #! line; None for anything else."""
    try:
        with open(program, "rb") as file:
            line = file.read(256).split(b"\n")[0]
    except OSError:
        return None
    words = line[2:].strip(b" \t").replace(b"\t", b" ").split(b" ")
    return os.fsdecode(words[0]) if line.startswith(b"#!") else None


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

    Orphaned descendants become our children (PR_SET_CHILD_SUBREAPER(2const)), what we were
    told to ignore, the launched do not ignore, and we hear the signals that were blocked when
    we were started: a mask is inherited, and SIGCHLD and SIGTERM would never come.
    """
    _stop_ignoring()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
