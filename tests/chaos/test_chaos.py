"""The three programs through hundreds of faults, and the rules of the design held against them.

One cmappserver, 26 applications of all types and a manager for nearly each. A seed gives the
faults: SIGKILL, SIGSTOP and SIGTERM to the server, managers, main processes and single children;
stops, restarts and takeovers; good and broken edits; links that break and stall. After each, from
/proc, from the logs and from what the processes themselves have noted, never from what cmappd says:

- An application that nothing was done to has the same run, the same main process and its manager.
- No two trees of one application live at once, also not for a moment: a tree holds a lock.
- When a manager has ended, nothing is left of its application, and its exit code is the one that
  follows from what was done; where cmappserver was dead meanwhile, one of the few that can.
- Restarts come as the policy says, and no more of them than its limit.
- Every line that was written is in the log once, in order, whoever was killed.
- What status says lives, lives; what it says is stopped has no process.
- When the faults end, everything comes up, and every manager follows the right process.

``make chaos`` runs it as long as wanted; ``CMAPPD_CHAOS_SEED`` and ``make chaos SEED=`` repeat one.
"""

from pathlib import Path

import pytest

from tests.chaos.run import fresh_seed, run

SECONDS = 35.0  # of faults; with the begin and the end it takes a minute


@pytest.mark.timeout(400)
def test_no_fault_breaks_a_rule(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    seed = fresh_seed()
    print(f"CMAPPD_CHAOS_SEED={seed}")
    assert run(tmp_path, seed, SECONDS, lambda _line: None) > 0
