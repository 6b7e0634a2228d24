"""The server's certificates: loaded from where the configuration says, if they can be trusted."""

import contextlib
import hashlib
import ssl
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cmappd.core.certificate import SOON, blocks, date, parse, parse_crl
from cmappd.core.config import Tls
from cmappd.system import tls
from cmappd.system.trust import check_private, check_trusted


class Period(NamedTuple):
    """How long something in a file is valid, in seconds since the epoch."""

    what: str
    path: str
    start: float
    end: float


class Certificates(NamedTuple):
    """What new connections are served with.

    ``trust`` names what managers' certificates are verified against, ``content`` all of it.
    """

    context: ssl.SSLContext
    periods: tuple[Period, ...]
    trust: bytes
    content: bytes


def load_certificates(section: Tls) -> Certificates:
    """What the files have now. Raises ConfigError or TlsError, which say what to mend."""
    paths = (section.certificate, section.key, section.ca, section.crl)
    for path in paths:
        if path is not None:
            check_trusted(path)
    check_private(section.key)
    # Before they are loaded: who replaces one in between is noticed at the next look.
    trust, content = _digest(paths[2:]), _digest(paths)
    context = tls.server_context(section.certificate, section.key, section.ca, section.crl)
    return Certificates(context, tuple(_periods(section)), trust, content)


def _periods(section: Tls) -> Iterator[Period]:
    own = tls.read_certificate(section.certificate)
    yield Period("certificate", section.certificate, own.start, own.end)
    # OpenSSL has loaded them: what it can read, and we cannot, is no reason to do without.
    with contextlib.suppress(ValueError):
        authorities = [parse(der) for der in blocks(tls.read(section.ca, "ca"), "CERTIFICATE")]
        # An authority that was replaced may stay: the last one counts.
        start, end, _ = max(authorities, key=lambda one: one.end)
        yield Period("ca", section.ca, start, end)
    if section.crl is None:
        return
    with contextlib.suppress(ValueError):
        lists = [parse_crl(der) for der in blocks(tls.read(section.crl, "crl"), "X509 CRL")]
        # Each is of another authority, whose managers need it: the first one counts.
        start, end = min(lists, key=lambda one: one[1])
        yield Period("crl", section.crl, start, end)


def _digest(paths: Iterable[str | None]) -> bytes:
    found = hashlib.sha256()
    for path in paths:
        content = tls.read(path, "file").encode("latin-1") if path is not None else b""
        found.update(b"%d:" % len(content) + content)
    return found.digest()


def invalid(periods: Iterable[Period], now: float) -> list[str]:
    """What is not valid at an instant, seconds since the epoch, and what to do about it."""
    return [text for one in periods if (text := _invalid(one, now))]


def _invalid(period: Period, now: float) -> str:
    name = f"{period.what} {period.path}"
    if now > period.end:
        when = date(period.end)
        return f"{name} expired on {when}: no manager can connect; put a new one there and reload"
    if now < period.start:
        when = date(period.start)
        return f"{name} is not valid before {when}: is the clock of this guest right?"
    return ""


def ending(periods: Iterable[Period], now: float) -> list[str]:
    """What is valid, and will not be for long."""
    return [
        f"{one.what} {one.path} expires on {date(one.end)}, in"
        f" {(one.end - now) / 86400:.0f} days: put a new one there and reload"
        for one in periods
        if one.start <= now <= one.end < now + _soon(one)
    ]


def _soon(period: Period) -> float:
    """A revocation list is often made for a week, and then replaced each day."""
    return min(SOON, (period.end - period.start) / 3)
