"""The host's configuration, ``cmappmgr.toml``: which guests there are, and who we are.

::

    guest = "guest1"                    # the default; not needed where there is one guest

    [guests.guest1]
    address = "192.0.2.10:5315"         # port 5315 by default, IPv6 in brackets
    server_name = "guest1"              # in its certificate; the guest's name by default

    [tls]                               # relative to this file's directory
    certificate = "pki/vmhost1.pem"
    key = "pki/vmhost1.key"
    ca = "pki/ca.pem"

    [manager]
    poll_interval = "5s"

Checked by hand rather than by pydantic, which would double the memory of every cmappmgr.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cmappd.core import units
from cmappd.errors import ConfigError, UsageError

DEFAULT_FILE = "/etc/cmappd/cmappmgr.toml"
DEFAULT_PORT = 5315


class Guest(NamedTuple):
    """Where a guest is, and the name that its certificate must have.

    ``hint`` is what may be wrong where there is no such host.
    """

    name: str
    host: str
    port: int
    server_name: str
    hint: str = ""


class Tls(NamedTuple):
    """Our certificate and its key, and the authorities we trust: absolute paths."""

    certificate: str
    key: str
    ca: str


class Intervals(NamedTuple):
    """All in seconds."""

    poll_interval: float = 5.0
    connect_timeout: float = 30.0
    lost_after: float = 30.0
    start_timeout: float = 300.0
    stop_timeout: float = 300.0


class Settings(NamedTuple):
    """One configuration file."""

    file: str
    default_guest: str | None
    guests: Mapping[str, Guest]
    tls: Tls
    intervals: Intervals

    def guest(self, wanted: str | None) -> Guest:
        """The guest of ``--guest``: a name in the file, or HOST[:PORT]. Raises UsageError."""
        name = wanted or self.default_guest
        if name is None and len(self.guests) == 1:
            return next(iter(self.guests.values()))
        if name is None:
            known = f"one of {', '.join(self.guests)}" if self.guests else "HOST[:PORT]"
            raise UsageError(
                f"cannot tell which guest is meant: give --guest ({known}), or guest in {self.file}"
            )
        if name in self.guests:
            return self.guests[name]
        try:
            host, port = parse_address(name)
        except ValueError as error:
            raise UsageError(f"cannot use --guest {name!r}: address {error}") from None
        known = ", ".join(self.guests)
        hint = f"'{name}' is none of the guests in {self.file} ({known})" if known else ""
        return Guest(name, host, port, host, hint)


_RANGES = {  # seconds
    "poll_interval": (0.5, 30.0),
    "connect_timeout": (0.1, units.DAY),
    "lost_after": (1.0, units.DAY),
    "start_timeout": (0.1, units.LONGEST),
    "stop_timeout": (0.1, units.LONGEST),
}
_TLS_KEYS = ("certificate", "key", "ca")
_GUEST_KEYS = ("address", "server_name")
_TOP_KEYS = ("guest", "guests", "tls", "manager")


def load(path: str) -> Settings:
    """Read a configuration file. Raises ConfigError with a line for each problem."""
    import tomllib

    try:
        with open(path, "rb") as file:
            text = file.read().decode()
        table = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: it is not UTF-8 (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    reader = _Reader(path, text)
    settings = reader.settings(table)
    if reader.problems:
        raise ConfigError("\n".join(reader.problems))
    return settings


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST[:PORT]``; an IPv6 host with a port is in brackets.

    Raises ValueError, with a sentence that says what is allowed.
    """
    allowed = 'must be "HOST", "HOST:PORT" or "[IPv6]:PORT"'
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(allowed)
        port = rest[1:] if rest else str(DEFAULT_PORT)
    elif text.count(":") > 1:
        host, port = text, str(DEFAULT_PORT)
    else:
        host, colon, port = text.partition(":")
        port = port if colon else str(DEFAULT_PORT)
    if not host or not host.isprintable() or " " in host or "/" in host:
        raise ValueError(allowed)
    if not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536):
        raise ValueError(f"{allowed}, with a port from 1 to 65535")
    return host, int(port)


class _Reader:
    """Turns the tables of one file into settings, and collects what is wrong with them."""

    def __init__(self, path: str, text: str) -> None:
        self.problems: list[str] = []
        self._path = path
        self._text = text
        self._directory = os.path.dirname(os.path.abspath(path))

    def settings(self, table: Mapping[str, Any]) -> Settings:
        self._known((), table, _TOP_KEYS)
        guests = {
            name: self._guest(name, self._table(("guests", name), stanza))
            for name, stanza in self._table(("guests",), table.get("guests", {})).items()
        }
        default = self._value((), table, "guest", None, _text)
        if default is not None and default not in guests:
            self._problem(("guest",), f"there is no [guests.{default}]")
        if "tls" not in table:
            self._problem((), "the table [tls] is required, with certificate, key and ca")
        tls = self._tls(self._table(("tls",), table.get("tls", {})), "tls" in table)
        intervals = self._intervals(self._table(("manager",), table.get("manager", {})))
        return Settings(self._path, default, guests, tls, intervals)

    def _guest(self, name: str, stanza: Mapping[str, Any]) -> Guest:
        where = ("guests", name)
        self._known(where, stanza, _GUEST_KEYS)
        if not name or not name.isprintable():
            self._problem(where, "the name of a guest must be printable characters")
        if "address" not in stanza:
            self._problem(where, "address is required")
        host, port = self._value(where, stanza, "address", ("", 0), _address)
        return Guest(name, host, port, self._value(where, stanza, "server_name", name, _text))

    def _tls(self, stanza: Mapping[str, Any], given: bool) -> Tls:
        self._known(("tls",), stanza, _TLS_KEYS)
        for key in _TLS_KEYS:
            if given and key not in stanza:
                self._problem(("tls",), f"{key} is required")
        paths = (self._value(("tls",), stanza, key, "", self._file) for key in _TLS_KEYS)
        return Tls(*paths)

    def _intervals(self, stanza: Mapping[str, Any]) -> Intervals:
        self._known(("manager",), stanza, tuple(_RANGES))
        default = Intervals()
        return Intervals(
            **{
                key: self._value(
                    ("manager",), stanza, key, getattr(default, key), _duration(*_RANGES[key])
                )
                for key in _RANGES
            }
        )

    def _value(
        self,
        where: tuple[str, ...],
        table: Mapping[str, Any],
        key: str,
        default: Any,
        read: Callable[[Any], Any],
    ) -> Any:
        """The value of a key as ``read`` makes it, or the default where there is a problem."""
        if key not in table:
            return default
        try:
            return read(table[key])
        except ValueError as error:
            self._problem((*where, key), str(error))
            return default

    def _table(self, where: tuple[str, ...], value: Any) -> Mapping[str, Any]:
        if isinstance(value, dict):
            return value
        self._problem(where, "must be a table")
        return {}

    def _file(self, value: Any) -> str:
        path = os.path.join(self._directory, _text(value))
        try:
            with open(path, "rb"):
                return path
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None

    def _known(
        self, where: tuple[str, ...], table: Mapping[str, Any], known: tuple[str, ...]
    ) -> None:
        for key in table:
            if key not in known:
                import difflib

                near = difflib.get_close_matches(key, known, n=1)
                hint = f": did you mean '{near[0]}'?" if near else ""
                self._problem((*where, key), f"unknown key{hint}")

    def _problem(self, where: tuple[str, ...], message: str) -> None:
        from cmappd.core import toml_lines

        line = toml_lines.locate(self._text).get(where)
        place = self._path if line is None else f"{self._path}:{line}"
        self.problems.append(": ".join(part for part in (place, ".".join(where), message) if part))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a string that is not empty")
    return value


def _address(value: Any) -> tuple[str, int]:
    return parse_address(_text(value))


def _duration(least: float, most: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        seconds = units.parse_duration(value if isinstance(value, str) else "")
        if not least <= seconds <= most:
            low, high = units.format_duration(least), units.format_duration(most)
            raise ValueError(f'must be from "{low}" to "{high}"')
        return seconds

    return read
