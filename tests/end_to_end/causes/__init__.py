"""What makes cmappmgr exit, each way really caused.

A cause sets its scene, and gives the manager that is ending for it, or has ended.
"""

from collections.abc import Callable
from typing import NamedTuple

from cmappd.reasons import Reason
from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import Manager

Cause = Callable[[Scene], Manager]


class Case(NamedTuple):
    """One way to end: with this reason and this exit code, and this said of it."""

    title: str
    reason: Reason
    code: int
    said: str
    cause: Cause
    needs_root: bool = False
