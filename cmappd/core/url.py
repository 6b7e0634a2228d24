"""The URLs that a health check may ask: http and https, a host, a port, a path."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urldefrag, urljoin

MAX_LENGTH = 2000  # characters

_ALLOWED = 'must be a URL such as "http://127.0.0.1:8080/healthz" or "https://[::1]:8443/"'
_PORTS = {"http": 80, "https": 443}
_CHARACTERS = re.compile("[!-~]+")
_PARTS = re.compile(r"(https?)://([^/?#]*)([^#]*)", re.IGNORECASE)
_PLACE = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_LABEL = "[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_MAX_NAME = 253  # characters (RFC 1035, section 2.3.4, without lengths and the root)


@dataclass(frozen=True, slots=True)
class Url:
    """``scheme`` is http or https; ``host`` has no brackets; ``target`` is path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them: the port where it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    def join(self, location: str) -> "Url":
        """Where a Location header in the answer leads (RFC 9110, section 10.2.2).

        Raises ValueError, with a sentence that says what is allowed.
        """
        try:
            absolute = urldefrag(urljoin(str(self), location)).url
        except ValueError:  # urllib's own words are about brackets and Unicode
            raise ValueError(_ALLOWED) from None
        return parse_url(absolute)


def parse_url(text: str) -> Url:
    """Read a URL of http or https.

    Raises ValueError, with a sentence that says what is allowed.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"must be at most {MAX_LENGTH} characters")
    if not _CHARACTERS.fullmatch(text):
        raise ValueError(
            f"{_ALLOWED}; blanks and what is not ASCII are written as %20 and the like"
        )
    if "#" in text:
        raise ValueError('must not have a fragment ("#..."): it is never sent to a server')
    parts = _PARTS.fullmatch(text)
    if parts is None:
        raise ValueError(_ALLOWED)
    scheme, place, target = parts[1].lower(), parts[2], parts[3]
    if "@" in place:
        raise ValueError("must not have a user or a password: they would show in every message")
    host, port = _place(place, _PORTS[scheme])
    return Url(scheme, host, port, target if target.startswith("/") else f"/{target}")


def _place(text: str, usual: int) -> tuple[str, int]:
    match = _PLACE.fullmatch(text)
    if match is None or (match[2] is not None and not 0 < int(match[2]) < 65536):
        raise ValueError(f"{_ALLOWED}, with a port from 1 to 65535")
    host = match[1]
    return _address(host[1:-1]) if host.startswith("[") else _name(host), int(match[2] or usual)


def _address(text: str) -> str:
    try:
        if "%" not in text:  # a zone, which a server is not to be told of
            return str(ipaddress.IPv6Address(text))
    except ValueError:
        pass
    raise ValueError(f"{_ALLOWED}: what is in brackets must be an IPv6 address without a zone")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text) or len(text.rstrip(".")) > _MAX_NAME:
        raise ValueError(
            f"{_ALLOWED}, with the name or address of a host (an IPv6 address in brackets)"
        )
    return text.lower()
