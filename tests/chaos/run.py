"""One run of the chaos test, from the begin of the guest to its end."""

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from tests import ports
from tests.chaos.case import Violation
from tests.chaos.driver import Chaos
from tests.chaos.faults import carry_out, plan

BETWEEN_CALMS = 20.0  # seconds


def fresh_seed() -> str:
    return os.environ.get("CMAPPD_CHAOS_SEED") or secrets.token_hex(4)


def run(folder: Path, seed: str, seconds: float, say: Callable[[str], None]) -> int:
    """Faults for so long; how many there were. Raises Violation, with all that was done."""
    say(f"seed {seed}")
    chaos = Chaos(folder, seed, say)
    try:
        chaos.begin()
        _drive(chaos, time.monotonic() + seconds)
        chaos.finish()
    except BaseException as error:
        chaos.tell(f"{type(error).__name__}: {error}")
        account = "\n".join(chaos.history)
        raise Violation(
            f"{error}\n\nseed {seed}, step {chaos.step}; the logs are in {folder}\n{account}"
        ) from error
    finally:
        chaos.close()
        ports.release()
    return chaos.faults


def _drive(chaos: Chaos, end: float) -> None:
    calm_at = time.monotonic() + BETWEEN_CALMS
    calms = 0
    parts = {name: case.part for name, case in chaos.cases.items()}
    for step in plan(chaos.seed, parts):
        if time.monotonic() >= end:
            return
        carry_out(chaos, step)
        chaos.run_for(step.pause)
        if time.monotonic() >= calm_at:
            chaos.calm(f"{chaos.faults} faults")
            if calms % 2 == 0:
                chaos.restart_guest()
            calms += 1
            calm_at = time.monotonic() + BETWEEN_CALMS
