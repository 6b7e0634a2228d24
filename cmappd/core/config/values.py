"""The kinds of values in the configuration, each with the rule for it in words.

Paths are absolute once read from a file: pydantic's validation context is the directory
that relative ones start from, and None for values from Python code. Durations are seconds,
which Python code may give as a float; a file may not: its fractions come as a Decimal.
"""

import ipaddress
import math
import re
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
)

from cmappd.core import signals, units
from cmappd.core.url import parse_url

NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
BAD_NAME = 'must be a name of 1 to 64 letters, digits, ".", "_" or "-", the first a letter or digit'

UNLIMITED = -1  # as getrlimit(2) has it
# The names of getrlimit(2), in small letters.
LIMITS = (
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
)
SIGNALS = frozenset({*signals.NAMES.values(), "SIGPOLL"})


class Address(NamedTuple):
    """Where to listen. Port 0 is any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, value: object) -> "Address":
        """The address in a text, an IPv6 one in brackets. Raises ValueError."""
        host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        bracketed = re.fullmatch(r"\[(.*)\]", host)
        name = bracketed[1] if bracketed else host
        known = _is_ipv6(name) if bracketed else re.fullmatch(r"[^\s:\[\]/]+", name)
        if not known or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError('must be "host:port", such as "0.0.0.0:5315" or "[::]:5315"')
        return cls(name, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    return value


def _word(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    return value


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be one line, without control characters")
    if len(value) > 500:
        raise ValueError("must be at most 500 characters")
    return value


def _path(value: str, info: ValidationInfo) -> str:
    return str(PurePosixPath(info.context or "", value))


def _seconds(value: object) -> float:
    if isinstance(value, float):
        return value
    return units.parse_duration(value if isinstance(value, str) else "")


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError('must be longer than "0s"')
    return value


def _bytes(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return units.parse_size(value if isinstance(value, str) else "")


def _number(value: object) -> float:
    numeric = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    number = float(str(value)) if numeric else math.nan
    if not math.isfinite(number):
        raise ValueError("must be a number, such as 2 or 0.5")
    return number


def _mask(value: object, info: ValidationInfo) -> int:
    if info.context is None and type(value) is int:
        return value  # in a file, 22 would be meant as 0o22
    if not isinstance(value, str) or not re.fullmatch("0?[0-7]{1,3}", value):
        raise ValueError('must be an octal number in quotes, such as "022"')
    return int(value, 8)


def _address(value: object) -> Address:
    return value if isinstance(value, Address) else Address.parse(value)


def _service(value: str) -> str:
    if not Address.parse(value).port:
        raise ValueError("must have a port from 1 to 65535")
    return value


def _some(value: tuple[int, ...]) -> tuple[int, ...]:
    if not value:
        raise ValueError("must not be empty")
    return value


def _url(value: str) -> str:
    parse_url(value)
    return value


def _limit(value: object, info: ValidationInfo) -> tuple[int, int]:
    pair = value if isinstance(value, list | tuple) else (value, value)
    least = 0 if info.context else UNLIMITED  # in a file it is a word
    numbers = [UNLIMITED if one == "unlimited" else one for one in pair]
    known = all(type(one) is int and least <= one < 2**63 for one in pair if one != "unlimited")
    if not known or len(numbers) != 2:
        raise ValueError('must be a number, "unlimited", or an array of a soft and a hard one')
    soft, hard = (int(str(one)) for one in numbers)
    if hard != UNLIMITED and (soft > hard or soft == UNLIMITED):
        raise ValueError("must have a soft limit that is not above the hard one")
    return soft, hard


def _names(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(NAME.fullmatch(name) for name in value):
        raise ValueError("must be an array of names of applications")
    twice = next((name for at, name in enumerate(value) if name in value[:at]), None)
    if twice is not None:
        raise ValueError(f"names '{twice}' twice")
    return value


def _limit_name(value: str) -> str:
    if value not in LIMITS:
        raise ValueError(f"must be a limit: {', '.join(LIMITS)}")
    return value


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _words(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(
            'must be an array of words, such as ["/opt/db/run", "PROD"]: no shell reads it'
        )
    return value


def _program(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("must not be empty")
    if not value[0].startswith("/"):
        raise ValueError("must begin with the absolute path of a program")
    return value


def _signal(value: str) -> str:
    if value not in SIGNALS:
        hint = f': did you mean "SIG{value}"?' if f"SIG{value}" in SIGNALS else ""
        raise ValueError(f'must be the name of a signal, such as "SIGTERM"{hint}')
    return value


def _variable(value: str) -> str:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", value):  # a shell drops any other
        raise ValueError("must be a name of letters, digits and _, the first not a digit")
    if value.startswith("CMAPPD_"):
        raise ValueError("must not begin with CMAPPD_: those variables are set by cmappserver")
    return value


def _status(value: int) -> int:
    if not 0 <= value <= 255:
        raise ValueError("must be an exit code from 0 to 255")
    return value


def _ready(value: object) -> float | Literal["health", "notify"]:
    if value == "health" or value == "notify":
        return value
    try:
        return _seconds(value)
    except ValueError:
        raise ValueError(
            'must be "health", "notify", or a duration such as "10s" to survive'
        ) from None


Text = Annotated[str, AfterValidator(_text)]
Word = Annotated[Text, AfterValidator(_word)]
Path = Annotated[Word, AfterValidator(_path)]
Description = Annotated[Text, AfterValidator(_one_line)]
Duration = Annotated[float, BeforeValidator(_seconds)]
Timeout = Annotated[Duration, AfterValidator(_positive)]
Size = Annotated[int, BeforeValidator(_bytes), Field(ge=1024, le=units.LARGEST)]
Processors = Annotated[float, BeforeValidator(_number), Field(ge=0.01, le=10_000)]
Mask = Annotated[int, BeforeValidator(_mask)]
Ready = Annotated[float | Literal["health", "notify"], PlainValidator(_ready)]
Service = Annotated[Text, AfterValidator(_service)]
HttpUrl = Annotated[Text, AfterValidator(_url)]
Limit = Annotated[tuple[int, int], Field(strict=False), BeforeValidator(_limit)]
LimitName = Annotated[str, AfterValidator(_limit_name)]
Listen = Annotated[Address, PlainValidator(_address), PlainSerializer(str, when_used="json")]
Variable = Annotated[Text, AfterValidator(_variable)]
Signal = Annotated[str, AfterValidator(_signal)]
Count = Annotated[int, Field(ge=1, le=1000)]
# Strict tuples would refuse the lists that TOML arrays are.
Paths = Annotated[tuple[Path, ...], Field(strict=False)]
Words = Annotated[tuple[Word, ...], Field(strict=False)]
Names = Annotated[tuple[Text, ...], Field(strict=False, max_length=100), AfterValidator(_names)]
Addresses = Annotated[tuple[Listen, ...], Field(strict=False)]
HttpStatus = Annotated[int, Field(ge=100, le=599)]
HttpStatuses = Annotated[tuple[HttpStatus, ...], Field(strict=False), AfterValidator(_some)]
Statuses = Annotated[tuple[Annotated[int, AfterValidator(_status)], ...], Field(strict=False)]
Command = Annotated[
    tuple[Text, ...], Field(strict=False), AfterValidator(_program), BeforeValidator(_words)
]
