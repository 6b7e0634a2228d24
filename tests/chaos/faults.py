"""What is done to the guest, its applications and its hosts; each with what must come of it.

A fault on an application takes a case and a source of chance of its own, so that a seed gives the
same faults whatever the time they take. ``FAULTS`` says how often each comes, and to whom.
"""

import contextlib
import json
import math
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.chaos import actor
from tests.chaos.case import Case, Verdict, Violation
from tests.chaos.cast import Part
from tests.chaos.driver import BUSY, Chaos

NOTHING = Verdict(frozenset())
OPERATOR = 212
NEVER = float("inf")  # busy until a later step ends that
ROOM = 32 * 1024  # bytes in a log, which rotates at twice as many


@dataclass(frozen=True)
class Fault:
    """``do`` takes a case where the fault is ``to`` an application."""

    weight: float
    do: Callable[..., None]
    to: Callable[[Part], bool] | None = None

    @property
    def name(self) -> str:
        return self.do.__name__


@dataclass(frozen=True)
class Step:
    """One step of the plan."""

    number: int
    fault: Fault
    target: str | None
    chance: random.Random
    pause: float


def plan(seed: str, parts: dict[str, Part]) -> Iterator[Step]:
    """All faults that follow from the seed, without an end."""
    chance, number = random.Random(seed), 0
    weights = [fault.weight for fault in FAULTS]
    while True:
        number += 1
        (fault,) = chance.choices(FAULTS, weights)
        names = [name for name, part in parts.items() if fault.to is not None and fault.to(part)]
        if fault.to is not None and not names:
            continue
        target = chance.choice(names) if names else None
        own = random.Random(f"{seed}: {number}")
        yield Step(number, fault, target, own, chance.uniform(0.0, 0.1))


def carry_out(chaos: Chaos, step: Step) -> None:
    """Do it now, or as soon as the application's last fault has had its effect."""
    chaos.step = step.number
    if step.target is None:
        step.fault.do(chaos, step.chance)
        return
    case, name = chaos.cases[step.target], step.fault.name

    def do() -> None:
        chaos.faults += 1
        chaos.tell(f"[{step.number}] {name} {step.target}")
        step.fault.do(chaos, case, step.chance)

    if case.idle and not chaos.queues[step.target]:
        do()
    elif len(chaos.queues[step.target]) < 3:
        chaos.queues[step.target].append(do)


# To an application's processes --------------------------------------------------------


def send(chaos: Chaos, case: Case, signum: int) -> None:
    assert case.main is not None
    chaos.stage.kill(*case.main, signum)


def kill_main(chaos: Chaos, case: Case, chance: random.Random) -> None:
    signum = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGHUP, signal.SIGSEGV])
    case.expect_end(f"{signum.name} to its main process", 128 + signum)
    send(chaos, case, signum)


def order_exit(chaos: Chaos, case: Case, chance: random.Random) -> None:
    code = chance.choice([0, 1, 7, 77, 199])
    case.expect_end(f"it ends with {code}", code, success=code == 0)
    (chaos.stage.cast / case.name / actor.ORDER).write_text(str(code))
    send(chaos, case, signal.SIGUSR1)


def kill_tree(chaos: Chaos, case: Case, chance: random.Random) -> None:
    chaos.look_at(case)
    processes = sorted(case.own)
    chance.shuffle(processes)
    case.expect_end("SIGKILL to all of it", 128 + signal.SIGKILL)
    for one in processes:
        chaos.stage.kill(one.pid, one.start, signal.SIGKILL)


def kill_child(chaos: Chaos, case: Case, chance: random.Random) -> None:
    chaos.look_at(case)
    children = [one for one in case.own if one.role.startswith("child")]
    if children:
        one = chance.choice(children)
        chaos.stage.kill(one.pid, one.start, signal.SIGKILL)


def freeze_main(chaos: Chaos, case: Case, chance: random.Random) -> None:
    main, seconds = case.main, chance.uniform(0.2, 2)
    assert main is not None
    send(chaos, case, signal.SIGSTOP)
    case.busy_until = NEVER

    def go_on() -> None:
        case.busy_until = 0.0
        chaos.stage.kill(*main, signal.SIGCONT)

    chaos.at(seconds, f"  {case.name} goes on", go_on)


def freeze_and_stop(chaos: Chaos, case: Case, chance: random.Random) -> None:
    chaos.look_at(case)
    for one in case.own:
        chaos.stage.kill(one.pid, one.start, signal.SIGSTOP)
    stop_app(chaos, case, chance)


def sicken(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """Its health checks fail, for this run only."""
    path = chaos.stage.cast / case.name / actor.SICK
    path.write_text(case.run)
    if case.part.health == "restart":
        case.expect_sickness("its health checks fail")
        return
    case.busy_until = NEVER

    def heal() -> None:
        case.busy_until = 0.0
        path.unlink()

    chaos.at(3, f"  {case.name} is well again", heal)


def fail_to_start(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """It ends, and when its cluster starts it again, its start.command fails, once."""
    chaos.unable(case).touch()
    order_exit(chaos, case, chance)


# By its managers and its administrator ------------------------------------------------


def terminate_manager(chaos: Chaos, case: Case, chance: random.Random) -> None:
    assert case.manager is not None
    case.expect_stop("SIGTERM to its manager", 0)
    case.manager.terminate()


def kill_manager(chaos: Chaos, case: Case, chance: random.Random) -> None:
    assert case.manager is not None
    case.manager.process.kill()
    case.manager.process.wait()
    case.manager = None
    case.expect("SIGKILL to its manager", NOTHING, same_run=True)
    case.start_at = time.monotonic() + chance.uniform(0, 1)


def abandon(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """It is not to outlive its manager."""
    assert case.manager is not None
    case.manager.process.kill()
    case.manager.process.wait()
    case.manager = None
    case.expect("SIGKILL to its manager, and nobody comes", NOTHING, rests=True)
    assert case.expects is not None
    assert case.part.lease is not None
    case.expects.deadline += case.part.lease


def kill_both(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """The next manager is told of the end that nobody heard of."""
    assert case.manager is not None
    case.manager.process.kill()
    case.manager.process.wait()
    case.manager = None
    case.expect_end("SIGKILL to its manager and to it", 128 + signal.SIGKILL)
    assert case.expects is not None
    # Of an unknown end nothing is to be told: the next manager starts it again.
    dark = case.expects.in_the_dark
    case.expects.in_the_dark = Verdict(dark.codes | {UNKNOWN_START}, renews=True)
    send(chaos, case, signal.SIGKILL)
    case.start_at = time.monotonic() + chance.uniform(0, 1)


UNKNOWN_START = 207


def end_unheard(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """It ends while its manager cannot hear; and when cmappserver knows, that is killed too.

    The result is there for the manager when it comes back, or for the next one.
    """
    back = chance.choice([_freeze_it, _kill_it, _cut_it_off])(chaos, case, chance)
    if back is _comes_again or chance.random() < 0.7:
        order_exit(chaos, case, chance)
    else:
        stop_app(chaos, case, chance)
    expects = case.expects
    assert expects is not None
    if back is _comes_again:
        dark = expects.in_the_dark
        expects.in_the_dark = Verdict(dark.codes | {UNKNOWN_START}, renews=True)
        if 0 in expects.light.codes:  # a success that nobody has fetched hinders no start
            expects.light = Verdict(expects.light.codes, renews=True)
    give_up = time.monotonic() + 8

    def ask() -> None:
        chaos.control("status", "--json", case.name, then=see)

    def see(answer: str) -> None:
        phase = json.loads(answer)["apps"][0]["phase"]
        if phase in ("stopped", "failed"):
            expects.known = time.monotonic()
            chaos.tell(f"  the end of {case.name} is known")
            kill_server(chaos, chance)
            back(chaos, case)
        elif time.monotonic() < give_up:
            chaos.at(0.1, "", ask)
        else:
            back(chaos, case)

    ask()


def _freeze_it(chaos: Chaos, case: Case, chance: random.Random) -> Callable[[Chaos, Case], None]:
    assert case.manager is not None
    process = case.manager.process
    process.send_signal(signal.SIGSTOP)
    return lambda chaos, case: process.send_signal(signal.SIGCONT)


def _kill_it(chaos: Chaos, case: Case, chance: random.Random) -> Callable[[Chaos, Case], None]:
    assert case.manager is not None
    case.manager.process.kill()
    case.manager.process.wait()
    case.manager = None
    return _comes_again


def _comes_again(chaos: Chaos, case: Case) -> None:
    case.start_at = time.monotonic()


def _cut_it_off(chaos: Chaos, case: Case, chance: random.Random) -> Callable[[Chaos, Case], None]:
    host = chaos.stage.host_of(case.name)
    if time.monotonic() >= chaos.links_disturbed[host]:
        refuse(chaos, host, 4)
    return lambda chaos, case: None


def spend(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """One end after the other, until the restarts are used up, and one more is too many."""
    again = [partial(_kill_again, chaos, case, chance)] * (case.part.limit - case.used)
    chaos.queues[case.name].extendleft(again)
    kill_main(chaos, case, chance)


def _kill_again(chaos: Chaos, case: Case, chance: random.Random) -> None:
    chaos.faults += 1
    chaos.tell(f"  and {case.name} once more, after {case.used} restarts")
    kill_main(chaos, case, chance)


def start_twice(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """A start of what runs starts nothing."""
    case.busy_until = NEVER

    def answered(_answer: str) -> None:
        case.busy_until = 0.0

    chaos.control("start", case.name, then=answered)


def move_log(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """As logrotate does it: the log is moved away, and opened anew."""
    path = Path(case.part.keys["log"]["path"])
    if not path.exists() or path.stat().st_size > ROOM:
        return  # cmappserver itself may be about to
    number = 1
    while path.with_name(f"{path.name}.{number}").exists():
        number += 1
    for n in range(number, 1, -1):
        path.with_name(f"{path.name}.{n - 1}").rename(path.with_name(f"{path.name}.{n}"))
    path.rename(path.with_name(f"{path.name}.1"))
    chaos.control("reopen", case.name)


def detach(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """Its manager hands it over to the next one."""
    assert case.manager is not None
    case.expect("its manager detaches", Verdict(frozenset({0})), same_run=True, leaves=True)
    case.manager.process.send_signal(signal.SIGUSR1)


def maintain(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """Somebody works on it, and it ends meanwhile: that counts when the maintenance is over."""
    if not chaos.now_answers() or case.used + case.perhaps_used >= case.part.limit > 0:
        return
    if case.is_adopted and case.part.limit > 0:
        return  # its end may be heard of late, when that is over, and be counted
    words = "maintenance", case.name
    case.busy_until = NEVER

    def begun(_answer: str) -> None:
        case.busy_until = 0.0
        case.expect("SIGKILL to it under maintenance", NOTHING)
        send(chaos, case, signal.SIGKILL)
        since = time.monotonic()
        seconds = chance.uniform(0.5, 2)
        chaos.at(seconds, f"  the maintenance of {case.name} is over", lambda: over(since))

    def over(since: float) -> None:
        case.expects = None
        case.expect_end("the maintenance is over", 128 + signal.SIGKILL)
        assert case.expects is not None
        case.expects.since, case.expects.by_policy = since, False
        chaos.command(case, *words, "off")

    chaos.control(*words, "on", "--reason", "chaos", then=begun)


def freeze_manager(chaos: Chaos, case: Case, chance: random.Random) -> None:
    manager, seconds = case.manager, chance.uniform(0.2, 2.5)
    assert manager is not None
    manager.process.send_signal(signal.SIGSTOP)
    chaos.disturb(seconds)
    chaos.at(
        seconds,
        f"  manager {manager.number} of {case.name} goes on",
        lambda: manager.process.send_signal(signal.SIGCONT),
    )


def second_manager(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """Another manager is refused. While a link is lost it need not be, so that is not tried."""
    if chaos.disturbed or chaos.in_the_dark(time.monotonic() - 5):
        return
    manager = chaos.stage.start_manager(case.name)
    chaos.leaving.append((manager, frozenset({BUSY})))
    manager.process.wait(60)


def take_over(chaos: Chaos, case: Case, chance: random.Random) -> None:
    assert case.manager is not None
    case.expect("another manager takes over", NOTHING, same_run=True)
    assert case.expects is not None
    case.expects.rival = case.manager
    case.manager = chaos.stage.start_manager(case.name, "--takeover")


def stop_app(chaos: Chaos, case: Case, chance: random.Random) -> None:
    case.expect_stop("stopped by its administrator", OPERATOR)
    chaos.command(case, "stop", case.name)


def restart_app(chaos: Chaos, case: Case, chance: random.Random) -> None:
    case.expect_renewal("restarted by its administrator")
    chaos.command(case, "restart", case.name)


# By an editor -------------------------------------------------------------------------


def edit_live(chaos: Chaos, case: Case, chance: random.Random) -> None:
    case.keys = {**case.keys, "description": f"Number {chance.random()}"}
    chaos.stage.write(case.name, case.keys)


def edit_launch(chaos: Chaos, case: Case, chance: random.Random) -> None:
    case.keys = {**case.keys, "environment": {"NUMBER": str(chance.random())}}
    if case.keys.get("reload") == "restart":
        case.expect_renewal("its launch keys are changed")
    chaos.stage.write(case.name, case.keys)


def break_file(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """What is wrong changes nothing, also while other things happen to the application."""
    path = chaos.stage.stanza_file(case.name)
    words = [
        "[apps",
        f"[apps.{case.name}]\ncommand = 7\n",
        f'[apps.{case.name}]\ncommand = ["relative"]\n',
        f'[apps.{case.name}]\ncommand = ["/bin/false"]\ntypo = 1\n',
        "\0\xff",
    ]
    path.write_text(chance.choice(words))
    name, seconds = case.name, chance.uniform(1, 5)
    chaos.broken_until = max(chaos.broken_until, time.monotonic() + seconds)
    chaos.at(seconds, f"  {name}.toml is mended", lambda: chaos.stage.write(name, case.keys))


def remove_stanza(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """A removed application runs on."""
    chaos.stage.stanza_file(case.name).unlink()
    case.busy_until = NEVER

    def bring_back() -> None:
        chaos.stage.write(case.name, case.keys)
        case.busy_until = time.monotonic() + 2

    chaos.at(chance.uniform(0.5, 3), f"  {case.name}.toml is back", bring_back)


def full_log(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """Its log is moved to a disk that takes nothing, and back."""
    name, seconds = case.name, chance.uniform(0.5, 3)
    full = {**case.keys, "log": {**case.keys["log"], "path": "/dev/full"}}
    chaos.logs[name].full_until = time.monotonic() + seconds
    chaos.stage.write(name, full)
    chaos.at(seconds, f"  {name} has its log again", lambda: chaos.stage.write(name, case.keys))


def full_disk(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """The disk of its log is filled by somebody else."""
    assert case.part.disk is not None
    filler, seconds = case.part.disk / "filler", chance.uniform(0.5, 3)
    chaos.logs[case.name].full_until = time.monotonic() + seconds
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    name = case.name
    chaos.at(seconds, f"  the disk of {name} is empty", lambda: filler.unlink(missing_ok=True))


def silence(chaos: Chaos, case: Case, chance: random.Random) -> None:
    """It does nothing any more, and its watchdog notices."""
    case.expect_end("it is silent", 209)
    send(chaos, case, signal.SIGSTOP)


def break_main(chaos: Chaos, chance: random.Random) -> None:
    """What is wrong with the main file changes nothing; a cmappserver that starts would refuse."""
    if chaos.down_since is not None or chaos.main_is_broken or chaos.is_about_to_start():
        return
    chaos.faults += 1
    chaos.tell(f"[{chaos.step}] cmappserver.toml is broken")
    chaos.main_is_broken = True
    chaos.stage.break_main()
    chaos.at(chance.uniform(0.5, 2), "  cmappserver.toml is mended", lambda: mend_main(chaos))


def mend_main(chaos: Chaos) -> None:
    chaos.main_is_broken = False
    chaos.stage.write_main()


# To cmappserver -----------------------------------------------------------------------


def kill_server(chaos: Chaos, chance: random.Random) -> None:
    if chaos.down_since is not None or chaos.main_is_broken:
        return
    chaos.faults += 1
    seconds = chance.choice([0.0, 0.0, chance.uniform(0.1, 2)])
    chaos.tell(f"[{chaos.step}] SIGKILL to cmappserver, away for {seconds:.2f} s")
    _end_server(chaos)
    chaos.at(seconds, "  cmappserver is started", chaos.stage.start_server)


def kill_server_twice(chaos: Chaos, chance: random.Random) -> None:
    """Once more while it takes up what the first had left."""
    if chaos.down_since is not None or chaos.main_is_broken:
        return
    chaos.faults += 2
    seconds = chance.uniform(0.05, 0.6)
    chaos.tell(f"[{chaos.step}] SIGKILL to cmappserver, and again after {seconds:.2f} s")
    _end_server(chaos)
    chaos.stage.start_server()
    chaos.killed_again = NEVER

    def again() -> None:
        chaos.killed_again = 0.0
        _end_server(chaos)
        chaos.stage.start_server()

    chaos.at(seconds, "  SIGKILL to cmappserver again", again)


def _end_server(chaos: Chaos) -> None:
    server = chaos.stage.server
    assert server is not None
    if chaos.down_since is None:
        chaos.down_since = time.monotonic()
    server.kill()
    chaos.stage.server = None
    chaos.frozen_until = 0.0
    for log in chaos.logs.values():
        if time.monotonic() < log.full_until + 5:  # what it had counted has died with it
            log.counts = False


def leave(chaos: Chaos, chance: random.Random) -> None:
    """cmappserver is told to end and to keep the applications, and is started again."""
    server = chaos.stage.server
    if not chaos.now_answers() or server is None or chaos.main_is_broken:
        return
    chaos.faults += 1
    chaos.tell(f"[{chaos.step}] cmappserver is told to end, and keeps the applications")
    chaos.stage.on_shutdown = "keep"
    chaos.stage.write_main()
    # It may refuse for what is wrong with other files; this it has taken.
    if chaos.stage.control("reload").process.wait(60) not in (0, 1):
        raise Violation("cmappctl reload has had no answer")
    chaos.down_since = time.monotonic()
    chaos.stage.server = None
    server.signal(signal.SIGTERM)
    if server.wait(60) != 0:
        raise Violation(f"cmappserver has ended with {server.process.returncode}")
    chaos.stage.on_shutdown = "stop"
    chaos.stage.write_main()
    chaos.frozen_until = 0.0
    chaos.stage.start_server()


def upgrade(chaos: Chaos, chance: random.Random) -> None:
    """cmappserver is replaced; its children stay its children, and nothing becomes unknown."""
    if chaos.down_since is not None or chaos.main_is_broken:
        return
    chaos.faults += 1
    chaos.tell(f"[{chaos.step}] cmappserver is replaced")
    chaos.replaced = time.monotonic() + 60
    chaos.disturb(1)
    chaos.upgrade()


def freeze_server(chaos: Chaos, chance: random.Random) -> None:
    server, seconds = chaos.stage.server, chance.uniform(0.2, 3)
    if chaos.down_since is not None or server is None:
        return
    chaos.faults += 1
    chaos.tell(f"[{chaos.step}] cmappserver stands still for {seconds:.2f} s")
    server.signal(signal.SIGSTOP)
    chaos.frozen_until = time.monotonic() + seconds
    chaos.disturb(seconds)

    def go_on() -> None:
        if server.running:
            server.signal(signal.SIGCONT)

    chaos.at(seconds, "  cmappserver goes on", go_on)


# To the network -----------------------------------------------------------------------


def cut_links(chaos: Chaos, chance: random.Random) -> None:
    number = chance.randrange(len(chaos.stage.proxies))
    chaos.faults += 1
    chaos.tell(f"[{chaos.step}] all links of host {number} break")
    chaos.links_disturbed[number] = max(chaos.links_disturbed[number], time.monotonic())
    chaos.stage.proxies[number].reset()
    chaos.disturb(0.5)


def stall_links(chaos: Chaos, chance: random.Random) -> None:
    number, seconds = chance.randrange(len(chaos.stage.proxies)), chance.uniform(0.3, 4)
    if time.monotonic() < chaos.links_disturbed[number]:
        return
    chaos.faults += 1
    chaos.tell(f"[{chaos.step}] all links of host {number} stand still for {seconds:.2f} s")
    proxy = chaos.stage.proxies[number]
    proxy.freeze()
    _mend(chaos, number, seconds, f"  the links of host {number} go on", proxy.thaw)


def close_port(chaos: Chaos, chance: random.Random) -> None:
    number, seconds = chance.randrange(len(chaos.stage.proxies)), chance.uniform(0.3, 4)
    if time.monotonic() >= chaos.links_disturbed[number]:
        refuse(chaos, number, seconds)


def refuse(chaos: Chaos, number: int, seconds: float) -> None:
    chaos.faults += 1
    chaos.tell(f"[{chaos.step}] host {number} is refused for {seconds:.2f} s")
    proxy = chaos.stage.proxies[number]
    proxy.close_port()
    _mend(chaos, number, seconds, f"  host {number} is let in again", proxy.open_port)


def _mend(chaos: Chaos, number: int, seconds: float, what: str, do: Callable[[], None]) -> None:
    """Have links mended later; until then nothing else is done to them, how late that may be."""
    chaos.links_disturbed[number] = math.inf
    chaos.disturb(seconds)

    def mend() -> None:
        chaos.links_disturbed[number] = time.monotonic()
        do()

    chaos.at(seconds, what, mend)


def ask(chaos: Chaos, chance: random.Random) -> None:
    chaos.ask()


def anybody(part: Part) -> bool:
    return True


def managed(part: Part) -> bool:
    return part.managed


def mortal(part: Part) -> bool:
    return part.has_main


def free(part: Part) -> bool:
    return not part.required


def movable(part: Part) -> bool:
    """Two that rotate one log at a time would take it from each other."""
    own = "path" in part.keys["log"]
    return own and not (part.quick or part.full or part.disk)


FAULTS = (
    Fault(8, kill_main, mortal),
    Fault(6, order_exit, lambda part: part.obeys),
    Fault(4, kill_tree, mortal),
    Fault(6, kill_child, lambda part: part.children),
    Fault(3, freeze_main, mortal),
    Fault(2, freeze_and_stop, lambda part: part.has_main and not part.required),
    Fault(3, sicken, lambda part: bool(part.health)),
    Fault(1, fail_to_start, lambda part: part.prepares),
    Fault(6, terminate_manager, managed),
    Fault(5, kill_manager, managed),
    Fault(2, kill_both, lambda part: part.managed and part.has_main and part.policy == "never"),
    Fault(4, end_unheard, lambda part: part.managed and part.obeys and part.policy == "never"),
    Fault(3, spend, lambda part: 0 < part.limit < 100),
    Fault(1, abandon, lambda part: part.lease is not None),
    Fault(3, freeze_manager, managed),
    Fault(2, second_manager, managed),
    Fault(2, take_over, managed),
    Fault(2, detach, managed),
    Fault(2, maintain, lambda part: part.managed and part.has_main),
    Fault(5, stop_app, free),
    Fault(4, restart_app, free),
    Fault(3, stop_app, lambda part: part.stubborn),
    Fault(2, start_twice, anybody),
    Fault(2, move_log, movable),
    Fault(3, edit_live, anybody),
    Fault(3, edit_launch, anybody),
    Fault(3, break_file, anybody),
    Fault(2, remove_stanza, free),
    Fault(3, full_log, lambda part: part.full),
    Fault(3, full_disk, lambda part: part.disk is not None),
    Fault(1, silence, lambda part: part.watched),
    Fault(0.5, break_main),
    Fault(2, kill_server),
    Fault(1, upgrade),
    Fault(0.5, leave),
    Fault(0.5, kill_server_twice),
    Fault(1, freeze_server),
    Fault(1, cut_links),
    Fault(1, stall_links),
    Fault(1, close_port),
    Fault(3, ask),
)
