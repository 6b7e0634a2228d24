"""The three programs through hundreds of faults, and the rules of the design held against them.

One cmappserver, more than 30 applications of all types and a manager for nearly each. A seed gives
the faults: SIGKILL, SIGSTOP and SIGTERM to server, managers, main processes and single children;
stops, restarts, takeovers, maintenance; good and broken edits; upgrades; full disks; links that
break and stall. After each, from /proc, from the logs and from what the processes have noted:

- An application that nothing was done to has the same run, the same main process and its manager.
- No two trees of one application live at once, also not for a moment: a tree holds a lock.
- When a manager has ended, nothing is left of its application, and its exit code is the one that
  follows from what was done; where cmappserver was dead meanwhile, one of the few that can.
- Restarts come as the policy says, and no more of them than its limit.
- Every line that was written is in the log once, in order; what a full disk cost is counted.
- What status says lives, lives; what it says is stopped has no process.
- When the faults end, everything comes up, and every manager follows the right process.

``make chaos`` runs it as long as wanted; ``CMAPPD_CHAOS_SEED`` and ``make chaos SEED=`` repeat the
faults of a seed, though not the moments at which they find the programs.

Each rule was broken once in the code, and that was seen here:

- applications killed with cmappserver: one "has ended, and nobody knows why";
- launched without a look at records and leftovers: "two trees", by /proc;
- stopped said when SIGKILL was sent: "two trees", by the lock, of the one that is slow to die; only
  with many restarts of that one, because others are gone as quickly as this is said;
- stopped said when the main process had ended: a manager has ended, "and there is" the rest;
- stopping shown as stopped: a manager concludes from it, "and there is" the rest;
- a stop by a manager told as a failure: its exit code 143 in place of 0;
- the limit of restarts not looked at, or a result not kept over a crash: "has a new run after"
  an end that was the last;
- no SIGKILL after stop.timeout: "waited in vain" for the end of the stubborn one;
- a lost link taken for the end of the application: a manager ends with 202, "and nothing was
  done to it";
- a claim after a lost link that starts again: "has a new run after: stopped";
- a child not put into the cgroup that had left the tree before: a manager has ended, "and there
  is" it;
- a stop undone by the restart policy: "has a new run after: stopped";
- what a broken file hides taken away: managers end with 204, "and nothing was done to" them;
- the last line written again at the adoption: it "comes again"; some bytes lost: "missing";
- in a log with times or as JSON lines lost, or written twice: "missing", or one "comes again";
- orphans not waited for: "cmappserver leaves a zombie".
"""

from pathlib import Path

import pytest

from tests.chaos.run import fresh_seed, run

SECONDS = 35.0  # of faults; with the begin and the end it takes a minute
AT_LEAST = 200  # faults, where the machine has the time for them


@pytest.mark.timeout(400)
def test_no_fault_breaks_a_rule(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    seed = fresh_seed()
    print(f"CMAPPD_CHAOS_SEED={seed}")
    assert run(tmp_path, seed, SECONDS, lambda _line: None, AT_LEAST) > 0
