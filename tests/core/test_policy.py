"""What an exit means, and when to try again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmappd import reasons
from cmappd.core import policy
from cmappd.core.state import REQUESTED, Cause, ExitStatus, Outcome
from cmappd.reasons import Reason

CODES = st.integers(0, 255)
STATUSES = st.one_of(
    st.builds(ExitStatus, code=CODES),
    st.builds(ExitStatus, signal=st.integers(1, 64)),
    st.just(ExitStatus()),
)


def outcome(cause: Cause, status: ExitStatus, success_codes: tuple[int, ...] = (0,)) -> Outcome:
    return Outcome("db.e.1", cause, status, policy.succeeded(cause, status, success_codes))


@pytest.mark.parametrize(
    ("cause", "status", "expected"),
    [
        (Cause.EXIT, ExitStatus(code=0), True),
        (Cause.EXIT, ExitStatus(code=3), True),
        (Cause.EXIT, ExitStatus(code=1), False),
        (Cause.EXIT, ExitStatus(signal=15), False),
        (Cause.EXIT, ExitStatus(code=0, signal=9), False),
        (Cause.UNKNOWN, ExitStatus(), False),
        (Cause.UNHEALTHY, ExitStatus(code=0), False),
        (Cause.NOT_READY, ExitStatus(code=0), False),
        (Cause.NOT_STARTED, ExitStatus(), False),
        (Cause.MANAGER, ExitStatus(code=0), False),
    ],
)
def test_success_is_an_end_by_itself_with_a_success_code(
    cause: Cause, status: ExitStatus, expected: bool
) -> None:
    assert policy.succeeded(cause, status, (0, 3)) is expected


@pytest.mark.parametrize(
    ("cause", "status", "reason", "code"),
    [
        (Cause.EXIT, ExitStatus(code=0), reasons.SUCCESS, 0),
        (Cause.EXIT, ExitStatus(code=7), reasons.APP, 7),
        (Cause.EXIT, ExitStatus(code=199), reasons.APP, 199),
        (Cause.EXIT, ExitStatus(signal=9), reasons.APP, 137),
        (Cause.EXIT, ExitStatus(), reasons.UNKNOWN_STATUS, 210),
        (Cause.MANAGER, ExitStatus(code=7), reasons.STOPPED, 0),
        (Cause.MANAGER, ExitStatus(signal=9), reasons.STOPPED, 0),
        (Cause.OPERATOR, ExitStatus(code=0), reasons.OPERATOR, 212),
        (Cause.SHUTDOWN, ExitStatus(code=0), reasons.OPERATOR, 212),
        (Cause.RELOAD, ExitStatus(code=0), reasons.OPERATOR, 212),
        (Cause.LEASE, ExitStatus(code=0), reasons.LOST, 202),
        (Cause.NOT_STARTED, ExitStatus(), reasons.NOT_STARTED, 207),
        (Cause.NOT_READY, ExitStatus(code=0), reasons.NOT_READY, 208),
        (Cause.UNHEALTHY, ExitStatus(code=0), reasons.UNHEALTHY, 209),
        (Cause.OUT_OF_MEMORY, ExitStatus(signal=9), reasons.OUT_OF_MEMORY, 214),
        (Cause.OUT_OF_MEMORY, ExitStatus(), reasons.OUT_OF_MEMORY, 214),
        (Cause.UNKNOWN, ExitStatus(), reasons.UNKNOWN_STATUS, 210),
    ],
)
def test_verdict(cause: Cause, status: ExitStatus, reason: Reason, code: int) -> None:
    assert policy.verdict(outcome(cause, status)) == (reason, code)


def test_a_configured_success_code_is_0_for_the_cluster() -> None:
    ended = outcome(Cause.EXIT, ExitStatus(code=3), success_codes=(0, 3))
    assert policy.verdict(ended) == (reasons.SUCCESS, 0)


def test_0_that_is_no_success_is_not_0_for_the_cluster() -> None:
    ended = outcome(Cause.EXIT, ExitStatus(code=0), success_codes=(3,))
    assert policy.verdict(ended) == (reasons.APP, 1)


@given(st.sampled_from(Cause), STATUSES, st.sets(CODES))
def test_the_cluster_hears_0_exactly_of_successes_and_of_what_its_manager_stopped(
    cause: Cause, status: ExitStatus, success_codes: set[int]
) -> None:
    ended = outcome(cause, status, tuple(success_codes))
    reason, code = policy.verdict(ended)
    assert (code == 0) == (ended.success or cause is Cause.MANAGER)
    assert 0 <= code <= 255
    assert reason in reasons.ALL
    if cause in REQUESTED:
        assert not ended.success


def test_restarts_count_until_the_window_is_over() -> None:
    assert policy.recent((0.0, 10.0, 60.0), 60.0, 60.0) == (10.0, 60.0)
    assert policy.recent((0.0, 10.0, 60.0), 59.9, 60.0) == (0.0, 10.0, 60.0)
    assert policy.recent((), 60.0, 60.0) == ()


def test_the_delay_doubles_up_to_the_largest() -> None:
    delays = [policy.back_off(count, 1.0, 30.0, 0.0) for count in range(8)]
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_chance_takes_off_up_to_a_quarter() -> None:
    assert policy.back_off(2, 1.0, 30.0, 0.5) == 3.5
    assert policy.back_off(2, 1.0, 30.0, 1.0) == 3.0
    assert policy.back_off(9, 1.0, 30.0, 1.0) == 22.5


@given(
    st.integers(0, 1_000_000),
    st.floats(0.001, 1e6),
    st.floats(0.001, 1e6),
    st.floats(0, 1),
)
def test_a_delay_is_never_nothing_and_never_too_long(
    count: int, delay: float, max_delay: float, chance: float
) -> None:
    wait = policy.back_off(count, delay, max_delay, chance)
    assert 0 < wait <= max_delay
    assert wait >= 0.75 * min(delay, max_delay)
