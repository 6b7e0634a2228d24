import os
import signal
import sys
import time
from pathlib import Path

import pytest

from cmappd.system.proc import environment, exists, read_stat, snapshot
from cmappd.system.process import launch
from cmappd.system.tree import Forest

from .conftest import Scripts, until
from .wood import Wood, strays, wood

__all__ = ["wood"]


def daemon(*, session: bool, marked: bool) -> str:
    """A script whose main process leaves a daemon behind and ends with 3."""
    prefix = ("setsid " if session else "") + ("" if marked else "env -i ")
    return f"({prefix}sleep 60 &) ; exit 3"


@pytest.mark.parametrize(
    ("session", "marked"), [(False, True), (False, False), (True, True)], ids=str
)
def test_a_daemon_outlives_its_main_process(
    scripts: Scripts, wood: Wood, session: bool, marked: bool
) -> None:
    main = wood.grow("a", scripts.sh(daemon(session=session, marked=marked), run="a"))
    other = wood.grow("b", scripts.launch("/bin/sleep", "60", run="b"))
    wood.until_ended(main)
    assert not wood.forest.empty("a")
    (left,) = wood.until_members("a", 1)
    assert left != main
    assert strays(wood.forest) == ()
    wood.forest.signal("a", signal.SIGKILL, whole=True)
    wood.until(lambda: wood.orphans == [left.pid])
    assert wood.forest.empty("a")
    assert wood.forest.alive("b") == (other,)


def test_a_daemon_without_mark_and_session_is_known_when_it_was_observed(
    scripts: Scripts, wood: Wood
) -> None:
    gate = scripts.folder / "gate"
    os.mkfifo(gate)
    main = wood.grow("a", scripts.sh(f"env -i setsid sleep 60 & cat {gate}; exit 0", run="a"))

    def has_left_session() -> bool:
        stats = [read_stat(who.pid) for who in wood.forest.alive("a") if who != main]
        return any(stat is not None and stat.session == stat.pid for stat in stats)

    wood.until(has_left_session)
    wood.forest.observe(snapshot())
    gate.write_bytes(b"")
    wood.until_ended(main)
    (left,) = wood.until_members("a", 1)
    assert not wood.forest.empty("a")
    assert not Forest()._run_of_child(left.pid), "or the test proves nothing"
    wood.kill("a")
    assert not exists(left)


def test_the_limit_an_unseen_daemon_without_any_sign_is_a_stray(
    scripts: Scripts, wood: Wood
) -> None:
    ready = scripts.folder / "ready"  # looked at earlier, it would still carry the mark
    hidden = f"(setsid env -i sh -c 'echo > {ready}; exec sleep 60' &) ; exit 0"
    main = wood.grow("a", scripts.sh(hidden, run="a"))
    wood.until_ended(main)
    until(ready.exists)
    assert len(strays(wood.forest)) == 1
    assert wood.forest.alive("a") == ()
    assert wood.forest.empty("a")


@pytest.mark.parametrize(
    ("awaiting", "carries", "belongs"),
    [
        (["a"], {}, True),
        ([], {}, False),
        (["a", "b"], {}, False),  # it may be either's
        (["a"], {"CMAPPD_RUN": "c"}, False),  # it is somebody else's
    ],
)
def test_a_daemon_without_any_sign_is_known_by_its_program(
    scripts: Scripts, wood: Wood, awaiting: list[str], carries: dict[str, str], belongs: bool
) -> None:
    ready = scripts.folder / "ready"
    stays = f"import time; open({str(ready)!r}, 'w').close(); time.sleep(60)"
    code = (
        "import os, sys\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        f"os.execve(sys.executable, [sys.executable, '-c', {stays!r}], {carries!r})\n"
    )
    wood.grow("b", scripts.python("import time; time.sleep(60)", run="b"))
    main = wood.grow("a", scripts.python(code, run="a"))
    for run in awaiting:
        wood.forest.await_daemon(run, sys.executable)
    wood.until_ended(main)
    until(ready.exists)  # looked at earlier, it would still carry the mark
    assert wood.forest.empty("a") is not belongs
    assert len(wood.forest.members("a")) == belongs
    assert len(strays(wood.forest)) == (not belongs)


def test_who_has_found_the_daemon_awaits_no_other(scripts: Scripts, wood: Wood) -> None:
    main = wood.grow("a", scripts.sh("exec sleep 60", run="a"))
    wood.forest.await_daemon("a", "/bin/sleep")
    wood.forest.plant("a", main)
    other = launch(scripts.launch("/bin/sleep", "60", environment={}))
    wood.reaper.watch(other.pid, lambda status: None)
    assert strays(wood.forest) == (other,)


def test_a_double_fork_with_two_sessions(scripts: Scripts, wood: Wood) -> None:
    code = (
        "import os, time\n"
        "for _ in range(2):\n"
        "    if os.fork(): os._exit(0)\n"
        "    os.setsid()\n"
        "time.sleep(60)\n"
    )
    main = wood.grow("a", scripts.python(code, run="a"))
    wood.until_ended(main)
    wood.until(lambda: not wood.forest.empty("a") and len(wood.forest.alive("a")) == 1)
    wood.kill("a")
    assert wood.orphans != []


def test_exec_storms_do_not_hide_the_mark(scripts: Scripts, wood: Wood) -> None:
    """In the middle of an exec the environment reads as empty."""
    script = scripts.folder / "again"
    script.write_text(f"#!/bin/sh\nexec {script}\n")
    script.chmod(0o755)
    main = wood.grow("a", scripts.launch(str(script), run="a"))
    for _ in range(3000):
        assert b"CMAPPD_RUN=a\0" in environment(main.pid)


@pytest.mark.parametrize("run", ["a", "b"])
def test_a_daemon_whose_main_thread_has_ended(scripts: Scripts, wood: Wood, run: str) -> None:
    """It looks like a zombie, but lives; and its run can still be read."""
    ready = scripts.folder / "ready"
    code = (
        "import ctypes, os, threading, time\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        f"open({str(ready)!r}, 'w').write(str(os.getpid()))\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    main = wood.grow("a", scripts.python(code, run=run))
    wood.until_ended(main)
    until(lambda: ready.exists() and ready.read_text())
    daemon_pid = int(ready.read_text())
    until(lambda: b") Z " in Path(f"/proc/{daemon_pid}/stat").read_bytes())
    belongs = run == "a"
    assert wood.forest.empty("a") is not belongs
    assert [who.pid for who in wood.forest.alive("a")] == [daemon_pid] * belongs
    assert [who.pid for who in strays(wood.forest)] == [daemon_pid] * (not belongs)


def test_an_empty_environment_is_an_answer(scripts: Scripts, wood: Wood) -> None:
    main = wood.grow("a", scripts.launch("/bin/sleep", "60", environment={}))
    begin = time.monotonic()
    assert environment(main.pid) == b""
    stat = read_stat(main.pid)
    assert stat is not None
    assert not stat.environment
    assert time.monotonic() - begin < 10


def test_memory_ends_with_the_look_after_the_run(scripts: Scripts, wood: Wood) -> None:
    wood.grow("a", scripts.sh("sleep 60 & wait"))
    wood.until_members("a", 2)
    wood.kill("a")
    wood.forest.fell("a")
    wood.forest.observe(snapshot())
    assert not wood.forest._attribution._known
    assert not wood.forest._attribution._leaders
    assert not wood.forest._mains
