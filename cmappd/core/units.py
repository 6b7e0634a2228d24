"""Durations and sizes as people write them: "1m30s" is seconds, "64M" is bytes."""

import re

DAY = 86_400.0
LONGEST = 365 * DAY  # more than any deadline needs, and safe to add to any clock
LARGEST = 1024 * 1024**3

_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile("".join(f"(?:([0-9]{{1,12}}){unit})?" for unit in _MILLISECONDS))
_SIZE = re.compile("([0-9]{1,15})([KMG])")
_BYTES = {"K": 1024, "M": 1024**2, "G": 1024**3}


def parse_duration(text: str) -> float:
    """Seconds of a duration such as "10s", "1m30s" or "500ms".

    The units are d, h, m, s and ms, each at most once and the larger first.
    Raises ValueError, with a sentence that says what is allowed.
    """
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError('must be a duration such as "10s", "1m30s" or "500ms"')
    counts = (int(count or 0) for count in match.groups())
    factors = _MILLISECONDS.values()
    seconds = sum(count * factor for count, factor in zip(counts, factors, strict=True)) / 1000
    if seconds > LONGEST:
        raise ValueError(f"must be at most {format_duration(LONGEST)}")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest text that ``parse_duration`` reads as these seconds, to the millisecond."""
    rest = round(seconds * 1000)
    text = ""
    for unit, factor in _MILLISECONDS.items():
        count, rest = divmod(rest, factor)
        if count:
            text += f"{count}{unit}"
    return text or "0s"


def parse_size(text: str) -> int:
    """Bytes of a size such as "512K", "64M" or "2G": powers of 1024.

    Raises ValueError, with a sentence that says what is allowed.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError('must be a size such as "512K", "64M" or "2G", or a number of bytes')
    return int(match[1]) * _BYTES[match[2]]
