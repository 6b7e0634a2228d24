"""On which line of a TOML text each key stands.

``tomllib`` tells the line of a syntax error only. This scanner finds the lines of the keys
of a text that tomllib has accepted; it checks nothing itself. TOML 1.0: https://toml.io/en/v1.0.0
"""

import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress

Path = tuple[str, ...]

_BLANK = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_KEY = re.compile(r"""([A-Za-z0-9_-]+)|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_SCALAR = re.compile(
    "|".join(
        [
            r'"""(?:[^\\]|\\.)*?"""' + r'"{0,2}',
            r"'''.*?'''" + r"'{0,2}",
            r'"(?:[^"\\\n]|\\.)*"',
            r"'[^'\n]*'",
            r"[^,\]}#\n]+",  # numbers, booleans, and dates, which may hold a space
        ]
    ),
    re.DOTALL,
)


def locate(text: str) -> Mapping[Path, int]:
    """The line, from 1, of every table, key and array element of a TOML text.

    The elements of arrays, and of arrays of tables, are named by their position: ("a", "0").
    A table that has a header is at its header. Of a text that is not TOML, what was found
    before the error.
    """
    scanner = _Scanner(text)
    with suppress(_NotTomlError, RecursionError):  # an enclosing table's line is better than none
        scanner.document()
    return scanner.lines


class _NotTomlError(Exception):
    pass


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._at = 0
        self._counted = (0, 1)  # an offset, and the line it is on
        self._lengths: dict[Path, int] = {}  # of the arrays of tables
        self._table: Path = ()

    def document(self) -> None:
        self._skip(_GAP)
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                self._header()
            else:
                self._pair(self._table)
            self._skip(_GAP)

    def _header(self) -> None:
        line = self._line()
        array = self._take("[[")
        if not array:
            self._take("[")
        path: Path = ()
        key = self._key()
        for part in key[:-1]:
            path = self._last_element((*path, part))
            self.lines.setdefault(path, line)
        path = (*path, key[-1])
        if array:
            self.lines.setdefault(path, line)
            self._lengths[path] = self._lengths.get(path, 0) + 1
            path = self._last_element(path)
        self.lines[path] = line
        self._table = path
        if not self._take("]]" if array else "]"):
            raise _NotTomlError

    def _last_element(self, path: Path) -> Path:
        """Where a header goes on: below an array of tables, in its latest table."""
        length = self._lengths.get(path)
        return path if length is None else (*path, str(length - 1))

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = table
        for part in self._key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        if not self._take("="):
            raise _NotTomlError
        self._skip(_BLANK)
        self._value(path)

    def _key(self) -> Path:
        parts = []
        while True:
            self._skip(_BLANK)
            match = self._match(_KEY)
            token = match[0]
            # tomllib knows the escapes; a quoted key is rare enough for the detour.
            parts.append(token if match[1] else str(tomllib.loads(f"key = {token}")["key"]))
            self._skip(_BLANK)
            if not self._take("."):
                return tuple(parts)

    def _value(self, path: Path) -> None:
        if self._take("["):
            self._array(path)
        elif self._take("{"):
            self._inline_table(path)
        else:
            self._match(_SCALAR)

    def _array(self, path: Path) -> None:
        index = 0
        self._skip(_GAP)
        while not self._take("]"):
            element = (*path, str(index))
            self.lines[element] = self._line()
            self._value(element)
            index += 1
            self._separator("]")

    def _inline_table(self, path: Path) -> None:
        self._skip(_GAP)
        while not self._take("}"):
            self._pair(path)
            self._separator("}")

    def _separator(self, closing: str) -> None:
        self._skip(_GAP)
        if not self._take(",") and not self._text.startswith(closing, self._at):
            raise _NotTomlError
        self._skip(_GAP)

    def _line(self) -> int:
        offset, line = self._counted
        line += self._text.count("\n", offset, self._at)
        self._counted = (self._at, line)
        return line

    def _take(self, token: str) -> bool:
        found = self._text.startswith(token, self._at)
        if found:
            self._at += len(token)
        return found

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        if match:
            self._at = match.end()

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise _NotTomlError
        self._at = match.end()
        return match
