"""Reading certificates: what is read agrees with another reader, and nothing else escapes."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st

from cmappd.core.certificate import CLIENT_AUTH, SERVER_AUTH, parse
from tests.certificates import CLIENT, DAY, SERVER, Authority, Identity


def der_of(path: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(Path(path).read_text())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize(
    ("usages", "expected"),
    [
        ([SERVER], {SERVER_AUTH}),
        ([CLIENT], {CLIENT_AUTH}),
        ([CLIENT, SERVER], {CLIENT_AUTH, SERVER_AUTH}),
        ([], set()),
    ],
)
def test_usages(
    authority: Authority, usages: list[x509.ObjectIdentifier], expected: set[bytes]
) -> None:
    identity = authority.issue(["somebody"], usages, ["somebody"])
    assert parse(der_of(identity.certificate)).usages == expected


@pytest.mark.parametrize("year", [1951, 1999, 2000, 2049, 2050, 2999])  # UTCTime until 2049
def test_validity(authority: Authority, year: int) -> None:
    begin = datetime(year, 2, 28, 23, 59, 58, tzinfo=UTC) - datetime.now(UTC)
    identity = authority.manager("somebody", begin, begin + timedelta(days=366))
    other = x509.load_pem_x509_certificate(Path(identity.certificate).read_bytes())
    certificate = parse(der_of(identity.certificate))
    assert certificate.start == other.not_valid_before_utc.timestamp()
    assert certificate.end == other.not_valid_after_utc.timestamp()


def test_certificate_of_an_authority_has_no_usages(authority: Authority) -> None:
    assert parse(der_of(authority.ca)).usages == frozenset()


def test_every_truncation_is_refused(authority: Authority) -> None:
    der = der_of(authority.guest("guest1").certificate)
    for length in range(len(der)):
        with pytest.raises(ValueError, match=r"."):
            parse(der[:length])


@given(noise=st.binary(max_size=200))
@example(noise=b"")
@example(noise=b"\x30")
@example(noise=b"\x30\x80\x00\x00")
@example(noise=b"\x30\xff" + b"\xff" * 127)
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(noise)


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_damage_raises_value_error_only(guest: Identity, place: int, value: int) -> None:
    der = bytearray(der_of(guest.certificate))
    der[place % len(der)] = value
    try:
        parse(bytes(der))
    except ValueError:
        return


@pytest.fixture(scope="module")
def guest(authority: Authority) -> Identity:
    return authority.guest("guest1", end=DAY)
