"""What peers do wrong, in the log: a line of each kind a sweep, so that nobody can fill it.

Kinds are apart from each other: a flood from outside hides nothing that a known manager does.
"""

import logging

MAX_KINDS = 100
OTHERS = "complaints of other kinds"


class Complaints:
    """The complaints since the last sweep, by their kinds."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._counts: dict[str, int] = {}

    def add(self, kind: str, text: str) -> None:
        """Log it if it is the first of its kind; ``kind`` is a plural, for the line on the rest."""
        if kind not in self._counts and len(self._counts) >= MAX_KINDS:
            kind = OTHERS
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] == 1:
            self._log.warning("%s", text)

    def sweep(self) -> None:
        """Log how many more there were of each kind, and begin anew."""
        for kind, count in self._counts.items():
            if count > 1:
                self._log.warning("%d more %s", count - 1, kind)
        self._counts.clear()
