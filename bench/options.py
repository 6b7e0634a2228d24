"""What was asked for on the command line."""

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """How much is to be measured."""

    only: tuple[str, ...]
    apps: int  # how many are "many"
    runs: int | None  # None: as many as suit the figure
    log_size: int  # bytes
    json: Path | None

    def times(self, usual: int) -> int:
        """How often to measure something that is usually measured so often."""
        return usual if self.runs is None else self.runs


def parse(names: tuple[str, ...], words: list[str] | None = None) -> Options:
    """Ends the process after --help and for wrong arguments. ``names`` are the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure cmappd beside a floor and its peers."
    )
    add = parser.add_argument
    add("--only", metavar="NAME", action="append", choices=names, help=" ".join(names))
    add("--runs", metavar="N", type=_count, help="of each measurement (default: what suits it)")
    add("--apps", metavar="N", type=_count, default=1000, help="how many are many (%(default)s)")
    add("--log-size", metavar="MB", type=_count, default=500, help="to capture (%(default)s)")
    add("--json", metavar="FILE", type=Path, help="write the results to FILE too")
    given = parser.parse_args(words)
    only = tuple(given.only) if given.only else names
    return Options(only, given.apps, given.runs, given.log_size * 10**6, given.json)


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if not 0 < number <= 10_000:
        raise argparse.ArgumentTypeError("must be a number from 1 to 10000")
    return number
