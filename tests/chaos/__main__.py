"""``make chaos``: the chaos test as long as wanted, with a running account.

python -m tests.chaos [--seed SEED] [--minutes N]
"""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.case import Violation
from tests.chaos.run import fresh_seed, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--seed", default=None)
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # nothing is left behind
    seed = options.seed or fresh_seed()
    folder = Path(tempfile.mkdtemp(prefix=f"cmappd-chaos-{seed}-"))
    try:
        faults = run(folder, seed, options.minutes * 60, print)
    except Violation as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(folder)
        print(f"interrupted; again with: make chaos SEED={seed}", file=sys.stderr)
        return 130
    shutil.rmtree(folder)
    print(f"{faults} faults, and no rule was broken (seed {seed})")
    return 0


sys.exit(main())
