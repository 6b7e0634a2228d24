"""The authority: what it issues is judged by OpenSSL's own program and by real handshakes."""

import fcntl
import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cmappd.errors import ConfigError
from cmappd.system import pki
from tests.certificates import DAY, Authority, private_pem

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "pki"
    pki.init(directory)
    return directory


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def openssl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def verify(home: Path, name: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    ca = home / "ca.pem"
    return openssl("verify", "-x509_strict", "-CAfile", ca, *options, home / f"{name}.pem")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Make every longer file fail to be written, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_files_have_their_modes_whatever_the_umask(tmp_path: Path) -> None:
    home = tmp_path / "etc" / "pki"
    before = os.umask(0o177)
    try:
        os.umask(0o077)
        pki.init(home)
        pki.issue_manager(home, "vmhost1")
    finally:
        os.umask(before)
    assert mode(home) == 0o700
    assert {path.name: mode(path) for path in home.iterdir()} == {
        "ca.pem": 0o644,
        "ca.key": 0o600,
        "vmhost1.pem": 0o644,
        "vmhost1.key": 0o600,
    }


@needs_openssl
def test_openssl_accepts_each_leaf_for_its_purpose_only(home: Path) -> None:
    pki.issue_guest(home, "guest1", ["db.example.org", "192.0.2.7", "2001:db8::7"])
    pki.issue_manager(home, "vmhost1")
    assert verify(home, "guest1", "-purpose", "sslserver").returncode == 0
    assert verify(home, "vmhost1", "-purpose", "sslclient").returncode == 0
    assert verify(home, "guest1", "-purpose", "sslclient").returncode != 0
    assert verify(home, "vmhost1", "-purpose", "sslserver").returncode != 0


@needs_openssl
def test_openssl_accepts_a_guest_for_its_name_and_addresses_only(home: Path) -> None:
    pki.issue_guest(home, "guest_1", ["db.example.org", "192.0.2.7", "2001:db8::7"])
    for good in ("guest_1", "db.example.org"):
        assert verify(home, "guest_1", "-verify_hostname", good).returncode == 0
    for good in ("192.0.2.7", "2001:db8::7"):
        assert verify(home, "guest_1", "-verify_ip", good).returncode == 0
    assert verify(home, "guest_1", "-verify_hostname", "guest2").returncode != 0
    assert verify(home, "guest_1", "-verify_ip", "192.0.2.8").returncode != 0


@needs_openssl
def test_openssl_refuses_a_leaf_as_an_authority(home: Path) -> None:
    pki.issue_manager(home, "vmhost1")
    pki.issue_manager(home, "vmhost2")
    leaf_as_ca = openssl("verify", "-CAfile", home / "vmhost1.pem", home / "vmhost2.pem")
    assert leaf_as_ca.returncode != 0


def test_authority_may_sign_leaves_and_lists_and_nothing_else(home: Path) -> None:
    extensions = load(home / "ca.pem").extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature


def test_leaf_extensions(home: Path) -> None:
    pki.issue_guest(home, "guest1", ["guest1", "192.0.2.7"])
    leaf, authority = load(home / "guest1.pem"), load(home / "ca.pem")
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    subject = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert issuer.key_identifier == subject.digest
    alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.DNSName) == ["guest1"]
    assert [str(ip) for ip in alternatives.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]


def test_key_is_unencrypted_p256_of_the_certificate(home: Path) -> None:
    pki.issue_manager(home, "vmhost1")
    key = serialization.load_pem_private_key((home / "vmhost1.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"
    assert key.public_key() == load(home / "vmhost1.pem").public_key()
    assert (home / "vmhost1.key").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")


def test_validity_allows_for_clock_skew_and_ends_with_the_authority(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    pki.init(tmp_path, days=10)
    pki.issue_manager(tmp_path, "short", days=3)
    pki.issue_manager(tmp_path, "long", days=100)
    short, long, authority = (load(tmp_path / f"{n}.pem") for n in ("short", "long", "ca"))
    assert short.not_valid_before_utc < before - timedelta(minutes=4)
    assert short.not_valid_after_utc - before < 4 * DAY
    assert long.not_valid_after_utc == authority.not_valid_after_utc


def test_two_authorities_are_told_apart(tmp_path: Path) -> None:
    pki.init(tmp_path / "a")
    pki.init(tmp_path / "b")
    one, other = load(tmp_path / "a" / "ca.pem"), load(tmp_path / "b" / "ca.pem")
    assert one.subject != other.subject
    assert one.serial_number != other.serial_number


def test_nothing_is_overwritten(home: Path) -> None:
    pki.issue_manager(home, "vmhost1")
    before = {path: path.read_bytes() for path in home.iterdir()}
    key, ca_key = home / "vmhost1.key", home / "ca.key"
    with pytest.raises(ConfigError) as again:
        pki.issue_guest(home, "vmhost1", [])
    assert str(again.value) == f"cannot create {key}: it exists; move it away, or use another name"
    with pytest.raises(ConfigError) as twice:
        pki.init(home)
    assert str(twice.value) == (
        f"cannot create {ca_key}: it exists; move it away, or use another name"
    )
    with pytest.raises(ConfigError):
        pki.issue_manager(home, "ca")
    assert {path: path.read_bytes() for path in home.iterdir()} == before


def test_key_is_removed_when_the_certificate_cannot_be_made(home: Path) -> None:
    (home / "vmhost1.pem").write_text("somebody's")
    with pytest.raises(ConfigError, match=r"vmhost1\.pem: it exists"):
        pki.issue_manager(home, "vmhost1")
    assert names(home) == {"ca.pem", "ca.key", "vmhost1.pem"}
    assert (home / "vmhost1.pem").read_text() == "somebody's"


@pytest.mark.parametrize("size", [100, 400])  # the key does not fit; the certificate does not
def test_nothing_half_made_stays_on_a_full_disk(home: Path, size: int) -> None:
    with files_limited_to(size), pytest.raises(ConfigError) as error:
        pki.issue_manager(home, "vmhost1")
    suffix = "key" if size == 100 else "pem"
    assert str(error.value) == f"cannot write {home / 'vmhost1'}.{suffix}: File too large"
    assert names(home) == {"ca.pem", "ca.key"}


@pytest.mark.parametrize("name", ["", "-x", ".x", "a/b", "../x", "a b", "é", "a" * 65, "a\n"])
def test_unusable_names(home: Path, name: str) -> None:
    expected = (
        f"cannot use name {name!r}: it must have 1 to 64 letters, digits, '.', '_' and '-',"
        " and begin with a letter or digit"
    )
    for make in (pki.issue_manager, pki.revoke, partial(pki.issue_guest, addresses=[])):
        with pytest.raises(ConfigError) as error:
            make(home, name)
        assert str(error.value) == expected
    assert names(home) == {"ca.pem", "ca.key"}


def test_longest_name(home: Path) -> None:
    pki.issue_manager(home, "a" * 64)
    (name,) = load(home / f"{'a' * 64}.pem").subject
    assert name.value == "a" * 64


@pytest.mark.parametrize("address", ["", "a b", "guest1:5315", "*.example.org", "é.org", "a..b"])
def test_unusable_addresses(home: Path, address: str) -> None:
    with pytest.raises(ConfigError) as error:
        pki.issue_guest(home, "guest1", [address])
    assert str(error.value) == (
        f"cannot use address {address!r}: it must be a host name or an IP address, without port"
    )
    assert names(home) == {"ca.pem", "ca.key"}


@pytest.mark.parametrize("days", [0, -1, 10**7])
def test_unusable_days(tmp_path: Path, days: int) -> None:
    with pytest.raises(ConfigError, match=f"^cannot issue a certificate for {days} days: "):
        pki.init(tmp_path / "pki", days=days)


def test_without_an_authority(tmp_path: Path) -> None:
    for make in (pki.issue_manager, pki.revoke):
        with pytest.raises(ConfigError) as error:
            make(tmp_path, "vmhost1")
        ca = tmp_path / "ca.pem"
        assert str(error.value) == f"cannot find {ca}: run 'cmappctl pki init' first"


def test_with_an_expired_authority(tmp_path: Path) -> None:
    Authority(tmp_path, start=-2 * DAY, end=-DAY)
    date = f"{datetime.now(UTC) - DAY:%Y-%m-%d}"
    with pytest.raises(ConfigError) as error:
        pki.issue_manager(tmp_path, "vmhost1")
    assert str(error.value) == (
        f"cannot use {tmp_path / 'ca.pem'}: it expired on {date};"
        " make a new authority in another directory"
    )


def test_with_an_unusable_authority_key(home: Path) -> None:
    key = home / "ca.key"
    encrypted = private_pem(ec.generate_private_key(ec.SECP256R1()), b"secret")
    strange = private_pem(ec.generate_private_key(ec.SECP256R1()))
    no_key = f"cannot use {key}: it holds no unencrypted key in PEM form"
    for content, sentence in (
        (encrypted, no_key),
        (b"junk", no_key),
        (strange, f"cannot use {key}: it does not belong to {home / 'ca.pem'}"),
    ):
        key.write_bytes(content)
        with pytest.raises(ConfigError) as error:
            pki.issue_manager(home, "vmhost1")
        assert str(error.value) == sentence
    key.unlink()
    with pytest.raises(ConfigError) as missing:
        pki.issue_manager(home, "vmhost1")
    assert str(missing.value) == f"cannot read {key}: No such file or directory"


def test_with_a_damaged_authority(home: Path) -> None:
    (home / "ca.pem").write_text("junk")
    with pytest.raises(ConfigError) as error:
        pki.issue_manager(home, "vmhost1")
    assert str(error.value) == f"cannot use {home / 'ca.pem'}: it holds no certificate in PEM form"


def test_init_where_no_directory_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as error:
        pki.init(tmp_path / "file" / "pki")
    assert str(error.value) == f"cannot make directory {tmp_path / 'file' / 'pki'}: Not a directory"


@needs_openssl
def test_openssl_refuses_whom_the_list_names(home: Path) -> None:
    for name in ("vmhost1", "vmhost2", "vmhost3"):
        pki.issue_manager(home, name)
    pki.revoke(home, "vmhost1")
    pki.revoke(home, "vmhost2")
    check = ("-crl_check", "-CRLfile", home / "crl.pem")
    for name, revoked in (("vmhost1", True), ("vmhost2", True), ("vmhost3", False)):
        verdict = verify(home, name, *check)
        assert (verdict.returncode != 0) == revoked
        assert ("certificate revoked" in verdict.stderr) == revoked


def test_list_keeps_earlier_entries_and_lasts_as_long_as_the_authority(home: Path) -> None:
    serials = []
    for name in ("vmhost1", "vmhost2", "vmhost1"):
        if not (home / f"{name}.pem").exists():
            pki.issue_manager(home, name)
            serials.append(load(home / f"{name}.pem").serial_number)
        pki.revoke(home, name)
    crl = x509.load_pem_x509_crl((home / "crl.pem").read_bytes())
    assert [entry.serial_number for entry in crl] == serials
    assert crl.next_update_utc == load(home / "ca.pem").not_valid_after_utc
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
    assert mode(home / "crl.pem") == 0o644
    assert not [name for name in names(home) if name.startswith(".")]


def test_list_is_left_alone_when_it_cannot_be_trusted_or_written(home: Path) -> None:
    crl = home / "crl.pem"
    pki.issue_manager(home, "vmhost1")
    pki.issue_manager(home, "vmhost2")
    pki.revoke(home, "vmhost1")
    good = crl.read_bytes()
    strange = Path(Authority(home / "other").crl([])).read_bytes()
    for content, sentence in (
        (b"junk", f"cannot use {crl}: it holds no revocation list in PEM form"),
        (strange, f"cannot use {crl}: it is not from the authority beside it"),
    ):
        crl.write_bytes(content)
        with pytest.raises(ConfigError) as error:
            pki.revoke(home, "vmhost2")
        assert str(error.value) == sentence
        assert crl.read_bytes() == content
    crl.write_bytes(good)
    before = names(home)
    with files_limited_to(100), pytest.raises(ConfigError) as full:
        pki.revoke(home, "vmhost2")
    assert str(full.value) == f"cannot write {crl}: File too large"
    assert crl.read_bytes() == good
    assert names(home) == before


def test_two_revocations_at_once(home: Path) -> None:
    pki.issue_manager(home, "vmhost1")
    descriptor = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(ConfigError) as error:
            pki.revoke(home, "vmhost1")
    finally:
        os.close(descriptor)
    assert str(error.value) == f"cannot lock {home}: another revocation is under way"
    pki.revoke(home, "vmhost1")
    assert (home / "crl.pem").exists()


def test_the_authority_cannot_be_revoked(home: Path) -> None:
    with pytest.raises(ConfigError) as error:
        pki.revoke(home, "ca")
    assert str(error.value) == "cannot revoke the authority itself: make another one instead"


def test_revoking_what_is_not_there(home: Path) -> None:
    with pytest.raises(ConfigError) as error:
        pki.revoke(home, "nobody")
    assert str(error.value) == f"cannot read {home / 'nobody.pem'}: No such file or directory"
