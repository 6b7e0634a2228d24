"""Real processes that say under which limits they run, and what the kernel refuses."""

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmappd.core.config.values import LIMITS
from cmappd.system.limits import RESOURCES, UNLIMITED, prefix
from cmappd.system.process import launch, send

from .conftest import Scripts, open_files, until
from .test_process import NOBODY, finish, refusal, said

# What /proc/PID/limits calls them (fs/proc/base.c).
LABELS = {
    "as": "Max address space",
    "core": "Max core file size",
    "cpu": "Max cpu time",
    "data": "Max data size",
    "fsize": "Max file size",
    "locks": "Max file locks",
    "memlock": "Max locked memory",
    "msgqueue": "Max msgqueue size",
    "nice": "Max nice priority",
    "nofile": "Max open files",
    "nproc": "Max processes",
    "rss": "Max resident set",
    "rtprio": "Max realtime priority",
    "rttime": "Max realtime timeout",
    "sigpending": "Max pending signals",
    "stack": "Max stack size",
}
# Enough of each to run cat(1).
LOWER = dict.fromkeys(RESOURCES, (2**40, 2**41)) | {
    "core": (0, 1000),
    "cpu": (100, 200),
    "memlock": (0, 1000),
    "msgqueue": (100, 200),
    "nice": (0, 0),
    "nofile": (40, 50),
    "nproc": (5000, 6000),
    "rtprio": (0, 0),
    "sigpending": (100, 200),
    "stack": (2**22, 2**23),
}


def limits_in(text: str) -> dict[str, tuple[int, int]]:
    """What /proc/PID/limits says."""
    found = {}
    for name, label in LABELS.items():
        line = next(line for line in text.splitlines() if line.startswith(label))
        soft, hard = line.removeprefix(label).split()[:2]
        found[name] = (_number(soft), _number(hard))
    return found


def _number(text: str) -> int:
    return UNLIMITED if text == "unlimited" else int(text)


def own_limits() -> dict[str, tuple[int, int]]:
    return limits_in(Path("/proc/self/limits").read_text())


def limits_under(scripts: Scripts, limits: Mapping[str, tuple[int, int]]) -> object:
    spec = scripts.launch("/bin/cat", "/proc/self/limits", limits=limits)
    return limits_in(said(scripts, spec))


def test_the_configuration_has_the_same_names() -> None:
    assert set(LIMITS) == RESOURCES.keys()


def test_all_limits_hold(scripts: Scripts) -> None:
    before = own_limits()
    assert limits_under(scripts, LOWER) == LOWER
    assert own_limits() == before


def test_each_limit_changes_nothing_else(scripts: Scripts) -> None:
    own = own_limits()
    for name, values in LOWER.items():
        assert limits_under(scripts, {name: values}) == own | {name: values}


def test_unlimited(scripts: Scripts) -> None:
    own = own_limits()
    assert own["stack"][0] != UNLIMITED == own["stack"][1], "or this test shows nothing"
    wanted = {"stack": (UNLIMITED, UNLIMITED)}
    assert limits_under(scripts, wanted) == own | wanted


def test_a_soft_limit_above_the_hard_one(scripts: Scripts) -> None:
    for soft in (11, UNLIMITED):
        named = "unlimited" if soft == UNLIMITED else soft
        assert refusal(scripts.launch("/bin/true", limits={"nofile": (soft, 10)})) == (
            f"cannot set limit nofile to {named}: its hard limit is 10"
        )


# In a process of its own, because what these change of it cannot be taken back -----------

ACCOUNT: dict[str, Any] = {"uid": NOBODY.pw_uid, "gid": NOBODY.pw_gid, "groups": ()}
PRELUDE = """
import os, resource, sys, threading
from cmappd.errors import LaunchError
from cmappd.system.limits import raise_open_files
from cmappd.system.process import Launch, launch
FILES = resource.RLIMIT_NOFILE
def show(*command, uid=None, gid=None, groups=None, **more):
    try:
        main = launch(
            Launch(command, None, {"PATH": "/usr/bin:/bin"}, uid, gid, groups, None, 1, **more)
        )
    except LaunchError as error:
        print(error, flush=True)
    else:
        assert os.waitpid(main.pid, 0)[1] == 0
"""


def alone(code: str, *options: str, ordinary: bool = False) -> str:
    """What the code prints, run under the options of prlimit(1), and as an ordinary user."""
    become = ""
    if ordinary and os.geteuid() == 0:  # by itself: root's Python may not be readable to others
        become = f"os.setgroups([]); os.setgid({NOBODY.pw_gid}); os.setuid({NOBODY.pw_uid})\n"
    command = ["/usr/bin/prlimit", *options, sys.executable, "-c", PRELUDE + become + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_an_ordinary_user_may_lower_everything() -> None:
    limits = limits_in(
        alone(f"show('/bin/cat', '/proc/self/limits', limits={LOWER})", ordinary=True)
    )
    assert limits == LOWER


def test_an_ordinary_user_may_not_raise_a_hard_limit() -> None:
    code = """
for value in (128, 129, -1):
    show("/bin/sh", "-c", "ulimit -Hn", limits={"nofile": (64, value)})
print(resource.getrlimit(FILES))
"""
    begin = "cannot set limit nofile to "
    end = (
        ": cmappserver's own hard limit is 128, and it may not exceed that without "
        "CAP_SYS_RESOURCE; start it with a higher one (LimitNOFILE= in systemd), up to "
        f"fs.nr_open, which is {nr_open()}"
    )
    assert alone(code, "--nofile=64:128", ordinary=True).splitlines() == [
        "128",
        f"{begin}129{end}",
        f"{begin}unlimited{end}",
        "(64, 128)",
    ]


@pytest.mark.root
def test_root_may_raise_a_hard_limit_for_another_user() -> None:
    code = f"""
show("/bin/sh", "-c", "ulimit -Sn; ulimit -Hn", limits={{"nofile": (64, 129)}},
     **{ACCOUNT})
print(resource.getrlimit(FILES))
"""
    heard = alone(code, "--nofile=64:128").splitlines()
    assert heard[-1] == "(64, 128)"
    if capable(24):  # CAP_SYS_RESOURCE, which containers withhold from root
        assert heard[:-1] == ["64", "129"]
    else:
        assert heard[0].startswith("cannot set limit nofile to 129: cmappserver's own hard limit")


@pytest.mark.root
def test_not_even_root_exceeds_what_the_system_allows(scripts: Scripts) -> None:
    value = nr_open() + 1
    said_why = refusal(scripts.launch("/bin/true", limits={"nofile": (10, value)}))
    assert said_why.startswith(f"cannot set limit nofile to {value}: ")
    assert said_why.endswith(f"up to fs.nr_open, which is {nr_open()}")


def nr_open() -> int:
    return int(Path("/proc/sys/fs/nr_open").read_text())


def capable(number: int) -> bool:
    """Whether this process has a capability (linux/capability.h)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(line for line in lines if line.startswith("CapEff:")).split()[1]
    return bool(int(effective, 16) >> number & 1)


# Our own open files ----------------------------------------------------------------------

MANY_FILES = """
raise_open_files()
held = [os.dup(1) for _ in range(200)]
os.set_inheritable(held[-1], True)
"""


def test_the_limit_of_open_files_is_that_of_the_start() -> None:
    code = """
for _ in range(5):
    show("/bin/sh", "-c", "echo $(ulimit -Sn) $(ulimit -Hn)")
    show("/bin/sh", "-c", "echo $(ulimit -Sn) $(ulimit -Hn)", nice=19)
    show("/bin/ls", "/proc/self/fd")
print(resource.getrlimit(FILES))
"""
    heard = alone(MANY_FILES + code, "--nofile=64:4096").split("\n")
    assert heard == 5 * ["64 4096", "64 4096", "0", "1", "2", "3"] + ["(4096, 4096)", ""]


@pytest.mark.root
def test_it_is_so_for_another_user() -> None:
    code = f"""
show("/bin/sh", "-c", "ulimit -Sn; ulimit -Hn; id -u", **{ACCOUNT})
show("/bin/ls", "/proc/self/fd", **{ACCOUNT})
"""
    heard = alone(MANY_FILES + code, "--nofile=64:4096").split()
    assert heard == ["64", "4096", str(NOBODY.pw_uid), "0", "1", "2", "3"]


def test_there_is_room_for_a_launch_whenever_files_were_opened() -> None:
    code = """
for _ in range(5):
    show("/bin/sh", "-c", "ulimit -Sn")
    held += [os.dup(1) for _ in range(50)]
"""
    assert alone(MANY_FILES + code, "--nofile=64:4096") == "64\n" * 5


def test_a_configured_limit_of_open_files_wins() -> None:
    code = "show('/bin/sh', '-c', 'ulimit -Sn; ulimit -Hn', limits={'nofile': (3000, 4000)})"
    assert alone(MANY_FILES + code, "--nofile=64:4096") == "3000\n4000\n"


def test_a_limit_that_was_not_raised_stays() -> None:
    code = "raise_open_files(); show('/bin/sh', '-c', 'ulimit -Sn; ulimit -Hn')"
    assert alone(code, "--nofile=64:64") == "64\n64\n"


def test_a_failed_launch_puts_our_limits_back() -> None:
    code = """
for _ in range(30):
    show("/no/such/file")
show("/bin/echo", "done")
print(resource.getrlimit(FILES))
"""
    heard = alone(MANY_FILES + code, "--nofile=64:4096").splitlines()
    missing = "cannot execute '/no/such/file': there is no such file"
    assert heard == 30 * [missing] + ["done", "(4096, 4096)"]


def test_threads_can_open_files_during_launches() -> None:
    code = """
ended = threading.Event()
def busy():
    while not ended.is_set():
        os.close(os.open("/dev/null", os.O_RDONLY))
thread = threading.Thread(target=busy)
thread.start()
for _ in range(50):
    show("/bin/true")
print(thread.is_alive())
ended.set()
thread.join()
"""
    assert alone(MANY_FILES + code, "--nofile=64:4096") == "True\n"


# The nice value, and no new privileges -----------------------------------------------------


def own_nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def test_nice_is_absolute(scripts: Scripts) -> None:
    own = own_nice()
    for value in {own, min(own + 3, 19), 19}:
        assert said(scripts, scripts.launch("/usr/bin/nice", nice=value)) == f"{value}\n"
    assert said(scripts, scripts.launch("/usr/bin/nice")) == f"{own}\n"
    assert own_nice() == own


@pytest.mark.root
def test_root_may_lower_it_for_another_user(scripts: Scripts) -> None:
    own = own_nice()
    spec = scripts.launch("/usr/bin/nice", nice=-7, **ACCOUNT)
    if capable(23):  # CAP_SYS_NICE, which containers withhold from root
        assert said(scripts, spec) == "-7\n"
    else:
        assert refusal(spec).startswith("cannot set nice to -7: ")
    assert own_nice() == own


def test_an_ordinary_user_may_not_lower_it() -> None:
    code = "show('/bin/true', nice=-20); show('/usr/bin/nice', nice=19)"
    assert alone(code, "--nice=0:0", ordinary=True).splitlines() == [
        f"cannot set nice to -20: cmappserver's own value is {own_nice()}, and it may not go "
        "below that without CAP_SYS_NICE; start it as root, or with LimitNICE= in systemd",
        "19",
    ]


def test_no_new_privileges(scripts: Scripts) -> None:
    command = ("/bin/grep", "NoNewPrivs", "/proc/self/status")
    own = Path("/proc/self/status").read_text().partition("NoNewPrivs:")[2].split()[0]
    assert said(scripts, scripts.launch(*command)).split()[1] == own
    spec = scripts.launch(*command, no_new_privileges=True)
    assert said(scripts, spec).split()[1] == "1"


# What stands before the command ------------------------------------------------------------

ALL: dict[str, Any] = {
    "limits": {"core": (0, 0), "fsize": (2**40, UNLIMITED)},
    "nice": 19,
    "no_new_privileges": True,
}
ODD_WORDS = ("-x", "--", "", "a b", "$HOME", "`id`", "--nofile=1", "a\nb", "'\"", "é")


def test_nothing_stands_before_it_unless_configured() -> None:
    assert prefix({}, None, False) == ()
    assert prefix({}, own_nice(), False) == ()


def test_the_command_is_executed_word_for_word(scripts: Scripts) -> None:
    code = "import sys; sys.stdout.write(open('/proc/self/cmdline').read())"
    command = (sys.executable, "-S", "-E", "-c", code, *ODD_WORDS)
    spec = scripts.launch(*command, environment={"LC_ALL": "C.UTF-8"}, **ALL)
    assert said(scripts, spec).split("\0") == [*command, ""]


@pytest.mark.parametrize("name", ["only-here", "--help"])
@pytest.mark.parametrize("key", ALL)
def test_its_own_name_is_kept(scripts: Scripts, key: str, name: str) -> None:
    (scripts.folder / name).symlink_to("/bin/cat")
    environment = {"PATH": str(scripts.folder)}
    more: dict[str, Any] = {key: ALL[key]}
    spec = scripts.launch(name, "/proc/self/cmdline", environment=environment, **more)
    assert said(scripts, spec) == f"{name}\0/proc/self/cmdline\0"


def test_the_process_is_the_applications_own(scripts: Scripts) -> None:
    main = launch(scripts.launch("/bin/sleep", "60", **ALL))
    until(lambda: Path(f"/proc/{main.pid}/comm").read_text() == "sleep\n")
    stat = Path(f"/proc/{main.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(stat[19]) == main.start
    assert int(stat[1]) == os.getpid()
    assert Path(f"/proc/{main.pid}/task/{main.pid}/children").read_text() == ""
    assert send(main, 15)
    assert finish(main).signal == 15


def uids_of_each_exec(scripts: Scripts, **more: Any) -> list[str]:
    """The dynamic loader prints the uid of every program that is executed (ld.so(8))."""
    environment = {"LD_SHOW_AUXV": "1"}
    heard = said(scripts, scripts.launch("/bin/true", environment=environment, **more))
    return [line.split()[1] for line in heard.splitlines() if line.startswith("AT_EUID")]


@pytest.mark.root
def test_root_obeys_no_environment_of_an_application(scripts: Scripts) -> None:
    own = str(NOBODY.pw_uid)
    assert uids_of_each_exec(scripts, **ACCOUNT) == [own]
    assert uids_of_each_exec(scripts, **ACCOUNT, **ALL) == [own] * 4


@pytest.mark.root
def test_a_limit_of_processes_does_not_prevent_the_launch(scripts: Scripts) -> None:
    path = scripts.folder / "heard"
    with path.open("wb") as file:
        spec = scripts.sh("echo started; (true)", limits={"nproc": (0, 0)}, **ACCOUNT)
        main = launch(replace(spec, output=file.fileno()))
    assert finish(main).code != 0
    assert path.read_text().startswith("started\n")
    assert "fork" in path.read_text()


@pytest.mark.parametrize(
    ("more", "tool", "package"),
    [
        ({"limits": {"core": (0, 0)}}, "prlimit", "util-linux"),
        ({"nice": 19}, "nice", "coreutils"),
        ({"no_new_privileges": True}, "setpriv", "util-linux"),
    ],
)
def test_a_program_that_is_not_installed(
    scripts: Scripts,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
    tool: str,
    package: str,
) -> None:
    monkeypatch.setattr(os, "defpath", str(scripts.folder))
    assert refusal(scripts.launch("/bin/true", **more)) == (
        f"cannot find {tool}(1) in {scripts.folder}, which sets what is configured; "
        f"install the package {package}"
    )


def test_what_was_not_foreseen_is_in_the_output(scripts: Scripts) -> None:
    inner, outer, path = (scripts.folder / name for name in ("inner", "outer", "heard"))
    for program, interpreter in ((inner, "/no/sh"), (outer, inner)):
        program.write_text(f"#!{interpreter}\n")
        program.chmod(0o755)
    with path.open("wb") as file:
        main = launch(scripts.launch(str(outer), output=file.fileno(), **ALL))
    assert finish(main).code == 127
    assert f"failed to execute {outer}: No such file or directory" in path.read_text()


def test_no_descriptor_is_left(scripts: Scripts) -> None:
    before = open_files()
    limits_under(scripts, LOWER)
    refusal(scripts.launch("/bin/true", limits={"nofile": (0, nr_open() + 1)}))
    assert open_files() == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == own_limits()["nofile"][1]
