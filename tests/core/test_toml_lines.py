import tomllib
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from cmappd.core.toml_lines import Path, locate


def paths(value: Any, at: Path = ()) -> set[Path]:
    """Every key and element that tomllib finds."""
    if isinstance(value, list):
        value = {str(index): each for index, each in enumerate(value)}
    items = value.items() if isinstance(value, dict) else ()
    return {at} - {()} | {path for key, each in items for path in paths(each, (*at, key))}


DOCUMENT = '''\
# [no.table]
top = 1   # a = 2

[apps.oracle]   # [not.this]
command = [
    "/bin/db",  # "one", ]
    "]", """
[apps.fake]
key = 1
""",
]
environment = { A = "1", "B C" = { d = [] } }
stop.timeout = "3s"
stop . signal = 'SIGTERM'
text = \'\'\'
x = ''
''\'\'\'
quotes = """"two"""""
when = 1979-05-27 07:32:00
after = true

[apps."a.b".'c"d']
"\\u0041" = -1_0.5e3

[[list]]
x = 1
[list.sub]
y = 2
[[list]]
x = [[1, 2], [{ z = 3 }]]
[[list.inner]]
w = 1
[apps]
'''


def test_the_lines_of_a_document_with_everything() -> None:
    lines = locate(DOCUMENT)

    assert set(lines) == paths(tomllib.loads(DOCUMENT))
    assert lines["top",] == 2
    assert lines["apps", "oracle"] == 4
    assert lines["apps", "oracle", "command"] == 5
    assert lines["apps", "oracle", "command", "0"] == 6
    assert lines["apps", "oracle", "command", "2"] == 7
    assert lines["apps", "oracle", "environment", "B C", "d"] == 12
    assert lines["apps", "oracle", "stop"] == 13
    assert lines["apps", "oracle", "stop", "signal"] == 14
    assert lines["apps", "oracle", "quotes"] == 18
    assert lines["apps", "oracle", "after"] == 20
    assert lines["apps", "a.b", 'c"d', "A"] == 23
    assert lines["list",] == 25
    assert lines["list", "0", "sub", "y"] == 28
    assert lines["list", "1"] == 29
    assert lines["list", "1", "x", "1", "0", "z"] == 30
    assert lines["list", "1", "inner", "0", "w"] == 32
    assert lines["apps",] == 33


@pytest.mark.parametrize(
    "text", ["a = 1\n[b", "a = 1\n= 2", "a = 1\nb 2", 'a = 1\n"b = 2', "a = 1\n[b.]", "a = 1\n]"]
)
def test_a_text_that_is_not_toml_gives_what_came_before(text: str) -> None:
    assert locate(text)["a",] == 1


def test_a_text_nested_too_deep_gives_what_came_before() -> None:
    assert locate("a = 1\nb = " + "[" * 100_000)["a",] == 1


def test_lines_that_end_as_on_windows_are_counted_once() -> None:
    assert locate("\r\na = [\r\n1,\r\n2]\r\nb = 1\r\n")["b",] == 5


KEYS = st.text(max_size=4) | st.sampled_from(["a", "b-1", "a.b", "", "é", '"', "'", "\\"])
STRINGS = st.text(max_size=12) | st.sampled_from(['"""', "'''", "#", "]", "}\n[x]\ny = 1", "a\\"])
LEAVES = st.booleans() | st.integers() | STRINGS | st.datetimes() | st.dates()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4), st.booleans())
def test_it_finds_the_keys_that_tomllib_finds(document: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(document, multiline_strings=multiline)

    lines = locate(text)

    assert set(lines) == paths(tomllib.loads(text))
    assert all(1 <= line <= text.count("\n") for line in lines.values())


@given(st.lists(st.sampled_from(DOCUMENT.splitlines()), max_size=12), st.text(max_size=5))
def test_it_never_raises_and_agrees_wherever_tomllib_does(lines: list[str], end: str) -> None:
    text = "\n".join([*lines, end])
    found = locate(text)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(found) == paths(document)


@given(st.lists(STRINGS, min_size=1, max_size=6), st.booleans())
def test_each_key_is_on_its_line(values: list[str], multiline: bool) -> None:
    document = {f"key{index}": value for index, value in enumerate(values)}
    text = tomli_w.dumps(document, multiline_strings=multiline)

    lines = locate(text)

    for key in document:
        assert text.split("\n")[lines[key,] - 1].startswith(f"{key} = ")
