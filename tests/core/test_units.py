import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmappd.core.units import LONGEST, format_duration, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("2m", 120.0),
        ("1d2h3m4s5ms", 93784.005),
        ("0s", 0.0),
        ("90m", 5400.0),
        ("365d", LONGEST),
    ],
)
def test_durations_are_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "s", "1.5s", "-1s", "1s1m", "1s1s", "10 s", "10S", "\u0661s", "1s\n"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration") as caught:
        parse_duration(text)
    assert str(caught.value) == 'must be a duration such as "10s", "1m30s" or "500ms"'


@pytest.mark.parametrize("text", ["366d", "365d1ms", "999999999999d"])
def test_a_duration_beyond_every_clock_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be at most 365d$"):
        parse_duration(text)


@given(st.integers(0, int(LONGEST * 1000)))
def test_a_formatted_duration_is_read_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.text(alphabet="0123456789dhms.- ", max_size=12))
def test_a_duration_is_read_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds <= LONGEST
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("1K", 1024), ("64M", 64 * 1024**2), ("2G", 2 * 1024**3), ("0K", 0)],
)
def test_sizes_are_read_as_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "64", "64m", "64MB", "1.5G", "-1K", "64 M"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size") as caught:
        parse_size(text)
    message = 'must be a size such as "512K", "64M" or "2G", or a number of bytes'
    assert str(caught.value) == message


@given(st.integers(0, 10**15 - 1), st.sampled_from("KMG"))
def test_every_count_has_its_unit(count: int, unit: str) -> None:
    assert parse_size(f"{count}{unit}") == count * 1024 ** (" KMG".index(unit))
