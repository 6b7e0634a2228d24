"""Certificates of every kind, good and bad, for tests that make real handshakes.

cmappd.system.pki makes only good certificates; an authority here makes the others too. ::

    authority = Authority(tmp_path)
    guest = authority.guest("guest1")                   # also for localhost and 127.0.0.1
    manager = authority.manager("vmhost1")
    tls.server_context(guest.certificate, guest.key, authority.ca, None)
    tls.client_context(*manager, authority.ca)
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
LOCAL = ("localhost", "127.0.0.1")
DAY = timedelta(days=1)
YEAR = 365 * DAY  # nobody need be warned yet
AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Identity(NamedTuple):
    """The two files of somebody's certificate, as the configuration names them."""

    certificate: str
    key: str


class Authority:
    """A certificate authority in a directory; ``ca`` is its certificate's file."""

    def __init__(
        self,
        directory: Path,
        name: str = "Test CA",
        start: timedelta = -DAY,
        end: timedelta = YEAR,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name([name])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = _builder(self._name, self._name, self._key.public_key(), start, end)
        builder = builder.add_extension(constraints, critical=True)
        builder = builder.add_extension(AUTHORITY_USAGE, critical=True)
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
        )
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.ca = _write(directory / "ca.pem", _pem(self._certificate))

    def guest(
        self,
        name: str,
        addresses: Sequence[str] = LOCAL,
        start: timedelta = -DAY,
        end: timedelta = YEAR,
    ) -> Identity:
        """A guest's certificate, valid for its name and for ``addresses``."""
        return self.issue([name], [SERVER], [name, *addresses], start, end)

    def manager(self, name: str, start: timedelta = -DAY, end: timedelta = YEAR) -> Identity:
        """A manager's certificate; ``name`` is what the server will know it by."""
        return self.issue([name], [CLIENT], [name], start, end)

    def issue(
        self,
        names: Sequence[str],
        usages: Sequence[ObjectIdentifier],
        addresses: Sequence[str],
        start: timedelta = -DAY,
        end: timedelta = YEAR,
    ) -> Identity:
        """A leaf with these common names, extended key usages and alternative names.

        An empty sequence leaves the common name, or the extension, out.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(names), self._name, key.public_key(), start, end)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if addresses:
            alternatives = x509.SubjectAlternativeName([_alternative(a) for a in addresses])
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        stem = f"{certificate.serial_number:x}"
        return Identity(
            _write(self.directory / f"{stem}.pem", _pem(certificate)),
            _write(self.directory / f"{stem}.key", private_pem(key)),
        )

    def crl(
        self, revoked: Sequence[Identity], start: timedelta = -DAY, end: timedelta = YEAR
    ) -> str:
        """A revocation list of these certificates, in a file of its own."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder(self._name, now + start, now + end)
        for identity in revoked:
            certificate = x509.load_pem_x509_certificate(Path(identity.certificate).read_bytes())
            entry = x509.RevokedCertificateBuilder(certificate.serial_number, now + start)
            builder = builder.add_revoked_certificate(entry.build())
        path = self.directory / f"crl-{x509.random_serial_number():x}.pem"
        crl = builder.sign(self._key, hashes.SHA256())
        return _write(path, crl.public_bytes(serialization.Encoding.PEM))


def private_pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """A key as PEM, encrypted when there is a password."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def _name(common_names: Sequence[str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n) for n in common_names])


def _alternative(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    start: timedelta,
    end: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    path.chmod(0o600)
    return str(path)
