"""Text of somebody else on one line."""

import pytest

from cmappd.core.printable import printable


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("a b: größer", "a b: größer"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b]0;title\x07\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J"),
        ("\x00\x7f\x85\x9b", "\\x00\\x7f\\x85\\x9b"),
        ("ä\u2028\u202e\u200b", "ä\\u2028\\u202e\\u200b"),
        ("\ud800", "\\ud800"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_what_does_not_print_is_escaped(text: str, line: str) -> None:
    assert printable(text) == line
    assert line.isprintable()
