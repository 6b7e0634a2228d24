import contextlib
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmappd.core.environment_file import parse

NAMES = st.from_regex("[A-Za-z_][A-Za-z0-9_]*", fullmatch=True).filter(lambda name: len(name) < 40)
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
# What the rules are about, so that random texts run into them.
FRAGMENTS = st.lists(
    st.sampled_from([*"ab1_='\"\\#; \t\r\n$`é\0", "export ", "A=", "\\\n", "\r\n"])
).map("".join)


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {}),
        ("\n \t\r\n\n", {}),
        ("# A=1\n;B=2\n  # C=3\n", {}),
        ("# the end is no continuation \\\nA=1", {"A": "1"}),
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("A=1\r\nB='2'\r\n", {"A": "1", "B": "2"}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=\nB=", {"A": "", "B": ""}),
        ("_a1=x", {"_a1": "x"}),
        ("  A = b c \t\n", {"A": "b c"}),
        ("export A=1\nexport\tB='2'", {"A": "1", "B": "2"}),
        ("export=1", {"export": "1"}),
        ("export = 1", {"export": "1"}),
        ("A=b=c==", {"A": "b=c=="}),
    ],
)
def test_lines(text: str, variables: dict[str, str]) -> None:
    assert parse(text) == variables


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("a # b ; c", "a # b ; c"),
        ("#a", "#a"),
        ("a\"b\" 'c'", "a\"b\" 'c'"),
        ("$HOME ~ `id` $(id) *", "$HOME ~ `id` $(id) *"),
        (r"a\\b\n\ c\'\"", "a\\bn c'\""),
        ("a\\\nb", "ab"),
        ("a \\\n  b", "a   b"),
        ("a\\\r\nb", "ab"),
        ("\\\na", "a"),
        ("a\\ ", "a "),
        ("a\rb \r", "a\rb"),
        (r"\'a", "'a"),
        ("a\u2028b\x85c\x0bd", "a\u2028b\x85c\x0bd"),
    ],
)
def test_unquoted_values(written: str, value: str) -> None:
    assert parse(f"A={written}\nB=1") == {"A": value, "B": "1"}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("''", ""),
        ('""', ""),
        ("' a '\t", " a "),
        (r"'a\n\\ $b \"'", r"a\n\\ $b \""),
        ("'a\n#b\nC=d'", "a\n#b\nC=d"),
        ("'a\r\nb'", "a\r\nb"),
        (r'"\"\\\`\$"', '"\\`$'),
        (r'"\a\n\ \'"', r"\a\n\ \'"),
        (r'"\\\\n"', r"\\n"),
        ('"a\nb"', "a\nb"),
        ('"a\\\nb\\\r\nc"', "abc"),
        ('"$HOME `id`"', "$HOME `id`"),
        ("'a'\"'\"'b'", "a'b"),
        ('"a#b"', "a#b"),
    ],
)
def test_quoted_values(written: str, value: str) -> None:
    assert parse(f"A={written}\nB=1") == {"A": value, "B": "1"}


NOT_AN_ASSIGNMENT = "must be NAME=VALUE, blank, or a comment that begins with # or ;"
NOT_A_NAME = "the name before = must be of letters, digits and _, not a digit first"
AFTER_QUOTE = (
    "only blanks may follow a closing quote: put all of the value into quotes, "
    "and a comment on a line of its own"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\n\nB\nC=2", f"line 3: {NOT_AN_ASSIGNMENT}"),
        ("export A", f"line 1: {NOT_AN_ASSIGNMENT}"),
        ("B\nA=1", f"line 1: {NOT_AN_ASSIGNMENT}"),
        ("=1", f"line 1: {NOT_A_NAME}"),
        ("1A=1", f"line 1: {NOT_A_NAME}"),
        ("A B=1", f"line 1: {NOT_A_NAME}"),
        ("A-B=1", f"line 1: {NOT_A_NAME}"),
        ("é=1", f"line 1: {NOT_A_NAME}"),
        ("export export A=1", f"line 1: {NOT_A_NAME}"),
        ("\ufeffA=1", f"line 1: {NOT_A_NAME}"),
        ("A='1\n2'\nB='3\n4", "line 3: the quote ' that begins here is never closed"),
        ('A="1\\"', 'line 1: the quote " that begins here is never closed'),
        ("A='1''2", "line 1: the quote ' that begins here is never closed"),
        ('A="1" # one', f"line 1: {AFTER_QUOTE}"),
        ("A='1\n'2\n", f"line 2: {AFTER_QUOTE}"),
        ("A='1' '2'", f"line 1: {AFTER_QUOTE}"),
        ("A=1\nB=2\\", "line 2: ends with a backslash, but there is no next line to join"),
        ("A=1\nB=\0", "line 2: a NUL character is not allowed in an environment"),
        ("# \0", "line 1: a NUL character is not allowed in an environment"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="line") as caught:
        parse(text)
    assert str(caught.value) == message


def test_an_error_shows_nothing_of_the_file() -> None:
    for text in ("MII+secret==", "A='secret", "A='secret' secret", "secret", "A=secret\\"):
        with pytest.raises(ValueError, match="line 1") as caught:
            parse(text)
        assert "secret" not in str(caught.value)


@given(st.one_of(st.text(), FRAGMENTS))
def test_nothing_but_value_errors(text: str) -> None:
    variables = {}
    with contextlib.suppress(ValueError):
        variables = parse(text)
    for name, value in variables.items():
        assert name.isidentifier()
        assert name.isascii()
        assert "\0" not in value


def in_double_quotes(value: str) -> str:
    return '"' + "".join("\\" + one if one in '"\\`$' else one for one in value) + '"'


@given(st.dictionaries(NAMES, VALUES), st.booleans())
def test_quoted_values_come_back(variables: dict[str, str], double: bool) -> None:
    quote = in_double_quotes if double else shlex.quote
    text = "\n".join(f"{name}={quote(value)}" for name, value in variables.items())
    assert parse(text) == variables
    assert list(parse(text)) == list(variables)


@given(VALUES)
def test_a_backslash_keeps_any_character_but_a_newline(value: str) -> None:
    escaped = "".join("\\" + one for one in value)
    assert parse(f"A={escaped}") == {"A": value.replace("\n", "")}


@pytest.mark.parametrize(
    "text",
    [
        r"""A='a b$c\d'""",
        r'''A="a\"b\\c\$d\`e\f"''',
        "A='a\nb'",
        'A="a\\\nb"',
        r"A=a\ b\\c\'d",
        "A=a\\\nb",
        """A='a'"'"'b'""",
        "export A=a",
    ],
)
def test_a_shell_agrees_where_the_two_should(text: str) -> None:
    script = f"{text}\nprintf '%s.' \"$A\""
    shell = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    assert parse(text)["A"] + "." == shell.stdout


@pytest.mark.parametrize(
    "text",
    ["A" + " " * 10**6, "A=" + " " * 10**6, "#" * 10**6, 'A="' + "\\" * 10**6, "A=" + "\\" * 10**6],
)
def test_a_long_line_does_not_take_hours(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse(text)
