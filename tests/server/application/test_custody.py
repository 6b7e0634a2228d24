"""Whose an application is, and to whom its results go; with literal times."""

from msgspec.structs import replace

from cmappd.core.lifecycle import App, found
from cmappd.core.messages import Claim, Ended, Refused
from cmappd.core.state import Cause, ExitStatus, Outcome
from cmappd.server.application.custody import KEPT_RESULTS, Custody
from tests.core.definitions import definition
from tests.server.ground import Recorder

LEASE = 30.0
APP = App("db", "e", definition())


def claim(
    custody: Custody,
    link: Recorder,
    now: float = 0.0,
    run: str | None = None,
    takeover: bool = False,
) -> Refused | Ended | None:
    link.last_there = now
    return custody.claim(link, Claim(1, "db", run, True, takeover), APP, LEASE, now)


def ended(run: str) -> Ended:
    return Ended(0, "db", Outcome(run, Cause.EXIT, ExitStatus(code=3), success=False))


def refused_as(answer: object) -> str:
    assert isinstance(answer, Refused)
    return answer.reason


def test_the_first_to_claim_owns_and_the_second_is_told_who_does() -> None:
    custody, first, second = Custody(), Recorder("one"), Recorder("two")
    assert claim(custody, first) is None
    answer = claim(custody, second)
    assert refused_as(answer) == "busy"
    assert isinstance(answer, Refused)
    assert "owned by one (connected)" in answer.text
    assert custody.link is first


def test_a_second_process_of_the_owner_is_refused_while_the_first_is_connected() -> None:
    custody, first, second = Custody(), Recorder("one"), Recorder("one")
    claim(custody, first)
    assert refused_as(claim(custody, second)) == "busy"
    custody.lost(first)
    assert claim(custody, second) is None


def test_another_manager_waits_for_the_lease_of_one_that_is_gone() -> None:
    custody, first, second = Custody(), Recorder("one"), Recorder("two")
    claim(custody, first, now=100.0)
    first.last_there = 110.0
    custody.lost(first)
    answer = claim(custody, second, now=139.9)
    assert isinstance(answer, Refused)
    assert "not connected" in answer.text
    assert claim(custody, second, now=140.0) is None


def test_only_the_owners_word_renews_the_lease() -> None:
    custody, first, other = Custody(), Recorder("one"), Recorder("two")
    claim(custody, first, now=0.0)
    first.last_there = 0.0
    other.last_there = 50.0
    assert custody.owner is not None
    assert custody.owner.expires(LEASE) == LEASE


def test_the_same_instance_on_a_new_link_replaces_its_old_one_in_silence() -> None:
    custody, old = Custody(), Recorder("one", instance="i")
    claim(custody, old)
    new = Recorder("one", instance="i")
    assert claim(custody, new) is None
    assert (old.told, old.hung_up) == ([], True)
    custody.lost(old)  # the end of the old link is noticed late
    assert custody.link is new
    assert custody.owner is not None
    assert custody.owner.connected


def test_a_takeover_tells_the_old_owner_and_cuts_it() -> None:
    custody, old, new = Custody(), Recorder("one"), Recorder("two")
    claim(custody, old)
    assert claim(custody, new, takeover=True) is None
    (told,) = old.told
    assert isinstance(told, Refused)
    assert (told.seq, told.reason) == (0, "busy")
    assert "taken over by two" in told.text
    assert old.hung_up


def test_a_result_goes_to_the_connected_owner_and_is_kept_until_acknowledged() -> None:
    custody, link = Custody(), Recorder("one")
    claim(custody, link)
    custody.conclude(ended("db.e.1"))
    custody.deliver()
    assert link.told == [ended("db.e.1")]
    custody.acknowledge("db.e.7")
    assert custody.owner is not None
    custody.acknowledge("db.e.1")
    left: list[object] = [custody.owner, custody.link, custody.undelivered]
    assert left == [None, None, None]


def test_an_acknowledgement_of_what_nobody_waits_for_ends_the_ownership_too() -> None:
    """A manager may have concluded from the state what it was never told."""
    custody = Custody()
    claim(custody, Recorder("one"))
    custody.acknowledge("db.e.1")
    assert custody.owner is None


def test_a_result_without_a_manager_waits_for_the_next_of_that_name_and_is_given_once() -> None:
    custody, link = Custody(), Recorder("one")
    claim(custody, link)
    custody.lost(link)
    custody.conclude(ended("db.e.1"))
    successor = Recorder("one")
    assert claim(custody, successor) == ended("db.e.1")
    custody.acknowledge("db.e.1")
    assert claim(custody, Recorder("one")) is None


def test_a_result_that_was_not_acknowledged_is_given_again() -> None:
    custody = Custody()
    for _ in range(3):
        link = Recorder("one")
        answer = claim(custody, link)
        custody.conclude(ended("db.e.1")) if answer is None else None
        custody.lost(link)
        assert custody.undelivered == ended("db.e.1")


def test_what_was_launched_again_meanwhile_is_not_told_as_a_failure() -> None:
    """Somebody in the guest has started it, before the next manager came."""
    custody, link = Custody(), Recorder("one")
    claim(custody, link)
    custody.conclude(ended("db.e.1"))
    custody.lost(link)
    running = found("db", definition(), "db.e.2", 1, 0.0)
    successor = Recorder("one")
    assert custody.claim(successor, Claim(1, "db"), running, LEASE, 0.0) is None
    custody.lost(successor)
    assert claim(custody, Recorder("one")) is None  # nor later
    assert claim(custody, link, run="db.e.1", takeover=True) == ended("db.e.1")


def test_another_managers_result_is_not_given() -> None:
    custody, link = Custody(), Recorder("one")
    claim(custody, link)
    custody.lost(link)
    custody.conclude(ended("db.e.1"))
    assert claim(custody, Recorder("two"), now=LEASE) is None


def test_a_returning_manager_gets_the_result_of_its_run_although_others_came_after_it() -> None:
    custody, link = Custody(), Recorder("one")
    claim(custody, link)
    custody.lost(link)
    for serial in range(1, KEPT_RESULTS + 1):
        custody.conclude(ended(f"db.e.{serial}"))
    assert claim(custody, link, run="db.e.1") == ended("db.e.1")


def test_a_run_that_was_restarted_is_answered_by_the_result_in_which_that_ended() -> None:
    custody, link = Custody(), Recorder("one")
    claim(custody, link)
    custody.lost(link)
    custody.conclude(ended("db.e.2"))
    custody.conclude(ended("db.e.10"))
    for run, result in (("db.e.1", "db.e.2"), ("db.e.3", "db.e.10"), ("db.e.9", "db.e.10")):
        assert claim(custody, link, run=run) == ended(result)
    assert claim(custody, link, run="db.e.11") is None
    assert refused_as(claim(custody, link, run="db.earlier.1")) == "unknown-status"


def test_what_is_owed_stays_owed_whatever_run_is_named_until_that_is_acknowledged() -> None:
    custody, link = Custody(), Recorder("one")
    claim(custody, link)
    custody.lost(link)
    custody.conclude(ended("db.e.1"))
    custody.conclude(ended("db.e.3"))
    for run in ("db.e.1", "db.e.2", "db.e.3", "db.e.4", "db.e.x"):
        returning = Recorder("one")
        claim(custody, returning, run=run)
        custody.acknowledge("db.e.1")
        custody.lost(returning)
        assert custody.undelivered == ended("db.e.3")
    assert claim(custody, Recorder("one")) == ended("db.e.3")
    custody.acknowledge("db.e.3")
    assert claim(custody, Recorder("one")) is None


def test_a_run_of_another_server_is_unknown() -> None:
    custody = Custody()
    answer = claim(custody, Recorder("one"), run="db.earlier.4")
    assert refused_as(answer) == "unknown-status"
    assert custody.owner is None


def test_what_was_found_without_a_record_tells_nothing_of_the_runs_before_it() -> None:
    app = found("db", definition(), "db.e.2", 1, 0.0)
    for run, answer in (("db.e.2", None), ("db.e.1", "unknown-status")):
        said = Custody().claim(Recorder("one"), Claim(1, "db", run), app, LEASE, 0.0)
        assert (said and refused_as(said)) == answer
    recorded = replace(app, last=Outcome("db.e.1", Cause.OPERATOR, ExitStatus(signal=15), False))
    assert Custody().claim(Recorder("one"), Claim(1, "db", "db.e.1"), recorded, LEASE, 0.0) is None


def test_what_nobody_owns_ends_for_nobody() -> None:
    custody = Custody()
    custody.conclude(ended("db.e.1"))
    assert custody.undelivered is None
    assert claim(custody, Recorder("one")) is None
