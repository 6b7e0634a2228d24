"""Cgroups: what /proc says of them from its texts, everything else with those of this machine."""

import contextlib
import ctypes
import fcntl
import os
import pwd
import re
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmappd.errors import CmappdError, ConfigError
from cmappd.system import cgroup as cgroup_module
from cmappd.system import cgroupfs
from cmappd.system.cgroup import Cgroup, Resources, below, read, write
from cmappd.system.cgroupfs import Membership, Mount, folders, parse_membership, parse_mounts
from cmappd.system.hierarchy import Hierarchy, open_hierarchy
from cmappd.system.proc import children, last_pid, read_stat
from cmappd.system.process import Launch, launch

from .conftest import Scripts, until

ROOT = Mount("/sys/fs/cgroup", "/")
ALL = Resources(memory=64 * 1024**2, cpu=1.5, processes=100)
_CLONE_NEWCGROUP = 0x02000000  # linux/sched.h


# What /proc says ----------------------------------------------------------------------

V2_ALONE = """\
22 27 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
"""
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
# As seen after unshare(1) --cgroup, with the mount of before and with one of its own.
NAMESPACED = """\
41 31 0:38 /.. /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw
99 31 0:38 / /mnt/cgroup rw,relatime - cgroup2 none rw
"""


@pytest.mark.parametrize(
    ("text", "mounts"),
    [
        (V2_ALONE, [ROOT]),
        (HYBRID, [Mount("/sys/fs/cgroup/unified", "/")]),
        (NAMESPACED, [Mount("/sys/fs/cgroup", "/.."), Mount("/mnt/cgroup", "/")]),
        ("35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n", []),
        ("1 2 0:3 / /mnt/cgroup2 rw - ext4 cgroup2 rw\n", []),
        (r"1 2 0:3 /a\040b /m\134n\011 rw master:1 - cgroup2 x rw", [Mount("/m\\n\t", "/a b")]),
        ("", []),
    ],
    ids=["v2", "hybrid", "namespaced", "v1", "a name only", "escapes", "nothing"],
)
def test_mounts_of_cgroup_v2(text: str, mounts: list[Mount]) -> None:
    assert parse_mounts(text) == mounts


@pytest.mark.parametrize(
    ("text", "path", "legacy"),
    [
        ("0::/system.slice/cmappserver.service\n", "/system.slice/cmappserver.service", set()),
        ("9:name=systemd:/\n8:pids:/\n1:cpu,cpuacct:/x\n0::/\n", "/", {"pids", "cpu", "cpuacct"}),
        ("0::/a:b/c\n", "/a:b/c", set()),
        ("0::/../other.scope\n", "/../other.scope", set()),
        ("4:memory:/\n", None, {"memory"}),
    ],
    ids=["v2", "hybrid", "colon", "outside the namespace", "v1"],
)
def test_the_own_cgroup(text: str, path: str | None, legacy: set[str]) -> None:
    assert parse_membership(text) == Membership(path, frozenset(legacy))


@pytest.mark.parametrize(
    ("mount", "path", "found"),
    [
        (ROOT, "/", ["/sys/fs/cgroup"]),
        (ROOT, "/a/b", ["/sys/fs/cgroup/a/b"]),
        (Mount("/m", "/a"), "/a", ["/m"]),
        (Mount("/m", "/a"), "/a/b", ["/m/b"]),
        (Mount("/m", "/a"), "/", []),
        (Mount("/m", "/a"), "/ab", []),
        (Mount("/", "/"), "/a", ["/a"]),
        (ROOT, "/../a", []),
        (Mount("/m", "/.."), "/", []),
        (Mount("/m", "/.."), "/../a", ["/m/a"]),
        (Mount("/m", "/.."), "/../../a", []),
    ],
)
def test_where_a_cgroup_is(mount: Mount, path: str, found: list[str]) -> None:
    assert folders([mount], path) == found


def test_a_mount_that_is_covered_by_another_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        "/proc/self/mountinfo": "".join(
            f"1 2 0:3 / {tmp_path}/{name} rw - cgroup2 x rw\n" for name in ("a", "b")
        ),
        "/proc/self/cgroup": "0::/\n",
    }
    monkeypatch.setattr(cgroupfs, "read", lambda path: texts.get(path) or read(path))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "cgroup.procs").touch()
    with pytest.raises(
        ConfigError, match=f"^cannot use cgroups: cannot make {tmp_path}/b/cmappd-x"
    ):
        open_hierarchy("x")
    assert os.listdir(tmp_path / "b") == ["cgroup.procs"]


def test_each_mount_that_shows_a_cgroup_counts() -> None:
    assert folders(parse_mounts(NAMESPACED), "/a") == ["/mnt/cgroup/a"]
    assert folders([ROOT, Mount("/m", "/a")], "/a/b") == ["/sys/fs/cgroup/a/b", "/m/b"]


# The cgroups of this machine ----------------------------------------------------------


@dataclass
class Ground:
    """A hierarchy of this machine's, and processes to put into it."""

    hierarchy: Hierarchy
    name: str
    scripts: Scripts

    def run(self, spec: Launch, run: str = "a.1.1") -> tuple[Cgroup, int]:
        """A process in a cgroup of its own, from its first fork on."""
        cgroup = self.hierarchy.create(run)
        pid = launch(spec).pid
        assert cgroup.add(pid)
        return cgroup, pid

    def gated(self, text: str, run: str = "a.1.1") -> tuple[Cgroup, int]:
        """As `run`, for a shell script; it starts when its process is in the cgroup."""
        gate = self.scripts.folder / f"gate-{run}"
        os.mkfifo(gate)
        made = self.run(self.scripts.sh(f"read go <{gate}; {text}"), run)
        gate.write_text("go\n")
        return made


@pytest.fixture
def ground(scripts: Scripts) -> Iterator[Ground]:
    name = f"test{os.getpid()}"
    try:
        hierarchy = open_hierarchy(name)
    except ConfigError as error:
        pytest.skip(str(error))
    control = f"{hierarchy.base}/cgroup.subtree_control"
    with alone_in(hierarchy.base):
        before = read(control).split()
        yield Ground(hierarchy, name, scripts)
        clear(hierarchy.path)
        until(childless)
        write(control, " ".join(f"-{one}" for one in read(control).split() if one not in before))


@contextlib.contextmanager
def alone_in(base: str) -> Iterator[None]:
    """One test at a time: the base is the same for all processes that run tests."""
    fd = os.open(base, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def clear(path: str) -> None:
    """Kill all that is in a cgroup and below it, and remove it."""
    write(f"{path}/cgroup.kill", "1")
    until(lambda: read(f"{path}/cgroup.events").startswith("populated 0"))
    for folder, _, _ in os.walk(path, topdown=False):
        os.rmdir(folder)


def reap() -> None:
    """Wait for every child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def childless() -> bool:
    reap()
    return children(os.getpid()) == []


def gone(pid: int) -> bool:
    """Whether a child of ours, or a descendant that was handed to us, has ended."""
    reap()
    return read_stat(pid) is None


def inside(folder: str, function: Callable[[], str], uid: int = 0) -> str:
    """What a function says that is called by a process in that cgroup, as that user."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            write(f"{folder}/cgroup.procs", str(os.getpid()))
            if uid:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            os.write(writing, function().encode())
        except CmappdError as error:
            os.write(writing, str(error).encode())
        except BaseException:  # noqa: BLE001
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return said


def sleepers(pids: Iterable[int]) -> list[int]:
    """Those that have come to be /bin/sleep."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/bin/sleep"):
                found.append(pid)
    return found


def delegate(folder: str, uid: int) -> None:
    """Delegate a cgroup as systemd does it for a service with User= and Delegate=yes."""
    for name in ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
        os.chown(f"{folder}/{name}", uid, -1)


@pytest.mark.root
def test_a_hierarchy_is_made_and_found_again(ground: Ground) -> None:
    assert ground.hierarchy.path == f"{ground.hierarchy.base}/cmappd-{ground.name}"
    cgroup = ground.hierarchy.create("a.1.1")
    assert cgroup.path == f"{ground.hierarchy.path}/app-a.1.1"
    assert cgroup.run == "a.1.1"
    assert cgroup.empty()
    assert open_hierarchy(ground.name) == ground.hierarchy
    assert os.path.isdir(cgroup.path)


@pytest.mark.root
def test_a_run_has_one_cgroup(ground: Ground) -> None:
    ground.hierarchy.create("a.1.1")
    with pytest.raises(CmappdError, match=r"^cannot make the cgroup /.*/app-a\.1\.1: File exists$"):
        ground.hierarchy.create("a.1.1")


@pytest.mark.root
def test_a_process_comes_and_goes(ground: Ground) -> None:
    cgroup, pid = ground.run(ground.scripts.launch("/bin/sleep", "60"))
    assert cgroup.procs() == [pid]
    assert not cgroup.empty()
    assert not cgroup.remove()
    os.kill(pid, signal.SIGTERM)
    until(lambda: gone(pid))
    until(cgroup.empty)
    assert cgroup.procs() == []
    assert cgroup.remove()
    assert not os.path.exists(cgroup.path)
    assert cgroup.empty()
    assert cgroup.procs() == []
    assert cgroup.remove()
    cgroup.kill()


@pytest.mark.root
def test_zombies_do_not_count(ground: Ground) -> None:
    cgroup, pid = ground.run(ground.scripts.launch("/bin/sleep", "60"))
    cgroup.kill()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    until(cgroup.empty)
    assert read_stat(pid) is not None
    assert cgroup.procs() == []
    assert cgroup.remove()
    until(lambda: gone(pid))


@pytest.mark.root
def test_nobody_is_moved_who_is_not_there(ground: Ground) -> None:
    pid = launch(ground.scripts.sh("exit 0")).pid
    until(lambda: gone(pid))
    cgroup = ground.hierarchy.create("a.1.1")
    assert not cgroup.add(pid)
    assert not cgroup.add_tree(pid)
    assert cgroup.remove()
    reason = f"cannot move process {os.getpid()} into the cgroup {cgroup.path}: No such file"
    with pytest.raises(CmappdError, match=f"^{re.escape(reason)}"):
        cgroup.add(os.getpid())


@pytest.mark.root
def test_a_daemon_stays_a_member(ground: Ground) -> None:
    """It forks twice, has a session of its own, no environment, and no parent but us."""
    cgroup, main = ground.gated("(env -i setsid /bin/sh -c '/bin/sleep 60 & exit 0' &) ; exit 0")
    until(lambda: gone(main) and len(cgroup.procs()) == 1 == len(sleepers(cgroup.procs())))
    (daemon,) = cgroup.procs()
    stat = read_stat(daemon)
    assert stat is not None
    assert stat.session not in (main, os.getsid(0))
    assert Path(f"/proc/{daemon}/environ").read_bytes().count(b"\0") <= 2  # PWD, of the shell
    assert not cgroup.empty()
    cgroup.kill()
    until(lambda: gone(daemon))
    until(cgroup.empty)


@pytest.mark.root
def test_what_was_forked_before_the_move_is_moved_with_it(ground: Ground) -> None:
    text = "for i in 1 2 3; do setsid /bin/sh -c '/bin/sleep 60 & wait' & done; wait"
    main = launch(ground.scripts.sh(text)).pid
    until(lambda: len(cgroup_module._descendants(main)) == 6)
    until(lambda: len(sleepers(cgroup_module._descendants(main))) == 3)
    cgroup = ground.hierarchy.create("a.1.1")
    assert cgroup.add_tree(main)
    assert set(cgroup.procs()) == {main, *cgroup_module._descendants(main)}
    assert len(cgroup.procs()) == 7


@pytest.mark.root
def test_add_alone_leaves_behind_what_was_forked_before(ground: Ground) -> None:
    main = launch(ground.scripts.sh("/bin/sleep 60 & wait")).pid
    until(lambda: len(children(main)) == 1)
    cgroup = ground.hierarchy.create("a.1.1")
    assert cgroup.add(main)
    assert cgroup.procs() == [main]
    assert cgroup.add_tree(main)
    assert cgroup.procs() == sorted([main, *children(main)])


@pytest.mark.root
def test_a_daemon_of_before_the_move_is_found_among_the_orphans(ground: Ground) -> None:
    """Nothing leads from the process to it any more, nor to its children."""
    daemon = "(setsid /bin/sh -c '/bin/sleep 60 & wait' &)"
    main = launch(ground.scripts.sh(f"{daemon}; exec /bin/sleep 60")).pid
    until(lambda: len(children(os.getpid())) == 2 and children(main) == [])
    (orphan,) = set(children(os.getpid())) - {main}
    until(lambda: len(children(orphan)) == 1)
    cgroup = ground.hierarchy.create("a.1.1")
    assert cgroup.add_tree(main)
    assert cgroup.procs() == [main]
    os.kill(main, signal.SIGKILL)
    until(lambda: gone(main))
    assert not cgroup.add_tree(main, lambda: [orphan])
    assert cgroup.procs() == sorted([orphan, *children(orphan)])


@pytest.mark.root
def test_who_loses_its_parent_during_the_look_is_found(ground: Ground) -> None:
    """It was no orphan when those were listed, and is no descendant when the tree is walked."""
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"  # so its children leave no zombies
        "if os.fork() == 0: os.fork()\n"
        "time.sleep(60)\n"
    )
    main = launch(ground.scripts.python(code)).pid
    until(lambda: len(cgroup_module._descendants(main)) == 2)
    (parent,) = children(main)
    (sleeper,) = children(parent)
    cgroup = ground.hierarchy.create("a.1.1")

    def waifs() -> list[int]:
        found = [pid for pid in children(os.getpid()) if pid != main]
        if not found:
            os.kill(parent, signal.SIGKILL)
            until(lambda: sleeper in children(os.getpid()))
        return found

    assert cgroup.add_tree(main, waifs)
    assert sleeper in cgroup.procs()


@pytest.mark.root
@pytest.mark.skipif(last_pid() is None, reason="the kernel does not tell the last pid")
def test_orphans_are_not_asked_for_where_nobody_has_forked(ground: Ground) -> None:
    """Another program may fork in between: then they are, so try until none does."""
    cgroup, asked = ground.hierarchy.create("a.1.1"), list[bool]()

    def waifs() -> list[int]:
        asked.append(True)
        return []

    def lone() -> bool:
        main = launch(ground.scripts.launch("/bin/sleep", "60")).pid
        before = len(asked)
        assert cgroup.add_tree(main, waifs)
        assert main in cgroup.procs()
        return len(asked) == before

    until(lone)


# Children that fork as fast as they can, 300 times together, and do not end.
BROOD = """
import os, time
for _ in range(10):
    if os.fork() == 0:
        for _ in range(30):
            if os.fork() == 0:
                break
        break
time.sleep(60)
"""


@pytest.mark.root
def test_children_that_come_during_the_move_are_moved(ground: Ground) -> None:
    main = launch(ground.scripts.python(BROOD)).pid
    until(lambda: len(children(main)) > 2)
    cgroup = ground.hierarchy.create("a.1.1")
    assert cgroup.add_tree(main)
    os.kill(main, signal.SIGSTOP)
    assert cgroup_module._descendants(main) <= set(cgroup.procs())


# To kill ------------------------------------------------------------------------------

# Eight lines of processes, each of which lives for as long as it takes to fork the next. They
# yield to others, which would get no turn on a busy machine.
STORM = """
import os
os.nice(10)
for _ in range(8):
    if os.fork() == 0:
        break
while True:
    if os.fork():
        os._exit(0)
"""


@pytest.mark.root
@pytest.mark.parametrize("kernel", ["cgroup.kill", "none"])
def test_a_fork_storm_is_killed_to_emptiness(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    """In one by the kernel, or one by one where it has no cgroup.kill."""
    cgroup = ground.hierarchy.create("a.1.1")
    gate = ground.scripts.folder / "gate"
    os.mkfifo(gate)
    main = launch(ground.scripts.python(f"open({str(gate)!r}).read()\n{STORM}")).pid
    assert cgroup.add(main)
    gate.write_bytes(b"")
    until(lambda: gone(main) and len(cgroup.procs()) >= 2)
    monkeypatch.setattr(cgroup_module, "_KILL", kernel)

    def over() -> bool:
        cgroup.kill()
        reap()
        return cgroup.empty()

    until(over)
    until(childless)
    assert cgroup.remove()


@pytest.mark.root
@pytest.mark.parametrize("kernel", ["cgroup.kill", "none"])
def test_one_kill_ends_all(ground: Ground, monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """Stopped ones and those in cgroups of the application's own, and nobody else."""
    monkeypatch.setattr(cgroup_module, "_KILL", kernel)
    other, stranger = ground.run(ground.scripts.launch("/bin/sleep", "60"), "b.1.1")
    cgroup, main = ground.gated("/bin/sleep 60 & /bin/sleep 60 & wait")
    until(lambda: len(sleepers(cgroup.procs())) == 2)
    first, second = children(main)
    os.kill(first, signal.SIGSTOP)
    os.makedirs(f"{cgroup.path}/sub/deep")
    write(f"{cgroup.path}/sub/deep/cgroup.procs", str(second))
    assert cgroup.procs() == sorted([main, first, second])
    cgroup.kill()
    until(lambda: gone(main) and gone(first) and gone(second))
    until(cgroup.empty)
    assert other.procs() == [stranger]


@pytest.mark.root
def test_cgroups_of_the_application_belong_to_it(ground: Ground) -> None:
    cgroup, main = ground.run(ground.scripts.launch("/bin/sleep", "60"))
    os.makedirs(f"{cgroup.path}/sub/deep")
    os.makedirs(f"{cgroup.path}/vacant/deeper/still")
    write(f"{cgroup.path}/sub/deep/cgroup.procs", str(main))
    assert read(f"{cgroup.path}/cgroup.procs") == ""
    assert cgroup.procs() == [main]
    assert not cgroup.empty()
    assert not cgroup.remove()
    assert len(below(cgroup.path)) == 6, "of one in use nothing is removed"
    cgroup.kill()
    until(lambda: gone(main))
    until(cgroup.remove)
    assert not os.path.exists(cgroup.path)


@pytest.mark.root
def test_the_next_server_finds_what_was_left(ground: Ground) -> None:
    running, _ = ground.run(ground.scripts.launch("/bin/sleep", "60"), "a.1.1")
    ended = ground.hierarchy.create("b.1.1")
    os.mkdir(f"{ended.path}/sub")
    assert open_hierarchy(ground.name).leftovers() == [running]
    assert not os.path.exists(ended.path)
    assert open_hierarchy(f"{ground.name}x").leftovers() == []
    open_hierarchy(f"{ground.name}x").remove()
    assert not os.path.exists(f"{ground.hierarchy.path}x")


@pytest.mark.root
def test_what_was_removed_with_all_around_it_is_empty(ground: Ground) -> None:
    """As systemd removes what is below a unit that has ended."""
    cgroup = Cgroup(f"{ground.hierarchy.path}/unit.scope/cmappd-x/app-a.1.1")
    os.makedirs(cgroup.path)
    assert cgroup.empty()
    clear(f"{ground.hierarchy.path}/unit.scope")
    assert not os.path.exists(cgroup.path)
    assert cgroup.empty()


def test_what_is_out_of_sight_is_not_called_empty(tmp_path: Path) -> None:
    cgroup = Cgroup(f"{tmp_path}/cmappd-x/app-a.1.1")
    with pytest.raises(FileNotFoundError):
        cgroup.empty()
    assert not cgroup.remove()


@pytest.mark.root
def test_remove_leaves_what_is_in_use(ground: Ground) -> None:
    cgroup, pid = ground.run(ground.scripts.launch("/bin/sleep", "60"))
    ground.hierarchy.remove()
    assert cgroup.procs() == [pid]
    cgroup.kill()
    until(lambda: gone(pid))
    until(cgroup.empty)
    ground.hierarchy.remove()
    assert not os.path.exists(ground.hierarchy.path)
    os.mkdir(ground.hierarchy.path)


# Where they can be made ---------------------------------------------------------------


@pytest.mark.root
def test_an_ordinary_user_is_told_what_is_missing(ground: Ground) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    base = ground.hierarchy.create("base").path
    said = inside(base, lambda: str(open_hierarchy("x")), nobody)
    assert said == (
        f"cannot use cgroups: cannot make {base}/cmappd-x: Permission denied; "
        "a systemd service needs Delegate=yes and ProtectControlGroups=no for it"
    )
    os.chown(base, nobody, -1)  # the directory alone is not enough
    said = inside(base, lambda: str(open_hierarchy("x")), nobody)
    assert said == (
        f"cannot use cgroups: user {nobody} may not write {base}/cgroup.procs; "
        "a systemd service needs Delegate=yes and ProtectControlGroups=no for it"
    )
    assert below(base) == [base]


@pytest.mark.root
def test_an_ordinary_user_manages_what_was_delegated(ground: Ground) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    base = ground.hierarchy.create("base").path
    delegate(base, nobody)

    def work() -> str:
        hierarchy = open_hierarchy("x")
        cgroup = hierarchy.create("a.1.1")
        pid = launch(ground.scripts.sh("/bin/sleep 60 & wait")).pid
        until(lambda: len(children(pid)) == 1)
        cgroup.add_tree(pid)
        count = len(cgroup.procs())
        cgroup.kill()
        until(lambda: gone(pid) and cgroup.remove())
        hierarchy.remove()
        return f"{count} in {cgroup.path}"

    assert inside(base, work, nobody) == f"2 in {base}/cmappd-x/app-a.1.1"
    assert below(base) == [base]


@pytest.mark.root
def test_below_a_delegated_cgroup_it_is_the_base(ground: Ground) -> None:
    """DelegateSubgroup= of systemd puts the service into one below what it delegates."""
    unit = f"{ground.hierarchy.create('unit').path}/cmapp.service"
    own = f"{unit}/supervisor"
    os.makedirs(own)
    assert inside(own, lambda: open_hierarchy("x").base) == own
    os.setxattr(unit, "user.delegate", b"1")
    assert inside(own, lambda: open_hierarchy("y").base) == unit
    assert inside(unit, lambda: open_hierarchy("y").base) == unit
    os.mkdir(f"{unit}/other.scope")
    assert inside(f"{unit}/other.scope", lambda: open_hierarchy("y").base) == f"{unit}/other.scope"
    os.setxattr(own, "user.delegate", b"1")
    assert inside(own, lambda: open_hierarchy("y").base) == own


@pytest.mark.root
def test_threaded_mode_is_refused(ground: Ground) -> None:
    base = ground.hierarchy.create("base").path
    os.mkdir(f"{base}/sub")
    write(f"{base}/sub/cgroup.type", "threaded")
    said = inside(base, lambda: str(open_hierarchy("x")))
    assert said == f"cannot use cgroups: {base} is in threaded mode"
    assert below(base) == [base, f"{base}/sub"]


@pytest.mark.root
def test_a_cgroup_that_no_mount_shows_is_refused(ground: Ground) -> None:
    """In a cgroup namespace of its own, but with the mounts of before."""
    base = ground.hierarchy.create("base").path

    def work() -> str:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(_CLONE_NEWCGROUP) == 0, os.strerror(ctypes.get_errno())
        return str(open_hierarchy("x"))

    said = inside(base, work)
    assert said.startswith("cannot use cgroups: no mount of cgroup v2 shows /, the cgroup of this")


@pytest.mark.parametrize(
    ("mountinfo", "membership", "reason"),
    [
        ("", "0::/\n", "cgroup v2 is not mounted"),
        (V2_ALONE, "4:memory:/\n", "cgroup v2 is not mounted"),
        (
            V2_ALONE,
            "0::/no/such\n",
            "no mount of cgroup v2 shows /no/such, the cgroup of this proc",
        ),
    ],
)
def test_without_cgroups_a_sentence_says_why(
    monkeypatch: pytest.MonkeyPatch, mountinfo: str, membership: str, reason: str
) -> None:
    texts = {"/proc/self/mountinfo": mountinfo, "/proc/self/cgroup": membership}
    monkeypatch.setattr(cgroupfs, "read", texts.__getitem__)
    with pytest.raises(ConfigError, match=f"^cannot use cgroups: {reason}"):
        open_hierarchy("x")


# Resources ----------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Hierarchy:
    """Plain files where a hierarchy with controllers would be: for what is written to them.

    A system that has the controllers under cgroup v1 offers none that could be tried for real.
    """
    path = tmp_path / "cmappd-x"
    path.mkdir()
    for name in ("cgroup.controllers", "cgroup.subtree_control", "cgroup.type", "cgroup.procs"):
        (tmp_path / name).touch()
        (path / name).touch()
    return Hierarchy(str(tmp_path), str(path), frozenset())


def limited(hierarchy: Hierarchy, *names: str) -> Cgroup:
    cgroup = hierarchy.create("a.1.1")
    for name in names:
        Path(cgroup.path, name).touch()
    return cgroup


INTERFACE = ("memory.max", "cpu.max", "pids.max")


@pytest.mark.parametrize(
    ("resources", "texts"),
    [
        (ALL, ("67108864", "150000 100000", "100")),
        (Resources(memory=4096), ("4096", "max", "max")),
        (Resources(cpu=0.25), ("max", "25000 100000", "max")),
        (Resources(cpu=0.001), ("max", "1000 100000", "max")),
        (Resources(), ("max", "max", "max")),
    ],
)
def test_limits_are_written_as_the_kernel_reads_them(
    files: Hierarchy, resources: Resources, texts: tuple[str, ...]
) -> None:
    cgroup = limited(files, *INTERFACE)
    cgroup.limit(resources)
    assert tuple(read(f"{cgroup.path}/{name}") for name in INTERFACE) == texts


def test_a_limit_without_its_controller_is_an_error(files: Hierarchy) -> None:
    cgroup = limited(files, "cpu.max", "pids.max")
    cgroup.limit(Resources(cpu=1, processes=5))
    reason = f"cannot limit memory: cannot write {cgroup.path}/memory.max: No such file"
    with pytest.raises(ConfigError, match=f"^{re.escape(reason)}"):
        cgroup.limit(ALL)


@pytest.mark.parametrize(
    ("text", "kills"),
    [("low 0\noom 3\noom_kill 2\noom_group_kill 1\n", 2), ("low 0\n", None), (None, None)],
)
def test_kills_for_memory_are_counted(
    files: Hierarchy, text: str | None, kills: int | None
) -> None:
    cgroup = limited(files)
    if text is not None:
        Path(cgroup.path, "memory.events").write_text(text)
    assert cgroup.oom_kills() == kills


def test_controllers_that_are_not_to_be_had_are_named(files: Hierarchy) -> None:
    listed = Path(files.base, "cgroup.controllers")
    listed.write_text("cpu io memory pids\n")
    assert files.missing(ALL) == ""
    listed.write_text("cpu io\n")
    assert files.missing(Resources(cpu=1)) == ""
    assert files.missing(ALL) == (
        f"cannot limit memory, processes: not to be had in {files.base}; "
        "a systemd service needs Delegate=yes and ProtectControlGroups=no for it"
    )
    hybrid = Hierarchy(files.base, files.path, frozenset({"memory", "freezer"}))
    assert hybrid.missing(ALL) == (
        "cannot limit memory: the system has put it under cgroup v1; "
        "boot with cgroup_no_v1=memory, or systemd.unified_cgroup_hierarchy=1\n"
        f"cannot limit processes: not to be had in {files.base}; "
        "a systemd service needs Delegate=yes and ProtectControlGroups=no for it"
    )
    with pytest.raises(ConfigError, match=r"^cannot limit memory: the system.*\ncannot limit proc"):
        hybrid.enable(ALL)
    assert hybrid.missing(Resources()) == ""


def test_strangers_in_the_base_are_not_moved(files: Hierarchy) -> None:
    Path(files.base, "cgroup.controllers").write_text("pids\n")
    Path(files.base, "cgroup.procs").write_text(f"{os.getpid()}\n{os.getppid()}\n0\n")
    wanted = Resources(processes=5)
    assert files.missing(wanted) == (
        f"cannot limit processes: others are in the cgroup {files.base} (pid {os.getppid()} 0); "
        "start cmappserver in one of its own"
    )
    Path(files.base, "cgroup.subtree_control").write_text("cpu pids\n")
    assert files.missing(wanted) == ""


def test_the_root_may_have_processes_and_controllers(files: Hierarchy) -> None:
    Path(files.base, "cgroup.controllers").write_text("pids\n")
    Path(files.base, "cgroup.procs").write_text("1\n")
    Path(files.base, "cgroup.type").unlink()
    files.enable(Resources(processes=5))
    for folder in (files.base, files.path):
        assert read(f"{folder}/cgroup.subtree_control") == "+pids"
    assert read(f"{files.base}/cgroup.procs") == "1\n"
    Path(files.path, "cgroup.subtree_control").write_text("pids")
    files.disable()
    assert read(f"{files.path}/cgroup.subtree_control") == "-pids"
    assert read(f"{files.base}/cgroup.subtree_control") == "+pids", "it may be others' as well"


class Whatever(Resources):
    """Stands for whichever controller this machine leaves to cgroup v2, to enable it for real."""

    name = ""

    def controllers(self) -> list[str]:
        return [self.name]


@pytest.fixture
def spare(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> Whatever:
    there = read(f"{ground.hierarchy.base}/cgroup.controllers").split()
    if not there:
        pytest.skip("cgroup v1 has all controllers")
    monkeypatch.setattr(Whatever, "name", there[0])
    monkeypatch.setitem(cgroup_module.KEYS, there[0], "something")
    return Whatever()


@pytest.mark.root
def test_this_process_leaves_the_base_for_controllers(ground: Ground, spare: Whatever) -> None:
    ground.hierarchy.enable(spare)
    base = ground.hierarchy.create("base").path
    leaf = f"{base}/cmappd-x/server"

    def work() -> str:
        hierarchy = open_hierarchy("x")
        running = hierarchy.create("a.1.1")
        inmate, helper = (launch(ground.scripts.launch("/bin/sleep", "60")).pid for _ in range(2))
        running.add(inmate)
        before = parse_membership(read("/proc/self/cgroup")).path
        hierarchy.enable(spare)
        hierarchy.enable(spare)
        assert parse_membership(read("/proc/self/cgroup")).path == f"{before}/cmappd-x/server"
        assert read(f"{base}/cgroup.procs") == ""
        assert sorted(map(int, read(f"{leaf}/cgroup.procs").split())) == [os.getpid(), helper]
        assert running.procs() == [inmate]
        later = hierarchy.create("b.1.1")
        for cgroup in (running, later):
            assert read(f"{cgroup.path}/cgroup.controllers") == f"{spare.name}\n"
        assert open_hierarchy("x") == hierarchy, (
            "as the next server does, after an upgrade in place"
        )
        with pytest.raises(OSError, match="busy"):
            write(f"{base}/cgroup.procs", str(helper))
        hierarchy.disable()
        write(f"{base}/cgroup.procs", str(helper))  # as systemd starts the next server
        assert read(f"{running.path}/cgroup.controllers") == ""
        assert running.procs() == [inmate]
        hierarchy.remove()
        assert os.path.isdir(leaf)
        return "done"

    assert inside(base, work) == "done"


@pytest.mark.root
def test_for_controllers_a_stranger_is_in_the_way(ground: Ground, spare: Whatever) -> None:
    ground.hierarchy.enable(spare)
    base, stranger = ground.run(ground.scripts.launch("/bin/sleep", "60"), "base")

    def work() -> str:
        hierarchy = open_hierarchy("x")
        try:
            hierarchy.enable(spare)
        except ConfigError as error:
            return str(error)
        return "enabled"

    said = inside(base.path, work)
    assert said.startswith(f"cannot limit something: others are in the cgroup {base.path} (pid ")
    assert f"pid {stranger})" in said
    assert base.procs() == [stranger]


EATER = """
data = []
while True:
    data.append(bytearray(1024**2))
"""
FORKER = """
import os, time
count = 0
try:
    while os.fork():
        count += 1
except BlockingIOError:
    open({!r}, "w").write(str(count))
time.sleep(60)
"""


@pytest.mark.root
def test_limits_hold_where_this_machine_can_set_them(ground: Ground) -> None:
    """Where it cannot, what is said must be true."""
    refusal = ground.hierarchy.missing(ALL)
    if refusal:
        mine = parse_membership(read("/proc/self/cgroup")).legacy
        for word, name in {"memory": "memory", "cpu": "cpu", "processes": "pids"}.items():
            assert name in mine or word not in refusal.split("under cgroup v1")[0]
        return
    ground.hierarchy.enable(ALL)
    eater, forker = ground.hierarchy.create("a.1.1"), ground.hierarchy.create("b.1.1")
    eater.limit(Resources(memory=32 * 1024**2))
    with contextlib.suppress(FileNotFoundError):  # without swap there is none
        write(f"{eater.path}/memory.swap.max", "0")
    forker.limit(Resources(cpu=0.5, processes=3))
    assert read(f"{forker.path}/cpu.max") == "50000 100000\n"
    assert eater.oom_kills() == 0
    told = ground.scripts.folder / "told"
    for cgroup, text in ((eater, EATER), (forker, FORKER.format(str(told)))):
        gate = ground.scripts.folder / f"gate-{cgroup.run}"
        os.mkfifo(gate)
        assert cgroup.add(launch(ground.scripts.python(f"open({str(gate)!r}).read()\n{text}")).pid)
        gate.write_bytes(b"")
    until(eater.empty)
    assert eater.oom_kills() == 1
    until(lambda: told.exists() and told.read_text())
    assert told.read_text() == "2"
    forker.limit(Resources())
    assert read(f"{forker.path}/pids.max") == "max\n"
