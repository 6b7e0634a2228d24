"""Every scenario several times, as a table: ``python -m tests.cluster [--runs N] [NAME ...]``."""

import argparse
import signal
import statistics
import sys
import tempfile
from pathlib import Path

from tests.cluster.cluster import Cluster, why_not
from tests.cluster.real_administration import REAL_ADMINISTRATION
from tests.cluster.real_pair import REAL_PAIR
from tests.cluster.real_scenarios import REAL_SCENARIOS
from tests.cluster.scenarios import SCENARIOS, Scenario

EVERY = SCENARIOS + REAL_SCENARIOS + REAL_ADMINISTRATION + REAL_PAIR
WIDTH = 300  # of what is shown of an error


def main() -> int:
    """Print the table; 1 where a scenario has failed."""
    parser = argparse.ArgumentParser(description="Times of recovery in a real cluster.")
    parser.add_argument("--runs", type=int, default=3, help="of each scenario (default: 3)")
    names = [scenario.__name__ for scenario in EVERY]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(names)
    reason = why_not() or (f"no scenario {', '.join(unknown)}" if unknown else "")
    if reason:
        print(f"cannot run: {reason}", file=sys.stderr)
        return 1
    chosen = [each for each in EVERY if not asked.names or each.__name__ in asked.names]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # after cleaning up
    with tempfile.TemporaryDirectory(prefix="cmappd-cluster-") as folder:
        cluster = Cluster(Path(folder))
        try:
            return _table(cluster, chosen, asked.runs)
        finally:
            cluster.close()


def _table(cluster: Cluster, chosen: list[Scenario], runs: int) -> int:
    print(f"{'scenario':32} {'min':>7} {'median':>7} {'max':>7}  verdict (seconds to recovery)")
    failed = 0
    for scenario in chosen:
        seconds, trouble = _measure(cluster, scenario, runs)
        failed += bool(trouble)
        told = [min(seconds), statistics.median(seconds), max(seconds)] if seconds else []
        figures = " ".join(f"{each:7.2f}" for each in told) or " ".join(["      -"] * 3)
        good = f"{len(seconds)} of {runs} well"
        print(f"{scenario.__name__:32} {figures}  {good}{trouble}", flush=True)
    return int(failed > 0)


def _measure(cluster: Cluster, scenario: Scenario, runs: int) -> tuple[list[float], str]:
    """The seconds of the runs that went well, and what went wrong in the others."""
    seconds, trouble = [], ""
    for _ in range(runs):
        try:
            found = scenario(cluster)
            cluster.clear()
            seconds.append(found)
        except Exception as error:  # noqa: BLE001  the others are to be seen all the same
            trouble = f"; {' '.join(str(error).split()) or repr(error)}"[:WIDTH]
            cluster.restart()
    return seconds, trouble


if __name__ == "__main__":
    sys.exit(main())
