"""How many lines somebody else may bring about."""

from cmappd.core.budget import LINES, SPAN, Budget


def test_what_is_over_the_budget_is_counted_until_the_next_span() -> None:
    budget = Budget()
    allowed = [budget.allows(1000.0 + n * SPAN / 1000) for n in range(500)]
    assert allowed == [True] * LINES + [False] * (500 - LINES)
    assert budget.left_out == 500 - LINES
    assert budget.allows(1000.0 + SPAN)
    assert budget.left_out == 500 - LINES


def test_a_line_now_and_then_is_always_allowed() -> None:
    budget = Budget()
    assert all(budget.allows(n * SPAN / LINES * 1.01) for n in range(10 * LINES))
