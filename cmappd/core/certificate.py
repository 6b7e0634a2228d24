"""What cmappd needs to know of a certificate or a revocation list, read from its DER.

OpenSSL verifies them; this reads the two facts that the standard library does not
tell of a file or of a peer: how long it is valid, and what for.
"""

import binascii
import re
from datetime import UTC, datetime
from typing import NamedTuple

from cmappd.core.units import DAY

SERVER_AUTH = bytes.fromhex("2b06010505070301")  # 1.3.6.1.5.5.7.3.1
CLIENT_AUTH = bytes.fromhex("2b06010505070302")  # 1.3.6.1.5.5.7.3.2
SOON = 30 * DAY  # before an end at which it is to be spoken of

_EXTENDED_KEY_USAGE = bytes.fromhex("551d25")  # 2.5.29.37
_VERSION, _EXTENSIONS, _UTC_TIME = 0xA0, 0xA3, 0x17  # tags (RFC 5280, section 4.1)
_TIMES = (_UTC_TIME, 0x18)
_VALIDITY, _AFTER_KEY = 3, 6  # places of the fields, the optional version not counted


class Certificate(NamedTuple):
    """A certificate's validity, in seconds since the epoch, and its extended key usages."""

    start: float
    end: float
    usages: frozenset[bytes]  # object identifiers, as in DER


def parse(der: bytes) -> Certificate:
    """Read a certificate (RFC 5280, section 4.1). Raises ValueError where it is none."""
    try:
        [(_, certificate)] = _elements(der)
        _, body = _elements(certificate)[0]
        fields = [element for element in _elements(body) if element[0] != _VERSION]
        start, end = _elements(fields[_VALIDITY][1])
        extensions = [content for tag, content in fields[_AFTER_KEY:] if tag == _EXTENSIONS]
        usages = _extended_key_usages(extensions[0]) if extensions else frozenset()
    except IndexError as error:
        raise ValueError("a part is missing") from error
    return Certificate(_instant(*start), _instant(*end), usages)


def parse_crl(der: bytes) -> tuple[float, float]:
    """How long a revocation list is valid (RFC 5280, section 5.1). Raises ValueError."""
    try:
        [(_, whole)] = _elements(der)
        times = [one for one in _elements(_elements(whole)[0][1]) if one[0] in _TIMES]
        start, end = times[:2]  # without the second one it would be valid for ever
    except IndexError as error:
        raise ValueError("a part is missing") from error
    return _instant(*start), _instant(*end)


def blocks(pem: str, label: str) -> list[bytes]:
    """The DER of all that has a label in a file in PEM form. Raises ValueError."""
    found = re.findall(f"-----BEGIN {label}-----(.*?)-----END {label}-----", pem, re.DOTALL)
    return [binascii.a2b_base64(text) for text in found]


def date(instant: float) -> str:
    """An instant as seconds since the epoch, for people."""
    return f"{datetime.fromtimestamp(instant, UTC):%Y-%m-%d %H:%M} UTC"


def _extended_key_usages(extensions: bytes) -> frozenset[bytes]:
    [(_, sequence)] = _elements(extensions)
    for _, extension in _elements(sequence):
        parts = _elements(extension)  # the identifier, perhaps whether it is critical, the value
        if parts[0][1] == _EXTENDED_KEY_USAGE:
            [(_, usages)] = _elements(parts[-1][1])
            return frozenset(usage for _, usage in _elements(usages))
    return frozenset()


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each element (X.690, section 8.1). Raises IndexError, ValueError."""
    elements = []
    position = 0
    while position < len(der):
        tag, length = der[position], der[position + 1]
        position += 2
        if length & 0x80:  # then this is the length of the length
            start, position = position, position + (length & 0x7F)
            length = int.from_bytes(der[start:position], "big")
        if position + length > len(der):
            raise ValueError("an element is longer than what holds it")
        elements.append((tag, der[position : position + length]))
        position += length
    return elements


def _instant(tag: int, content: bytes) -> float:
    text = content.decode("ascii")
    if not text.endswith("Z"):
        raise ValueError("a time is not in UTC")
    if tag == _UTC_TIME:  # two digits of the year: 1950 to 2049 (RFC 5280, 4.1.2.5.1)
        text = ("19" if text >= "5" else "20") + text
    return datetime.fromisoformat(f"{text[:8]}T{text[8:]}").timestamp()
