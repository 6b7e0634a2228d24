"""Who may own an application, and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmappd.core.ownership import Owner, Presence, may_claim

LEASE = 30.0
OWNER = Owner("vmhost1", "aaaa", heard=100.0)
LOST = OWNER.disconnected()


@pytest.mark.parametrize(
    ("owner", "name", "instance", "now", "expected"),
    [
        (None, "vmhost1", "aaaa", 100.0, True),
        # the same process, back after a lost link, whatever the server knows of the link
        (OWNER, "vmhost1", "aaaa", 101.0, True),
        (LOST, "vmhost1", "aaaa", 101.0, True),
        # another process with the same certificate
        (OWNER, "vmhost1", "bbbb", 101.0, False),
        (LOST, "vmhost1", "bbbb", 101.0, True),
        # another manager, connected or not, until the lease is over
        (OWNER, "vmhost2", "cccc", 129.9, False),
        (LOST, "vmhost2", "cccc", 129.9, False),
        (OWNER, "vmhost2", "cccc", 130.0, True),
        (LOST, "vmhost2", "cccc", 130.0, True),
        # the instance is the peer's own word: it proves nothing for another certificate
        (OWNER, "vmhost2", "aaaa", 101.0, False),
        (LOST, "vmhost2", "aaaa", 101.0, False),
    ],
)
def test_may_claim(
    owner: Owner | None, name: str, instance: str, now: float, expected: bool
) -> None:
    assert may_claim(owner, name, instance, now, LEASE, takeover=False) is expected
    assert may_claim(owner, name, instance, now, LEASE, takeover=True) is True


def test_a_word_renews_the_lease() -> None:
    assert OWNER.expires(LEASE) == 130.0
    renewed = OWNER.refreshed(120.0)
    assert renewed.expires(LEASE) == 150.0
    assert renewed[:2] == OWNER[:2]
    assert not may_claim(renewed, "vmhost2", "cccc", 140.0, LEASE, takeover=False)


def test_the_lease_runs_on_when_the_link_ends() -> None:
    assert OWNER.connected
    assert not LOST.connected
    assert LOST.expires(LEASE) == OWNER.expires(LEASE)


@given(
    st.lists(st.tuples(st.sampled_from("hld"), st.floats(0, 20)), max_size=10),
    st.floats(0, 29.9),
)
def test_nobody_else_owns_while_the_owner_is_heard_within_the_lease(
    happenings: list[tuple[str, float]], later: float
) -> None:
    owner, now = OWNER, 100.0
    for what, pause in happenings:
        now += pause
        if what == "h":
            owner = owner.refreshed(now)
        elif what == "d":
            owner = owner.disconnected()
    now = owner.heard + later
    assert not may_claim(owner, "vmhost2", "cccc", now, LEASE, takeover=False)


# When a manager was certainly there ---------------------------------------------------


def test_a_manager_was_there_when_the_answer_that_it_had_was_sent() -> None:
    presence = Presence(100.0)
    presence.asked(1)
    presence.answered(1, 101.0)
    assert presence.since == 100.0
    presence.asked(2)  # said at once, and heard late: at 150 perhaps
    assert presence.since == 101.0
    presence.answered(2, 150.0)
    assert presence.since == 101.0
    presence.asked(3)
    assert presence.since == 150.0


def test_what_it_did_not_ask_for_proves_nothing() -> None:
    presence = Presence(100.0)
    presence.asked(1)
    presence.answered(1, 101.0)
    presence.answered(0, 120.0)  # a push
    presence.answered(1, 130.0)  # another message of the same answer
    presence.asked(2)
    assert presence.since == 101.0


def test_a_question_before_the_answer_proves_nothing_new() -> None:
    presence = Presence(100.0)
    presence.asked(1)
    presence.asked(2)
    presence.answered(1, 110.0)
    presence.asked(3)
    assert presence.since == 100.0
