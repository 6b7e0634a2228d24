"""``python -m bench``: measure, and print one table."""

import os
import platform
import resource
import signal
import sys
import time

from bench.figures import FIGURES
from bench.options import Options, parse
from bench.series import BenchError, Row, Unit, failed
from bench.table import render, to_json
from cmappd.errors import CmappdError

LIMIT = (
    110.0  # seconds for one figure; then each thing under way has failed, which are peers mostly
)
LENIENCY = 10.0  # seconds for each of the others, once the limit is reached


def main() -> int:
    """0 when everything was measured, whatever the verdicts; 1 when something failed."""
    options = parse(tuple(FIGURES))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: clean up, and end
    signal.signal(signal.SIGALRM, _out_of_time)
    _allow_many_files()
    machine = _machine()
    _say(", ".join(f"{key} {value}" for key, value in machine.items()))
    try:
        rows = [row for name in options.only for row in _measure(name, options)]
    except KeyboardInterrupt:
        _say("interrupted; everything that was started is ended")
        return 130
    print(render(rows))
    if options.json is not None:
        options.json.write_text(to_json(rows, machine))
    return int(any(isinstance(row.cmappd, str) for row in rows))


def _measure(name: str, options: Options) -> list[Row]:
    began = time.monotonic()
    _say(f"{name} ...")
    signal.setitimer(signal.ITIMER_REAL, LIMIT, LENIENCY)
    try:
        rows = FIGURES[name](options)
    except (BenchError, CmappdError, OSError) as error:
        rows = [Row(name, Unit.SECONDS, failed(error))]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    _say(f"{name}: {time.monotonic() - began:.0f} s")
    return rows


def _out_of_time(_signum: int, _frame: object) -> None:
    raise BenchError(f"not measured within the {LIMIT:g} s of its figure")


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _machine() -> dict[str, object]:
    """What the numbers depend on."""
    load = os.getloadavg()[0]
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cores": os.cpu_count() or 0,
        "load": round(load, 2),
    }


def _allow_many_files() -> None:
    """Supervisors of a thousand programs need some thousand descriptors."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


sys.exit(main())
