"""Every scenario several times, as a table: ``python -m tests.cluster [--runs N] [NAME ...]``.

Those of Pacemaker take place in a real cluster; those of Serviceguard under a package runner, which
needs no root.
"""

import argparse
import contextlib
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.cluster.cluster import Cluster, why_not
from tests.cluster.real_administration import REAL_ADMINISTRATION
from tests.cluster.real_pair import REAL_PAIR
from tests.cluster.real_scenarios import REAL_SCENARIOS
from tests.cluster.scenarios import SCENARIOS, Scenario
from tests.serviceguard import scenarios as serviceguard
from tests.serviceguard.stage import staged

PACEMAKER = SCENARIOS + REAL_SCENARIOS + REAL_ADMINISTRATION + REAL_PAIR
WIDTH = 300  # of what is shown of an error

Run = Callable[[], float]


def main() -> int:
    """Print the table; 1 where a scenario has failed."""
    parser = argparse.ArgumentParser(description="Times of recovery in a cluster.")
    parser.add_argument("--runs", type=int, default=3, help="of each scenario (default: 3)")
    names = [scenario.__name__ for scenario in (*PACEMAKER, *serviceguard.SCENARIOS)]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    asked = parser.parse_args()
    chosen = set(asked.names or names)
    unknown = chosen - set(names)
    in_cluster = [each for each in PACEMAKER if each.__name__ in chosen]
    by_the_rules = [each for each in serviceguard.SCENARIOS if each.__name__ in chosen]
    reason = f"no scenario {', '.join(unknown)}" if unknown else why_not() if in_cluster else ""
    if reason:
        print(f"cannot run: {reason}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # after cleaning up
    with contextlib.ExitStack() as stack:
        rows: list[tuple[str, Run]] = []
        if in_cluster:
            cluster = stack.enter_context(_cluster())
            rows += [(each.__name__, partial(_really, each, cluster)) for each in in_cluster]
        rows += [(each.__name__, partial(_by_the_rules, each)) for each in by_the_rules]
        return _table(rows, asked.runs)


@contextlib.contextmanager
def _cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="cmappd-cluster-") as folder:
        cluster = Cluster(Path(folder))
        try:
            yield cluster
        finally:
            cluster.close()


def _really(scenario: Scenario, cluster: Cluster) -> float:
    """A run in the cluster, which is cleared after it, and begins anew where it has failed."""
    try:
        seconds = scenario(cluster)
        cluster.clear()
    except Exception:
        cluster.restart()
        raise
    return seconds


def _by_the_rules(scenario: serviceguard.Scenario) -> float:
    """A run on a stage of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="cmappd-stage-") as folder,
        staged(Path(folder)) as stage,
    ):
        return scenario(stage)


def _table(rows: list[tuple[str, Run]], runs: int) -> int:
    width = max(len(name) for name, _ in rows)
    print(
        f"{'scenario':{width}} {'min':>7} {'median':>7} {'max':>7}  verdict (seconds to recovery)"
    )
    failed = 0
    for name, run in rows:
        seconds, trouble = _measure(run, runs)
        failed += bool(trouble)
        told = [min(seconds), statistics.median(seconds), max(seconds)] if seconds else []
        figures = " ".join(f"{each:7.2f}" for each in told) or " ".join(["      -"] * 3)
        good = f"{len(seconds)} of {runs} well"
        print(f"{name:{width}} {figures}  {good}{trouble}", flush=True)
    return int(failed > 0)


def _measure(run: Run, runs: int) -> tuple[list[float], str]:
    """The seconds of the runs that went well, and what went wrong in the others."""
    seconds, trouble = [], ""
    for _ in range(runs):
        try:
            seconds.append(run())
        except Exception as error:  # noqa: BLE001  the others are to be seen all the same
            trouble = f"; {' '.join(str(error).split()) or repr(error)}"[:WIDTH]
    return seconds, trouble


if __name__ == "__main__":
    sys.exit(main())
