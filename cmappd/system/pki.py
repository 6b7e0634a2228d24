"""A small certificate authority for cmappd: one directory, one authority, its leaves.

The authority's key stays where it was made; a guest or a manager is given its own two files
and ca.pem. Nothing is ever overwritten: a name is issued once, until its files are moved away.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from cmappd.errors import ConfigError
from cmappd.system import files

StrPath = str | os.PathLike[str]

CLOCK_SKEW = timedelta(minutes=5)  # by which the clock of a machine may be behind ours

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")


def init(directory: StrPath, days: int = 3650) -> None:
    """Make the authority, ca.pem and ca.key, and its directory where there is none.

    Raises ConfigError, also where there is an authority already.
    """
    home = Path(directory)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make directory {home}: {error.strerror}") from error
    key = ec.generate_private_key(ec.SECP256R1())
    # Two authorities of one name would be taken for each other, and fail on the signature.
    name = _subject(f"cmappd authority {os.urandom(8).hex()}")
    builder = _builder(name, name, key.public_key(), _end(days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    _store(home, "ca", builder.sign(key, hashes.SHA256()), key)


def issue_guest(directory: StrPath, name: str, addresses: Sequence[str], days: int = 825) -> None:
    """Make NAME.pem and NAME.key for a guest, valid for its name and for ``addresses``.

    An address is an IP address or a host name, without a port. Raises ConfigError.
    """
    alternatives = [_alternative(address) for address in addresses]
    _issue(Path(directory), name, ExtendedKeyUsageOID.SERVER_AUTH, alternatives, days)


def issue_manager(directory: StrPath, name: str, days: int = 825) -> None:
    """Make NAME.pem and NAME.key for a manager; servers know it by NAME. Raises ConfigError."""
    _issue(Path(directory), name, ExtendedKeyUsageOID.CLIENT_AUTH, [], days)


def revoke(directory: StrPath, name: str) -> None:
    """Add NAME.pem to crl.pem, and make that where there is none. Raises ConfigError.

    The list ends with the authority: were it to end before, every manager would be refused.
    """
    home = Path(directory)
    _check_name(name)
    authority, key = _authority(home)
    certificate = _certificate(home / f"{name}.pem")
    if certificate == authority:
        raise ConfigError("cannot revoke the authority itself: make another one instead")
    with _locked(home):
        _add_revocation(home / "crl.pem", certificate.serial_number, authority, key)


def _issue(
    home: Path,
    name: str,
    usage: ObjectIdentifier,
    alternatives: Sequence[x509.GeneralName],
    days: int,
) -> None:
    _check_name(name)
    authority, authority_key = _authority(home)
    end = min(_end(days), authority.not_valid_after_utc)
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_key = authority_key.public_key()
    names = list(dict.fromkeys([x509.DNSName(name), *alternatives]))
    builder = _builder(_subject(name), authority.subject, key.public_key(), end)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(authority=False), True),
        (x509.ExtendedKeyUsage([usage]), False),
        (x509.SubjectAlternativeName(names), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), False),
    ):
        builder = builder.add_extension(extension, critical)
    _store(home, name, builder.sign(authority_key, hashes.SHA256()), key)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"cannot use name {name!r}: it must have 1 to 64 letters, digits, '.', '_' and '-',"
            " and begin with a letter or digit"
        )


def _alternative(address: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ip_address(address))
    if not _HOST.fullmatch(address):
        raise ConfigError(
            f"cannot use address {address!r}: it must be a host name or an IP address, without port"
        )
    return x509.DNSName(address)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _end(days: int) -> datetime:
    if days < 1:
        raise ConfigError(f"cannot issue a certificate for {days} days: it takes 1 or more")
    try:
        return datetime.now(UTC) + timedelta(days=days)
    except OverflowError as error:
        raise ConfigError(f"cannot issue a certificate for {days} days: too long") from error


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    builder = builder.not_valid_before(datetime.now(UTC) - CLOCK_SKEW).not_valid_after(end)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(home: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    path, key_path = home / "ca.pem", home / "ca.key"
    if not path.exists():
        raise ConfigError(f"cannot find {path}: run 'cmappctl pki init' first")
    authority = _certificate(path)
    if authority.not_valid_after_utc < datetime.now(UTC):
        raise ConfigError(
            f"cannot use {path}: it expired on {authority.not_valid_after_utc:%Y-%m-%d};"
            " make a new authority in another directory"
        )
    try:
        key = serialization.load_pem_private_key(_read(key_path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"cannot use {key_path}: it holds no unencrypted key in PEM form"
        ) from error
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or key.public_key() != authority.public_key()
    ):
        raise ConfigError(f"cannot use {key_path}: it does not belong to {path}")
    return authority, key


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise ConfigError(f"cannot use {path}: it holds no certificate in PEM form") from error


def _add_revocation(
    path: Path, serial: int, authority: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    earlier = _revocations(path, key.public_key())
    if any(entry.serial_number == serial for entry in earlier):
        return
    start = datetime.now(UTC) - CLOCK_SKEW
    builder = x509.CertificateRevocationListBuilder(
        authority.subject, start, authority.not_valid_after_utc
    ).add_extension(x509.CRLNumber(len(earlier) + 1), critical=False)
    for entry in (*earlier, x509.RevokedCertificateBuilder(serial, start).build()):
        builder = builder.add_revoked_certificate(entry)
    crl = builder.sign(key, hashes.SHA256())
    _replace(path, crl.public_bytes(serialization.Encoding.PEM))


def _revocations(path: Path, authority: ec.EllipticCurvePublicKey) -> list[x509.RevokedCertificate]:
    if not path.exists():
        return []
    try:
        crl = x509.load_pem_x509_crl(_read(path))
    except ValueError as error:
        raise ConfigError(f"cannot use {path}: it holds no revocation list in PEM form") from error
    if not crl.is_signature_valid(authority):
        raise ConfigError(f"cannot use {path}: it is not from the authority beside it")
    return list(crl)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _store(
    home: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    """Write both files, or none."""
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _create(home / f"{name}.key", private, 0o600)
    try:
        _create(home / f"{name}.pem", certificate.public_bytes(pem), 0o644)
    except ConfigError:
        (home / f"{name}.key").unlink()
        raise


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise ConfigError(
            f"cannot create {path}: it exists; move it away, or use another name"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot create {path}: {error.strerror}") from error
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        path.unlink()
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _replace(path: Path, content: bytes) -> None:
    """Replace a file at once: whoever reads it sees the old list or the new one."""
    try:
        files.write_atomic(str(path), content, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Of two revocations at once, one would be lost."""
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor, home)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, home: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ConfigError(f"cannot lock {home}: another revocation is under way") from error
