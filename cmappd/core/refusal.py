"""Why TLS failed, in plain words: OpenSSL's verification errors, reasons and alerts.

The sentences are ends of sentences, written so that either end of a connection can log them.
"""

INVALID_PURPOSE = 26  # this and the other numbers are X509_V_ERR_* of openssl/x509_vfy.h
NOT_OURS = "NO_APPLICATION_PROTOCOL"

_NAME_MISMATCHES = frozenset({62, 64})
_UNKNOWN_AUTHORITY = "the peer's certificate is not from an authority in our ca file"
_VERIFICATIONS = {
    2: _UNKNOWN_AUTHORITY,
    3: "our revocation list is not from the authority of the peer's certificate",
    7: _UNKNOWN_AUTHORITY,
    9: "the peer's certificate is not valid yet: compare the clocks of both machines",
    10: "the peer's certificate, or its authority's, has expired",
    11: "our revocation list is not valid yet: compare the clocks of both machines",
    12: "our revocation list has expired",
    18: _UNKNOWN_AUTHORITY,
    19: _UNKNOWN_AUTHORITY,
    20: _UNKNOWN_AUTHORITY,
    21: _UNKNOWN_AUTHORITY,
    23: "the peer's certificate is revoked",
    INVALID_PURPOSE: "the peer's certificate is not for this use: a guest's needs the extended"
    " key usage serverAuth, a manager's clientAuth",
}

# Alerts about the certificate of the end that receives them (RFC 8446, section 6.2).
_CERTIFICATE_ALERTS = {
    "ACCESS_DENIED": "it may not connect",
    "BAD_CERTIFICATE": "it is not valid now, or not for the name the peer expects",
    "CERTIFICATE_EXPIRED": "by the peer's clock it, or the peer's revocation list, has expired",
    "CERTIFICATE_REQUIRED": "we sent none",
    "CERTIFICATE_REVOKED": "it is revoked",
    "CERTIFICATE_UNKNOWN": "the peer does not say why",
    "DECRYPT_ERROR": "its signature is wrong",
    "UNKNOWN_CA": "it is not from an authority that the peer knows",
    "UNSUPPORTED_CERTIFICATE": "it is not for this use (extended key usage)",
}
_OTHER_REFUSALS = frozenset({"HANDSHAKE_FAILURE", "INSUFFICIENT_SECURITY"})

_NOT_TLS = "the peer does not speak TLS"
_OTHER_PROTOCOL = "no common protocol: the peer does not speak cmapp/1"
_OTHER_VERSION = "no common protocol: the peer does not speak TLS 1.3"
_FOREIGN = {
    "BAD_RECORD_TYPE": _NOT_TLS,
    "HTTP_REQUEST": _NOT_TLS,
    "HTTPS_PROXY_REQUEST": _NOT_TLS,
    "RECORD_LAYER_FAILURE": _NOT_TLS,
    "WRONG_VERSION_NUMBER": _NOT_TLS,
    NOT_OURS: _OTHER_PROTOCOL,
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": _OTHER_PROTOCOL,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OTHER_VERSION,
    "UNSUPPORTED_PROTOCOL": _OTHER_VERSION,
}
_NO_CERTIFICATE = "PEER_DID_NOT_RETURN_A_CERTIFICATE"


def is_foreign(reason: str) -> bool:
    """Whether the peer speaks no TLS, no TLS 1.3, or not our protocol over it."""
    return reason in _FOREIGN


def is_refusal(reason: str) -> bool:
    """Whether a certificate or the handshake was refused, by us or by the peer."""
    alert = _alert(reason)
    return (
        reason in ("CERTIFICATE_VERIFY_FAILED", _NO_CERTIFICATE)
        or alert in _CERTIFICATE_ALERTS
        or alert in _OTHER_REFUSALS
    )


def explain_verification(code: int, message: str) -> str:
    """Why we refused the peer's certificate; ``message`` is OpenSSL's own."""
    if code in _NAME_MISMATCHES:
        expected = message.rpartition(" for ")[2].rstrip(".")
        return f"the peer's certificate is not for {expected}: set server_name to a name it has"
    return _VERIFICATIONS.get(code, f"the peer's certificate is refused: {message}")


def explain(reason: str) -> str | None:
    """What an OpenSSL reason means; None where it says nothing to an administrator."""
    if reason == _NO_CERTIFICATE:
        return "the peer sent no certificate, and one is required"
    if reason in _FOREIGN:
        return _FOREIGN[reason]
    alert = _alert(reason)
    words = alert.lower().replace("_", " ")
    if alert in _CERTIFICATE_ALERTS:
        return f"the peer refused our certificate: {_CERTIFICATE_ALERTS[alert]} (alert: {words})"
    return f"the peer ended the handshake (alert: {words})" if alert else None


def _alert(reason: str) -> str:
    """The alert that a peer sent, by OpenSSL's name, or ""; its prefix is of no use."""
    return reason.partition("_ALERT_")[2]
