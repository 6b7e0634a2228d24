"""The one table of reasons and exit codes, word for word: scripts and clusters rely on it."""

from cmappd import reasons

TABLE = [
    ("stopped", 0),
    ("success", 0),
    ("app", None),
    ("usage", 200),
    ("unreachable", 201),
    ("lost", 202),
    ("tls", 203),
    ("denied", 204),
    ("unknown-app", 205),
    ("busy", 206),
    ("not-started", 207),
    ("not-ready", 208),
    ("unhealthy", 209),
    ("unknown-status", 210),
    ("guest-restarted", 211),
    ("operator", 212),
    ("protocol", 213),
    ("out-of-memory", 214),
    ("not-stopped", 215),
]
# The codes that applications use: their own up to 199, where 128 + 64 is the last signal's.
APPLICATIONS = range(1, 200)


def test_the_table_is_what_it_has_always_been() -> None:
    assert [(reason.name, reason.code) for reason in reasons.ALL] == TABLE


def test_all_are_listed_and_found_by_name() -> None:
    defined = [one for one in vars(reasons).values() if isinstance(one, reasons.Reason)]
    assert defined == list(reasons.ALL)
    assert {reason.name: reason for reason in defined} == reasons.BY_NAME
    assert len(reasons.BY_NAME) == len(defined)


def test_own_codes_are_told_apart_from_each_other_and_from_an_applications() -> None:
    own = [reason.code for reason in reasons.ALL if reason.code]
    assert len(own) == len(set(own))
    assert not set(own) & set(APPLICATIONS)
    assert max(own) <= 255


def test_every_reason_has_a_meaning_for_the_manual() -> None:
    for reason in reasons.ALL:
        assert reason.meaning
        assert not reason.meaning.endswith(".")
