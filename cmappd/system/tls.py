"""TLS 1.3 with a certificate on each end: contexts, refusals in plain words, a pipe without I/O.

Trust comes from one file of authorities, never from the system's. A guest's certificate
must carry the extended key usage serverAuth, a manager's clientAuth. OpenSSL checks that only
where the extension exists, so it is checked here again, right after the handshake. A
certificate that an authority issued for both purposes is good for both.

In TLS 1.3 the client has finished its handshake before the server has looked at the client's
certificate (RFC 8446, section 2). The server's refusal therefore reaches the client as an
alert in its first read. Where a write fails before that, a read still brings the alert.
"""

import os
import ssl
import time
from collections.abc import Callable

from cmappd.core import refusal
from cmappd.core.certificate import CLIENT_AUTH, SERVER_AUTH, Certificate, blocks, date, parse
from cmappd.errors import LocalProtocolError, TlsError, UnfitCertificateError

StrPath = str | os.PathLike[str]

ALPN = "cmapp/1"
HANDSHAKE_LIMIT = 32 * 1024  # bytes taken from a peer not yet known; a long chain has 8 KiB
SLICE = 4096  # a memory BIO never shrinks, so no more than this is put into it at once
RECORD = 16 * 1024  # plaintext of the longest record (RFC 8446, section 5.1)

_PURPOSES = {SERVER_AUTH: "a guest (serverAuth)", CLIENT_AUTH: "a manager (clientAuth)"}


def server_context(
    certificate: StrPath, key: StrPath, ca: StrPath, crl: StrPath | None = None
) -> ssl.SSLContext:
    """For the guest's end. An expired certificate is loaded all the same.

    With ``crl``, managers' certificates on that list are refused. Raises TlsError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # managers hold one connection; tickets cost memory and a record
    _load(context, certificate, key, ca, SERVER_AUTH)
    if crl is not None:
        _load_crl(context, crl)
    return context


def client_context(certificate: StrPath, key: StrPath, ca: StrPath) -> ssl.SSLContext:
    """For a manager's end; ``wrap_socket`` needs the ``server_hostname`` to be checked.

    Raises TlsError, and UnfitCertificateError where the guest would refuse ours now.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # requires a certificate and its name
    context.hostname_checks_common_name = False
    _load(context, certificate, key, ca, CLIENT_AUTH)
    _require_valid_now(certificate)
    return context


def is_refusal(error: OSError) -> bool:
    """Whether a certificate or the handshake was refused, by us or by the peer.

    False where the peer speaks something else, and for a connection that merely broke:
    that says nothing about certificates, and a new attempt may succeed.
    """
    return refusal.is_refusal(_reason(error))


def is_foreign(error: OSError) -> bool:
    """Whether the peer speaks no TLS, no TLS 1.3, or not our protocol over it."""
    return refusal.is_foreign(_reason(error))


def explain(error: OSError) -> str:
    """What went wrong with a connection, as the end of a sentence for the log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return refusal.explain_verification(error.verify_code, error.verify_message)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the peer closed the connection"
    if isinstance(error, ssl.SSLError):
        return refusal.explain(_reason(error)) or f"TLS failed: {error.strerror or error}"
    if isinstance(error, TimeoutError):
        return "the peer did not answer in time"
    return error.strerror or str(error)


def _reason(error: OSError) -> str:
    """OpenSSL's name for what happened, or "" where Python or OpenSSL knows none."""
    return getattr(error, "reason", None) or ""


def peer_name(ssl_object: ssl.SSLObject | ssl.SSLSocket) -> str:
    """The one common name in the certificate of a peer whose handshake succeeded.

    Raises TlsError where there is none, where there are several, and where it is empty or
    has characters that cannot be printed: a name decides what a manager may do.
    """
    certificate = ssl_object.getpeercert() or {}
    parts = [part for group in certificate.get("subject", ()) for part in group]
    names = [str(part[1]) for part in parts if part[0] == "commonName"]
    if len(names) != 1:
        raise TlsError(f"the peer's certificate has {len(names)} common names instead of one")
    if not names[0] or not names[0].isprintable():
        raise TlsError(f"the peer's certificate has an unusable common name: {names[0]!a}")
    return names[0]


class TlsPipe:
    """TLS over bytes, for a protocol that does its own I/O.

    After each ``receive``, ``send`` and ``close``, what ``outgoing`` returns is for the peer,
    also after an error: the alert that says why. A client starts with ``receive(b"")``.
    What is held for a peer is one record, a slice, and what ``outgoing`` was not asked for.
    """

    __slots__ = (
        "_incoming",
        "_outgoing",
        "_unproven",
        "_written",
        "closed",
        "established",
        "ssl_object",
    )

    def __init__(
        self, context: ssl.SSLContext, server_side: bool = True, server_name: str | None = None
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._written: list[bytes] = []
        self._unproven = 0  # bytes received in the handshake
        self.ssl_object = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name)
        self.established = False
        self.closed = False  # the peer said its last: close_notify, or an error

    def receive(self, ciphertext: bytes) -> list[bytes]:
        """Take what the peer sent; give the plaintext in it. Raises TlsError."""
        chunks: list[bytes] = []
        view = memoryview(ciphertext)
        try:
            for start in range(0, len(view) or 1, SLICE):
                if self.closed:
                    break
                self._take(view[start : start + SLICE], chunks)
        except ssl.SSLError as error:
            self.closed = True
            raise TlsError(explain(error)) from error
        return chunks

    def _take(self, ciphertext: memoryview, chunks: list[bytes]) -> None:
        self._incoming.write(ciphertext)
        if not self.established:
            self._shake_hands(len(ciphertext))
        while self.established:
            try:
                chunk = self.ssl_object.read(RECORD)
            except ssl.SSLWantReadError:
                return
            if not chunk:
                self.closed = True
                return
            chunks.append(chunk)

    def _shake_hands(self, received: int) -> None:
        self._unproven += received
        try:
            self.ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            if self._unproven > HANDSHAKE_LIMIT:
                self.closed = True
                raise TlsError("the peer's handshake is too long") from None
            return
        self.established = True

    def send(self, plaintext: bytes) -> None:
        """Encrypt for the peer. Raises TlsError when the connection has failed."""
        if not self.established:  # writing would shake hands by itself, unchecked
            raise LocalProtocolError("cannot send before the handshake is done")
        view = memoryview(plaintext)
        try:
            for start in range(0, len(view), SLICE):
                self.ssl_object.write(view[start : start + SLICE])
                self._written.append(self._outgoing.read())
        except ssl.SSLError as error:
            raise TlsError(explain(error)) from error

    def outgoing(self) -> bytes:
        """The ciphertext to be written to the peer, and given only once."""
        self._written.append(self._outgoing.read())
        ciphertext = b"".join(self._written)
        self._written.clear()
        return ciphertext

    def close(self) -> None:
        """Say close_notify, where there is somebody to hear it."""
        if self.established and not self.closed:
            try:
                self.ssl_object.unwrap()
            except ssl.SSLError:
                return  # the peer has not said its own yet, and need not


def _load(
    context: ssl.SSLContext, certificate: StrPath, key: StrPath, ca: StrPath, purpose: bytes
) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    context.sslsocket_class = _CheckedSocket
    context.sslobject_class = _CheckedObject
    if purpose not in read_certificate(certificate).usages:
        raise UnfitCertificateError(
            f"cannot use certificate {certificate}: it was not issued for {_PURPOSES[purpose]}"
        )
    _load_key(context, certificate, key)
    _load_authorities(context, ca)


def _load_key(context: ssl.SSLContext, certificate: StrPath, key: StrPath) -> None:
    read(key, "key")
    try:
        context.load_cert_chain(certificate, key, _refuse_password(key))
    except ssl.SSLError as error:
        # The last of these is what OpenSSL says of an RSA key for an EC certificate.
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            why = f"it does not belong to certificate {certificate}"
        elif error.reason is None:
            why = "it holds no private key in PEM form"
        else:
            why = f"certificate {certificate} is refused: {error.strerror}"
        raise TlsError(f"cannot use key {key}: {why}") from error


def _refuse_password(key: StrPath) -> Callable[[], str]:
    """Without this, OpenSSL would ask for the password on the terminal, and wait."""

    def refuse() -> str:
        raise TlsError(f"cannot use key {key}: it is encrypted; store it without a password")

    return refuse


def _load_authorities(context: ssl.SSLContext, ca: StrPath) -> None:
    _load_store(context, ca, "ca")
    if context.cert_store_stats()["x509_ca"] == 0:
        raise TlsError(f"cannot use ca {ca}: it holds no certificate of an authority")


def _load_crl(context: ssl.SSLContext, crl: StrPath) -> None:
    before = context.cert_store_stats()
    _load_store(context, crl, "crl")
    after = context.cert_store_stats()
    if after["x509"] != before["x509"]:  # it would be trusted
        raise TlsError(f"cannot use crl {crl}: it holds a certificate")
    if after["crl"] == before["crl"]:
        raise TlsError(f"cannot use crl {crl}: it holds no revocation list")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _load_store(context: ssl.SSLContext, path: StrPath, what: str) -> None:
    read(path, what)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise TlsError(f"cannot use {what} {path}: it holds nothing in PEM form") from error


def _require_valid_now(path: StrPath) -> None:
    certificate = read_certificate(path)
    now = time.time()
    if now > certificate.end:
        raise UnfitCertificateError(
            f"cannot use certificate {path}: it expired on {date(certificate.end)}"
        )
    if now < certificate.start:
        raise UnfitCertificateError(
            f"cannot use certificate {path}: it is not valid before {date(certificate.start)};"
            " is this machine's clock right?"
        )


def read(path: StrPath, what: str) -> str:
    """A file in PEM form, and whatever else is in it. Raises TlsError."""
    try:
        with open(path, encoding="latin-1") as file:  # no byte is an error; PEM itself is ASCII
            return file.read()
    except OSError as error:
        raise TlsError(f"cannot read {what} {path}: {error.strerror}") from error


def read_certificate(path: StrPath) -> Certificate:
    """The first certificate in a PEM file, which is the one that counts. Raises TlsError."""
    try:
        found = blocks(read(path, "certificate"), "CERTIFICATE")
        if found:
            return parse(found[0])
    except ValueError as error:
        raise TlsError(f"cannot use certificate {path}: it is damaged") from error
    raise TlsError(f"cannot use certificate {path}: it holds no certificate in PEM form")


class _CheckedSocket(ssl.SSLSocket):
    """Adds to the handshake what OpenSSL does not check."""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _check_peer(self)


class _CheckedObject(ssl.SSLObject):
    """Adds to the handshake what OpenSSL does not check."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _check_peer(self)


def _check_peer(peer: ssl.SSLSocket | ssl.SSLObject) -> None:
    """Raises what OpenSSL would, so that there is one way to explain it."""
    if peer.selected_alpn_protocol() != ALPN:
        error = ssl.SSLError(ssl.SSL_ERROR_SSL, "no application protocol")
        error.reason = refusal.NOT_OURS
        raise error
    purpose = CLIENT_AUTH if peer.server_side else SERVER_AUTH
    if not _is_for(peer.getpeercert(binary_form=True), purpose):
        message = "unsuitable certificate purpose"
        unsuitable = ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, message)
        unsuitable.reason = "CERTIFICATE_VERIFY_FAILED"
        unsuitable.verify_code, unsuitable.verify_message = refusal.INVALID_PURPOSE, message
        raise unsuitable


def _is_for(der: bytes | None, purpose: bytes) -> bool:
    try:
        return der is not None and purpose in parse(der).usages
    except ValueError:
        return False
