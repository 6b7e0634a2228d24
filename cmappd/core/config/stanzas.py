"""A file as stanzas: one application each, and a head with the rest.

tomllib needs some 130 ms for 1,000 applications. A stanza that reads as it did before need
not be read again, and the lines of the keys of a wrong one need not be found in all the file.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from cmappd.core import toml_lines
from cmappd.core.config.problems import KeyPath, Problem, dotted
from cmappd.core.config.schema import Application

Document = dict[str, Any]
Known = Mapping[bytes, tuple[str, Application]]  # by Stanza.digest

_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_HEADER = re.compile(rf"^\[apps\.{_NAME}\][ \t]*(?:#.*)?$", re.MULTILINE)
_WHOLE = re.compile(r"""^[ \t]*\[[ \t]*["']?apps["']?[ \t]*\]""", re.MULTILINE)
_PLACE = re.compile(r" \(at (?:line ([0-9]+), column [0-9]+|end of document)\)$")


class Source(NamedTuple):
    """A file's absolute path, and its text."""

    path: str
    text: str


class Stanza:
    """A part of a file that is TOML by itself."""

    def __init__(self, file: str, text: str, lines_before: int) -> None:
        self.file = file
        self.directory = str(PurePosixPath(file).parent)
        self.text = text
        self._lines_before = lines_before

    @property
    def digest(self) -> bytes:
        """Names the text, and the directory that its paths start from."""
        content = f"{self.directory}\0{self.text}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(content, digest_size=16).digest()

    @cached_property
    def _lines(self) -> Mapping[tuple[str, ...], int]:
        return toml_lines.locate(self.text)

    def line(self, path: KeyPath) -> int | None:
        """The line in the file of a key, or of the nearest table around it."""
        for length in range(len(path), 0, -1):
            line = self._lines.get(tuple(map(str, path[:length])))
            if line is not None:
                return line + self._lines_before
        return None

    def problem(self, path: KeyPath, message: str, app: str | None = None) -> Problem:
        """What is wrong with a key; of one application only when ``app`` is given."""
        return Problem(self.file, self.line(path), dotted(path), message, app)


def split(source: Source) -> list[Stanza]:
    """The head of a file, and a stanza from the header of each application on.

    A line that looks like a header may stand in a string; then a part is not TOML.
    """
    starts = [match.start() for match in _HEADER.finditer(source.text)]
    if _WHOLE.search(source.text):
        starts = []  # [apps] may be there once; parts could not tell
    stanzas, line = [], 0
    for start, end in zip([0, *starts], [*starts, len(source.text)], strict=True):
        text = source.text[start:end]
        stanzas.append(Stanza(source.path, text, line))
        line += text.count("\n")
    return stanzas


def decode(source: Source, known: Known) -> list[tuple[Stanza, Document]]:
    """The stanzas with their tables. Those of a known stanza are not read again.

    Raises ValueError where the file is not TOML, RecursionError where it nests too deep.
    """
    try:
        parts = [(stanza, _document(stanza, known)) for stanza in split(source)]
    except tomllib.TOMLDecodeError:
        parts = []
    if parts and _apart([document for _, document in parts]):
        return parts
    whole = Stanza(source.path, source.text, 0)
    return [(whole, loads(whole.text))]


def loads(text: str) -> Document:
    """The tables of a text. Raises as ``decode`` does."""
    # A float would pass for seconds; a Decimal does only where a fraction is asked for.
    return tomllib.loads(text, parse_float=Decimal)


def not_toml(source: Source, error: Exception) -> Problem:
    """What ``decode`` raised, with tomllib's place taken out of its text."""
    if isinstance(error, RecursionError):
        return Problem(source.path, None, "", "cannot read this as TOML: it nests too deep")
    text = str(error)
    place = _PLACE.search(text)
    line = None
    if place:
        line = int(place[1]) if place[1] else source.text.rstrip("\n").count("\n") + 1
        text = text[: place.start()]
    return Problem(source.path, line, "", f"cannot read this as TOML: {text}")


def _document(stanza: Stanza, known: Known) -> Document:
    found = known.get(stanza.digest)
    return loads(stanza.text) if found is None else {"apps": {found[0]: found[1]}}


def _apart(documents: list[Document]) -> bool:
    """Whether the parts define different things: only then do they mean what the file means."""
    head, *stanzas = documents
    if stanzas and "apps" in head:
        return False
    keys = [key for document in documents for key in document if key != "apps"]
    apps = [name for document in stanzas for name in document["apps"]]
    return len(keys) == len(set(keys)) and len(apps) == len(set(apps))
