"""How much may be written of what somebody else brings about, as often as he likes."""

LINES, SPAN = 100, 60.0  # so many in so many seconds


class Budget:
    """``left_out`` counts what was refused; whoever tells of it sets it back to 0."""

    def __init__(self) -> None:
        self.left_out = 0
        self._left = 0
        self._until = 0.0

    def allows(self, now: float) -> bool:
        """Whether one line more may be written; ``now`` is monotonic seconds."""
        if now >= self._until:
            self._until, self._left = now + SPAN, LINES
        if self._left == 0:
            self.left_out += 1
            return False
        self._left -= 1
        return True
