import asyncio
import os
import signal
from pathlib import Path

import pytest

from cmappd.core.state import ExitStatus
from cmappd.system.marks import marked
from cmappd.system.proc import Identity, children, exists, read_stat
from cmappd.system.process import launch, send
from cmappd.system.reaper import Reaper
from cmappd.system.signals import Signals
from cmappd.system.tree import Forest

from .conftest import Scripts, until
from .wood import Wood, strays, wood

__all__ = ["wood"]


def test_a_single_process_from_plant_to_fell(scripts: Scripts, wood: Wood) -> None:
    main = wood.grow("a", scripts.launch("/bin/sleep", "60"))
    assert wood.forest.alive("a") == (main,)
    assert not wood.forest.empty("a")
    wood.forest.signal("a", signal.SIGTERM, whole=False)
    wood.until_ended(main)
    assert wood.ended[main.pid] == ExitStatus(signal=signal.SIGTERM)
    assert wood.forest.empty("a")
    assert wood.forest.alive("a") == ()
    wood.forest.signal("a", signal.SIGTERM, whole=True)
    wood.forest.fell("a")
    assert wood.forest.empty("a")


def test_what_was_never_planted_is_empty(family: None) -> None:
    forest = Forest()
    assert forest.empty("x")
    assert forest.alive("x") == ()
    forest.signal("x", signal.SIGKILL, whole=True)
    forest.fell("x")


def test_a_zombie_main_process_is_not_alive_but_not_yet_gone(scripts: Scripts, wood: Wood) -> None:
    main = wood.grow("a", scripts.sh("exit 0"))
    os.waitid(os.P_PID, main.pid, os.WEXITED | os.WNOWAIT)
    assert wood.forest.alive("a") == ()
    assert not wood.forest.empty("a")
    wood.until_ended(main)
    assert wood.forest.empty("a")


def test_members_deep_down_have_one_run_each(scripts: Scripts, wood: Wood) -> None:
    nested = "sh -c 'sh -c \"sleep 60 & sleep 60; true\"; true' & wait"
    for run in ("a", "b"):
        wood.grow(run, scripts.sh(nested))
    for run in ("a", "b"):
        wood.until_members(run, 5)
    a, b = (set(wood.forest.alive(run)) for run in ("a", "b"))
    assert len(a) == len(b) == 5
    assert not a & b
    assert set(wood.forest.alive("a", "b")) == a | b
    wood.kill("a")
    assert set(wood.forest.alive("b")) == b
    assert not any(exists(who) for who in a)


def test_a_pid_used_again_is_not_the_main_process(scripts: Scripts, wood: Wood) -> None:
    """Simulated: the planted identity has the pid of somebody else's process."""
    foreign = launch(scripts.launch("/bin/sleep", "60"))
    wood.forest.adopt("a", Identity(foreign.pid, foreign.start - 1), ())
    assert wood.forest.alive("a") == ()
    for whole in (False, True):
        wood.forest.signal("a", signal.SIGKILL, whole=whole)
    assert wood.forest.empty("a")
    wood.forest.fell("a")
    assert send(foreign, signal.SIGTERM)
    _, status = os.waitpid(foreign.pid, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM, "SIGKILL came first"


def test_one_that_does_not_end_at_sigterm_is_killed(scripts: Scripts, wood: Wood) -> None:
    ready, heard = scripts.folder / "ready", scripts.folder / "heard"
    code = f"trap 'echo > {heard}' TERM; echo > {ready}; while :; do sleep 0.05; done"
    main = wood.grow("a", scripts.sh(code))
    until(ready.exists)
    for whole in (False, True):
        wood.forest.signal("a", signal.SIGTERM, whole=whole)
        wood.until(heard.exists)
        heard.unlink()
    wood.reaper.reap()
    assert exists(main)
    wood.kill("a")
    assert wood.ended[main.pid] == ExitStatus(signal=signal.SIGKILL)


@pytest.mark.parametrize("whole", [False, True])
def test_a_stopped_process_can_act_on_sigterm(scripts: Scripts, wood: Wood, whole: bool) -> None:
    ready = scripts.folder / "ready"
    main = wood.grow("a", scripts.sh(f"trap 'exit 9' TERM; echo > {ready}; kill -STOP $$; :"))
    until(ready.exists)
    os.waitid(os.P_PID, main.pid, os.WSTOPPED | os.WNOWAIT)
    wood.forest.signal("a", signal.SIGTERM, whole=whole)
    wood.until_ended(main)
    assert wood.ended[main.pid] == ExitStatus(code=9)


def test_a_stopped_tree_is_killed(scripts: Scripts, wood: Wood) -> None:
    main = wood.grow("a", scripts.sh("sleep 60 & kill -STOP $! $$"))
    os.waitid(os.P_PID, main.pid, os.WSTOPPED | os.WNOWAIT)
    wood.kill("a")


def test_a_fork_happy_loop_is_killed_until_empty(scripts: Scripts, wood: Wood) -> None:
    """A chain in which each process forks its successor and ends."""
    code = (
        "import os, time\n"
        "end = time.monotonic() + 50\n"
        "while time.monotonic() < end:\n"
        "    if os.fork(): os._exit(0)\n"
    )
    main = wood.grow("a", scripts.python(code, run="a"))
    wood.until(lambda: main.pid in wood.ended and len(wood.orphans) > 20)
    wood.kill("a")
    assert wood.forest.alive("a") == ()
    assert strays(wood.forest) == ()


def test_a_shell_that_breeds_is_killed_until_empty(scripts: Scripts, wood: Wood) -> None:
    brood = "(setsid sleep 60 &) ; sleep 60 & i=$((i+1))"  # no more than are reaped in one turn
    wood.grow("a", scripts.sh(f"i=0; while [ $i -lt 400 ]; do {brood}; done; wait", run="a"))
    wood.until(lambda: len(wood.forest.alive("a")) > 30)
    wood.kill("a")
    assert strays(wood.forest) == ()


def test_two_hundred_members_die_at_once(scripts: Scripts, wood: Wood) -> None:
    code = "i=0; while [ $i -lt 200 ]; do sleep 60 & i=$((i+1)); done; wait"
    main = wood.grow("a", scripts.sh(code))
    wood.until_members("a", 201)
    wood.forest.signal("a", signal.SIGKILL, whole=True)
    wood.until(lambda: wood.forest.empty("a"))
    assert wood.ended[main.pid] == ExitStatus(signal=signal.SIGKILL)
    assert len(wood.orphans) == 200


def test_the_end_of_the_last_member_is_heard_without_polling(scripts: Scripts, wood: Wood) -> None:
    """Asked only when the reaper heard of an end, emptiness is still noticed, each time."""

    async def run_it(number: int) -> None:
        run = f"r{number}"
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[None] = loop.create_future()

        def ask(_: object) -> None:
            if wood.forest.empty(run) and not gone.done():
                gone.set_result(None)

        wood.reaper = Reaper(ask)
        signals = Signals(loop)
        signals.on(signal.SIGCHLD, wood.reaper.reap)
        main = launch(scripts.sh("(setsid sh -c '(sleep 0.02 &) ; exit 1' &) ; exit 0", run=run))
        wood.reaper.watch(main.pid, ask)
        wood.forest.plant(run, main)
        await asyncio.wait_for(gone, 20)
        signals.close()
        assert wood.forest.alive(run) == ()
        assert children(os.getpid()) == []
        wood.forest.fell(run)

    for number in range(20):
        asyncio.run(run_it(number))


def test_empty_is_never_said_while_a_chain_lives(scripts: Scripts, wood: Wood) -> None:
    """Each process hands over to the next while we look; the last one leaves a file."""
    last = scripts.folder / "last"
    code = (
        "import os\n"
        "for _ in range(400):\n"
        "    if os.fork(): os._exit(0)\n"
        f"open({str(last)!r}, 'w').close()\n"
    )
    main = wood.grow("a", scripts.python(code, run="a"))
    wood.until_ended(main)
    wood.until(lambda: wood.forest.empty("a"))
    assert last.exists()


def test_a_daemon_found_later_becomes_the_main_process(scripts: Scripts, wood: Wood) -> None:
    first = wood.grow("a", scripts.sh("(setsid sleep 60 &) ; exit 3", run="a"))
    wood.until_ended(first)
    (left,) = wood.until_members("a", 1)
    wood.forest.plant("a", left)
    wood.forest.signal("a", signal.SIGTERM, whole=False)
    wood.until(lambda: left.pid in wood.orphans)
    assert wood.forest.empty("a")


def test_an_unknown_zombie_is_a_doubt_until_it_is_reaped(scripts: Scripts, wood: Wood) -> None:
    """It may have been of the run, with children that were handed to us after we had looked."""
    main = wood.grow("a", scripts.sh("exit 0"))
    wood.until_ended(main)
    assert wood.forest.empty("a")
    unknown = launch(scripts.sh("exit 0", run="a"))
    os.waitid(os.P_PID, unknown.pid, os.WEXITED | os.WNOWAIT)
    assert not wood.forest.empty("a")
    wood.until(lambda: unknown.pid in wood.orphans)
    assert wood.forest.empty("a")


LEAVES_A_RUN = """
import os, subprocess, sys
subprocess.Popen(["/bin/sh", "-c", {script!r}], env={{"PATH": os.environ["PATH"],
    "CMAPPD_RUN": {run!r}}}, start_new_session=True, stdin=subprocess.DEVNULL)
os._exit(0)
"""


def test_a_run_of_an_earlier_server_is_found_and_followed(scripts: Scripts, wood: Wood) -> None:
    """The middle process stands for the server that crashed; here we stand for init as well."""
    run = f"earlier-{os.getpid()}"
    script = "(setsid sleep 60 &) ; sleep 60; true"
    middle = launch(scripts.python(LEAVES_A_RUN.format(script=script, run=run)))
    wood.until(lambda: middle.pid in wood.orphans)
    wood.until(lambda: len(marked().get(run, [])) == 3)
    members = marked()[run]
    main = next(who for who in members if _session(who) == who.pid)
    wood.forest.adopt(run, main, members)
    assert set(wood.forest.alive(run)) == set(members)
    wood.kill(run)
    assert not any(exists(who) for who in members)


def _session(who: Identity) -> int | None:
    stat = read_stat(who.pid)
    return None if stat is None else stat.session


def test_a_run_whose_orphans_belong_to_another_reaper(scripts: Scripts, wood: Wood) -> None:
    """As after a crash: the tree hangs below somebody else, here another subreaper."""
    run = f"foreign-{os.getpid()}"
    script = "(setsid sleep 60 &) ; sleep 60; true"
    code = (
        "import ctypes, os, signal, subprocess, time\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "if os.fork():\n"
        "    while True: time.sleep(60)\n" + LEAVES_A_RUN.format(script=script, run=run)
    )
    init = launch(scripts.python(code))
    wood.until(lambda: len(marked().get(run, [])) == 3)

    def adopted() -> bool:
        stats = [read_stat(who.pid) for who in marked()[run]]
        return sum(stat is not None and stat.ppid == init.pid for stat in stats) == 2

    wood.until(adopted)
    members = marked()[run]
    main = next(
        who
        for who in members
        if _session(who) == who.pid and b"sleep" not in Path(f"/proc/{who.pid}/comm").read_bytes()
    )
    wood.forest.adopt(run, main, members)
    assert set(wood.forest.alive(run)) == set(members)
    assert not wood.forest.empty(run)
    assert send(main, signal.SIGKILL)
    wood.until(lambda: not exists(main))
    assert not wood.forest.empty(run)
    wood.kill(run)
    wood.forest.fell(run)
    assert not any(exists(who) for who in members)
    assert send(init, signal.SIGKILL)


def test_marked_does_not_name_this_process_or_the_unmarked(scripts: Scripts, wood: Wood) -> None:
    wood.grow("a", scripts.launch("/bin/sleep", "60"))
    found = marked()
    assert all(os.getpid() != who.pid for members in found.values() for who in members)
    assert not set(wood.forest.alive("a")) & {who for of in found.values() for who in of}


def test_who_belongs_to_a_run(scripts: Scripts, wood: Wood) -> None:
    """Also when it is deep down, in a session of its own, or has lost its parent."""
    nested = "sh -c 'sleep 60 & sleep 60; true' & (setsid sleep 60 &) ; wait"
    main = wood.grow("a", scripts.sh(nested, run="a"))
    other = wood.grow("b", scripts.launch("/bin/sleep", "60"))
    members = wood.until_members("a", 5)
    assert all(wood.forest.has("a", member.pid) for member in members)
    assert not any(wood.forest.has("b", member.pid) for member in members)
    assert wood.forest.has("b", other.pid)
    for stranger in (os.getpid(), os.getppid(), 1, 2**22 + 1):
        assert not wood.forest.has("a", stranger)
    assert not wood.forest.has("x", main.pid)
    wood.kill("a")
    assert wood.forest.has("a", main.pid)  # its last words may still be heard
    assert not wood.forest.has("a", members[-1].pid)


def test_one_that_is_no_child_of_ours_may_be_the_main_process(scripts: Scripts, wood: Wood) -> None:
    """It has handed over to a child of its own: who is signalled, and who counts."""
    first = wood.grow("a", scripts.sh("sleep 60 & wait"))
    (second,) = (one for one in wood.until_members("a", 2) if one != first)
    wood.forest.plant("a", second)
    assert set(wood.forest.members("a")) == {first, second}
    wood.forest.signal("a", signal.SIGTERM, whole=False)
    wood.until_ended(first)  # whose wait is over
    wood.until(lambda: wood.forest.empty("a"))


def test_a_waif_is_young_and_nothing_tells_of_another_run(scripts: Scripts) -> None:
    """A health check has ended, and has left one behind; another was there long before."""
    forest = Forest()
    old = launch(scripts.sh("exec env -i sleep 60"))
    check = launch(scripts.sh("exec sleep 60", run="b/health"))
    main = launch(scripts.sh("(env -i setsid sleep 60 &) ; exec sleep 60", run="a"))
    ours = {old.pid, check.pid, main.pid}
    until(lambda: len(set(children(os.getpid())) - ours) == 1 and not children(main.pid))
    (hidden,) = set(children(os.getpid())) - ours
    assert set(forest.waifs("a", old.start)) == {old.pid, main.pid, hidden}
    assert set(forest.waifs("a", old.start + 1)) <= {main.pid, hidden}
    for pid in (*ours, hidden):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
