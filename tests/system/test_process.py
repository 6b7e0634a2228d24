import errno
import mmap
import os
import pwd
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cmappd.core.state import ExitStatus
from cmappd.errors import LaunchError
from cmappd.system import process
from cmappd.system.proc import Identity, children, exists, read_stat
from cmappd.system.process import Launch, become_supervisor, held, launch, send

from .conftest import Scripts, open_files, until

NOBODY = pwd.getpwnam("nobody")
# Whatever holds for a launch must hold with all of them, too.
RESTRICTIONS = {"limits": {"core": (0, 0)}, "nice": 19, "no_new_privileges": True}


@pytest.fixture(params=[{}, RESTRICTIONS], ids=["plain", "restricted"])
def ways(request: pytest.FixtureRequest, scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `scripts` makes is launched plainly, and with restrictions."""
    plain = scripts.launch
    monkeypatch.setattr(
        scripts, "launch", lambda *command, **more: plain(*command, **(request.param | more))
    )


def finish(main: Identity) -> ExitStatus:
    result = os.waitid(os.P_PID, main.pid, os.WEXITED)
    assert result is not None
    if result.si_code == os.CLD_EXITED:
        return ExitStatus(code=result.si_status)
    return ExitStatus(signal=result.si_status)


def said(scripts: Scripts, spec: Launch) -> str:
    """What a program prints, once it has ended well."""
    path = scripts.folder / "said"
    with path.open("wb") as file:
        changed = {name: getattr(spec, name) for name in Launch.__slots__}
        main = launch(Launch(**(changed | {"output": file.fileno()})))
        assert finish(main) == ExitStatus(code=0)
    return path.read_text()


def refusal(spec: Launch) -> str:
    with pytest.raises(LaunchError) as caught:
        launch(spec)
    return str(caught.value)


def written(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_identity_is_pid_and_start_time(ways: None, scripts: Scripts) -> None:
    main = launch(scripts.sh("exit 7"))
    stat = read_stat(main.pid)
    assert stat is not None
    assert (stat.identity, stat.ppid, stat.session) == (main, os.getpid(), main.pid)
    assert finish(main) == ExitStatus(code=7)
    assert read_stat(main.pid) is None


def test_nothing_is_inherited(ways: None, scripts: Scripts) -> None:
    os.environ["CMAPPD_TEST_LEAK"] = "1"
    leak = os.dup(scripts.output)
    os.set_inheritable(leak, True)
    try:
        text = "import os; print(dict(os.environ), sorted(os.listdir('/proc/self/fd')))"
        spec = scripts.python(text, environment={"A": "b", "LC_ALL": "C.UTF-8"})
        heard = said(scripts, spec)
    finally:
        os.close(leak)
        del os.environ["CMAPPD_TEST_LEAK"]
    assert heard == "{'A': 'b', 'LC_ALL': 'C.UTF-8'} ['0', '1', '2', '3']\n"  # 3: listdir's own


def test_a_variable_holds_its_own_pid_and_nothing_else_is_added(
    ways: None, scripts: Scripts
) -> None:
    text = "import os; print(os.environ.pop('MINE') == str(os.getpid()), dict(os.environ))"
    given = {"A": "b", "LC_ALL": "C.UTF-8"}
    spec = scripts.python(text, environment=given, pid_variable="MINE")
    assert said(scripts, spec) == f"True {given}\n"


def test_signals_of_the_child_are_clean(ways: None, scripts: Scripts) -> None:
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGQUIT})
    old_handlers = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGHUP, signal.SIGQUIT)}
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    become_supervisor()  # as the server does once, at its start
    try:
        heard = said(scripts, scripts.launch("/bin/grep", "^Sig[BI]", "/proc/self/status"))
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()  # nor are we deaf
        os.kill(os.getpid(), signal.SIGHUP)  # what was ignored has no effect here, still
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
        for signum, handler in old_handlers.items():
            signal.signal(signum, handler)
    # Signals 32 and 33 are the C library's own; no program can change what is done with them.
    own = 0b11 << 31
    assert [int(line.split()[1], 16) & ~own for line in heard.splitlines()] == [0, 0]


def test_directory_umask_and_session(ways: None, scripts: Scripts) -> None:
    spec = scripts.sh("pwd; umask; read nothing || echo no input", umask=0o27, directory="/usr")
    assert said(scripts, spec) == "/usr\n0027\nno input\n"


def test_the_path_of_the_new_environment_counts(ways: None, scripts: Scripts) -> None:
    written(scripts.folder / "only-here", "#!/bin/sh\necho found\n")
    spec = scripts.launch("only-here", environment={"PATH": str(scripts.folder)})
    assert said(scripts, spec) == "found\n"


@pytest.mark.root
def test_another_user_with_groups(ways: None, scripts: Scripts) -> None:
    spec = scripts.sh("id -u; id -g; id -G", uid=NOBODY.pw_uid, gid=NOBODY.pw_gid, groups=(1, 7))
    assert said(scripts, spec).split("\n")[:2] == [str(NOBODY.pw_uid), str(NOBODY.pw_gid)]
    assert set(said(scripts, spec).split("\n")[2].split()) == {str(NOBODY.pw_gid), "1", "7"}


@pytest.mark.root
def test_permission_for_that_user(ways: None, scripts: Scripts) -> None:
    scripts.folder.chmod(0o755)
    program = written(scripts.folder / "mine", "#!/bin/sh\n", 0o700)
    spec = scripts.launch(program, uid=NOBODY.pw_uid, gid=NOBODY.pw_gid, groups=())
    assert refusal(spec) == (
        f"cannot execute '{program}': uid {NOBODY.pw_uid} has no permission to execute it, "
        "or to enter a directory above it"
    )


def test_own_account_needs_no_privilege(ways: None, scripts: Scripts) -> None:
    groups = tuple(os.getgroups())
    spec = scripts.sh("id -u", uid=os.geteuid(), gid=os.getegid(), groups=groups)
    assert said(scripts, spec) == f"{os.geteuid()}\n"


def faults_after(start: Callable[[], int]) -> int:
    """Page faults from writing to 1,000 pages after a child was started.

    After fork(2) each first write to a page is one, as the page is copied; after vfork(2) none.
    """
    with mmap.mmap(-1, 1000 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE) as pages:
        pages.madvise(mmap.MADV_NOHUGEPAGE)
        offsets = range(0, len(pages), mmap.PAGESIZE)
        for offset in offsets:
            pages[offset] = 1
        pid = start()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for offset in offsets:
            pages[offset] = 2
        after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    os.waitpid(pid, 0)
    return after - before


def forked() -> int:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    os.kill(pid, signal.SIGKILL)
    return pid


def test_vfork_is_used_for_ones_own_account(scripts: Scripts) -> None:
    groups = tuple(os.getgroups())
    spec = scripts.launch(
        "/bin/true", directory="/", umask=0, uid=os.geteuid(), gid=os.getegid(), groups=groups
    )
    assert faults_after(forked) >= 1000
    assert faults_after(lambda: launch(spec).pid) < 500


@pytest.mark.parametrize("program", ["/no/such/file", "./nothing-here", "/etc/passwd/x"])
def test_missing_executable(ways: None, scripts: Scripts, program: str) -> None:
    message = f"cannot execute '{program}': there is no such file"
    assert refusal(scripts.launch(program)) == message


def test_missing_in_path(ways: None, scripts: Scripts) -> None:
    message = "cannot execute 'nix': it is not in PATH (/a:/b)"
    assert refusal(scripts.launch("nix", environment={"PATH": "/a:/b"})) == message


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("#!/no/sh -e\n", 0o755, "its interpreter '/no/sh', named in its #! line, does not exist"),
        (
            "#! /bin/sh\r\n",
            0o755,
            r"its interpreter '/bin/sh\r', named in its #! line, does not exist",
        ),
        (
            "#!/etc/passwd\n",
            0o755,
            "its interpreter '/etc/passwd', named in its #! line, is not executable",
        ),
        ("#!/bin/sh\n", 0o644, "it is not executable (chmod +x)"),
        (
            "echo no shebang\n",
            0o755,
            "it is neither a program for this machine nor a script with a #! line",
        ),
    ],
)
def test_what_cannot_be_executed(
    ways: None, scripts: Scripts, text: str, mode: int, why: str
) -> None:
    program = written(scripts.folder / "program", text, mode)
    assert refusal(scripts.launch(program)) == f"cannot execute '{program}': {why}"
    relative = refusal(scripts.launch("./program", directory=str(scripts.folder)))
    assert relative == f"cannot execute './program': {why}"


def test_a_directory_is_not_a_program(ways: None, scripts: Scripts) -> None:
    assert refusal(scripts.launch("/usr")) == "cannot execute '/usr': it is a directory"


def test_arguments_that_the_system_cannot_take(ways: None, scripts: Scripts) -> None:
    assert refusal(scripts.launch("/bin/echo", "a\0b")).endswith("embedded null byte")
    too_long = f"cannot execute '/bin/echo': {os.strerror(errno.E2BIG)}"
    assert refusal(scripts.launch("/bin/echo", "x" * (1 << 20))) == too_long


def test_directory_missing_or_none(ways: None, scripts: Scripts) -> None:
    begin = "cannot execute '/bin/true': its directory "
    missing = refusal(scripts.launch("/bin/true", directory="/no/such"))
    assert missing == begin + "'/no/such' does not exist"
    relative = refusal(scripts.launch("./true", directory="/no/such"))
    assert relative == missing.replace("/bin/true", "./true")
    file = refusal(scripts.launch("/bin/true", directory="/etc/passwd"))
    assert file == begin + "'/etc/passwd' is not a directory"


AS_ORDINARY_USER = """
import os, sys
from cmappd.errors import LaunchError
from cmappd.system.process import Launch, launch
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({gid}); os.setuid({uid})
def show(uid, directory):
    try:
        launch(Launch(("/bin/true",), directory, {{}}, uid, None, None, None, 1))
    except LaunchError as error:
        print(error, flush=True)
show(None, {closed!r})
show(0, "/")
show(os.geteuid(), "/")
print(os.wait()[1])
"""


def test_as_an_ordinary_user(scripts: Scripts) -> None:
    closed = scripts.folder / "closed"
    closed.mkdir(mode=0)
    code = AS_ORDINARY_USER.format(uid=NOBODY.pw_uid, gid=NOBODY.pw_gid, closed=str(closed))
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == [
        f"cannot execute '/bin/true': its directory '{closed}' may not be entered",
        "cannot execute '/bin/true' as uid 0, gid None: cmappserver must run as root for it",
        "0",
    ]


def test_a_failed_launch_leaves_nothing(ways: None, scripts: Scripts) -> None:
    before = open_files()
    for _ in range(10):
        refusal(scripts.launch("/no/such/file"))
    assert open_files() == before
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)


def test_the_status_is_left_to_the_reaper(scripts: Scripts) -> None:
    """Popen waits for its forgotten children at the next Popen: not for ours."""
    first = launch(scripts.sh("exit 5"))
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    second = launch(scripts.sh("exit 6"))
    assert finish(first) == ExitStatus(code=5)
    assert finish(second) == ExitStatus(code=6)


def test_send_reaches_this_very_process_only(scripts: Scripts) -> None:
    main = launch(scripts.launch("/bin/sleep", "60"))
    reused = Identity(main.pid, main.start - 1)
    assert not exists(reused)
    assert not send(reused, signal.SIGKILL)
    assert read_stat(main.pid) is not None
    assert send(main, signal.SIGTERM)
    os.waitid(os.P_PID, main.pid, os.WEXITED | os.WNOWAIT)
    assert exists(main)
    assert not send(main, signal.SIGTERM), "a zombie is gone"
    assert finish(main) == ExitStatus(signal=signal.SIGTERM)
    assert not send(main, signal.SIGTERM)
    assert not exists(main)


@pytest.mark.parametrize("name", ["a) (b", ") R 1 1 1", "(((", "x y\nz"])
def test_names_do_not_confuse_the_reading(scripts: Scripts, name: str) -> None:
    program = scripts.folder / name
    shutil.copy("/bin/sleep", program)
    main = launch(scripts.launch(str(program), "60"))
    stat = read_stat(main.pid)
    assert stat is not None
    assert stat == (main.pid, os.getpid(), main.pid, main.start, True, True, True)
    assert send(main, signal.SIGKILL)
    finish(main)


def test_a_main_thread_that_ended_is_no_zombie(scripts: Scripts) -> None:
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    main = launch(scripts.python(code))

    def looks_dead() -> bool:
        return b") Z " in Path(f"/proc/{main.pid}/stat").read_bytes()

    until(looks_dead)
    stat = read_stat(main.pid)
    assert stat is not None
    assert stat.alive
    assert send(main, signal.SIGKILL)
    finish(main)


# At the gate -------------------------------------------------------------------------


def reaped(pid: int) -> ExitStatus:
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return ExitStatus(code=code) if code >= 0 else ExitStatus(signal=-code)


def test_a_program_that_is_held_begins_at_the_end_of_the_block(
    scripts: Scripts, tmp_path: Path
) -> None:
    with held(scripts.sh(f"touch {tmp_path}/begun; exit 3")) as process:
        until(lambda: "S" in Path(f"/proc/{process.pid}/stat").read_text().split(") ")[1][:1])
        assert not (tmp_path / "begun").exists()
    assert reaped(process.pid) == ExitStatus(code=3)
    assert (tmp_path / "begun").exists()


def test_a_program_that_is_held_never_begins_where_the_block_does_not_come_to_its_end(
    scripts: Scripts, tmp_path: Path
) -> None:
    """As when cmappserver is killed in it: the other end of the pipe is closed."""
    with (
        pytest.raises(ZeroDivisionError),
        held(scripts.sh(f"touch {tmp_path}/begun; exit 3")) as process,
    ):
        raise ZeroDivisionError
    assert reaped(process.pid).code not in (0, 3)
    assert not (tmp_path / "begun").exists()


def test_who_cannot_be_seen_after_the_launch_is_no_more(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starved(_pid: int) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = set(children(os.getpid()))
    with monkeypatch.context() as patch:
        patch.setattr(process, "read_stat", starved)
        with pytest.raises(LaunchError, match="Too many open files"):
            launch(scripts.launch("/bin/sleep", "600"))
    (pid,) = set(children(os.getpid())) - before
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
