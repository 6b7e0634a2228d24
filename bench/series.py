"""What was measured: series of numbers, and the rows that compare them."""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

T = TypeVar("T")


class BenchError(Exception):
    """Something could not be measured; the text says why."""


class Unit(Enum):
    """What the numbers are."""

    SECONDS = "s"
    BYTES = "B"
    SPEED = "B/s"
    SHARE = "of a core"


@dataclass(frozen=True, slots=True)
class Series:
    """Measurements of one thing, in the base unit; never empty."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)


# A series, or why there is none.
Measured = Series | str


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on the median of cmappd: absolute, or as a multiple of the floor's or a peer's."""

    limit: float
    of: str | None = None  # "floor", or the name of a peer
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Whether a median, or its ratio, is within the bound."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the table. A series that does not exist is None, or the reason in words."""

    figure: str
    unit: Unit
    cmappd: Measured
    floor: Measured | None = None
    peers: Mapping[str, Measured] = field(default_factory=dict)
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        """The median against what the goal names, by default the floor."""
        of = self.goal.of if self.goal is not None and self.goal.of else "floor"
        other = self.floor if of == "floor" else self.peers.get(of)
        if not isinstance(self.cmappd, Series) or not isinstance(other, Series):
            return None
        return self.cmappd.median / other.median if other.median else math.inf

    @property
    def verdict(self) -> str:
        """met, MISSED, or why that cannot be told. What was not measured is never a win."""
        if self.goal is None:
            return "-"
        if not isinstance(self.cmappd, Series):
            return "not measured"
        value = self.cmappd.median if self.goal.of is None else self.ratio
        if value is None:
            return "no peer" if self.goal.of != "floor" else "no floor"
        return "met" if self.goal.is_met(value) else "MISSED"


def interleave(times: int, *sides: Callable[[], float]) -> list[Measured]:
    """Measure all sides in turn, so many times: what disturbs one disturbs the others.

    A side that fails once is not measured again, and the reason stands in its place.
    """
    values: list[list[float]] = [[] for _ in sides]
    reasons: dict[int, str] = {}
    for _ in range(times):
        for index, side in enumerate(sides):
            if index not in reasons:
                try:
                    values[index].append(side())
                except (BenchError, OSError) as error:
                    reasons[index] = failed(error)
    return [reasons.get(index) or Series(tuple(values[index])) for index in range(len(sides))]


def attempt(measure: Callable[[], T]) -> T | str:
    """What it measures, or why it could not."""
    try:
        return measure()
    except (BenchError, OSError) as error:
        return failed(error)


def failed(error: Exception) -> str:
    """The reason, as it stands in the table."""
    return f"failed: {error}"
