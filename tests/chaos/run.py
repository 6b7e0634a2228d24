"""One run of the chaos test, from the begin of the guest to its end."""

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests import ports
from tests.chaos.case import Violation
from tests.chaos.driver import Chaos
from tests.chaos.faults import carry_out, plan

BETWEEN_CALMS = 20.0  # seconds


def fresh_seed() -> str:
    return os.environ.get("CMAPPD_CHAOS_SEED") or secrets.token_hex(4)


def run(
    folder: Path, seed: str, seconds: float, say: Callable[[str], None], at_least: int = 0
) -> int:
    """Faults for so long; how many there were. Raises Violation, with all that was done.

    On a busy machine it goes on until there were ``at_least`` so many, for three times as long.
    """
    say(f"seed {seed}")
    chaos = Chaos(folder, seed, say)
    try:
        chaos.begin()
        _drive(chaos, seconds, at_least)
        chaos.finish()
    except Exception as error:
        chaos.tell(f"{type(error).__name__}: {error}")
        account = "\n".join(chaos.history)
        raise Violation(
            f"{error}\n\nseed {seed}, step {chaos.step}; again with: make chaos SEED={seed}\n"
            f"the logs are in {folder}\n{account}"
        ) from error
    finally:
        with uninterrupted():
            chaos.close()
        ports.release()
    return chaos.faults


def _drive(chaos: Chaos, seconds: float, at_least: int) -> None:
    begin = time.monotonic()
    calm_at = time.monotonic() + BETWEEN_CALMS
    calms = 0
    parts = {name: case.part for name, case in chaos.cases.items()}
    for step in plan(chaos.seed, parts):
        passed = time.monotonic() - begin
        if passed >= seconds and (chaos.faults >= at_least or passed >= 3 * seconds):
            return
        carry_out(chaos, step)
        chaos.run_for(step.pause)
        if time.monotonic() >= calm_at:
            chaos.calm(f"{chaos.faults} faults")
            if calms % 2 == 0:
                chaos.restart_guest()
            calms += 1
            calm_at = time.monotonic() + BETWEEN_CALMS


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Whoever is impatient leaves nothing behind either."""
    before = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
