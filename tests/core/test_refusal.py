"""The words for what sockets cannot easily bring about; tests of system/tls.py make the rest."""

import pytest

from cmappd.core import refusal


def test_unknown_verification_error_has_the_words_of_openssl() -> None:
    sentence = "the peer's certificate is refused: EE certificate key too weak"
    assert refusal.explain_verification(66, "EE certificate key too weak") == sentence


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("TLSV1_ALERT_INTERNAL_ERROR", "the peer ended the handshake (alert: internal error)"),
        (
            "SSLV3_ALERT_HANDSHAKE_FAILURE",
            "the peer ended the handshake (alert: handshake failure)",
        ),
        (
            "TLSV1_ALERT_ACCESS_DENIED",
            "the peer refused our certificate: it may not connect (alert: access denied)",
        ),
        ("SOMETHING_NEW", None),
        ("", None),
    ],
)
def test_explain(reason: str, sentence: str | None) -> None:
    assert refusal.explain(reason) == sentence


@pytest.mark.parametrize(
    ("reason", "is_refusal", "is_foreign"),
    [
        ("CERTIFICATE_VERIFY_FAILED", True, False),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", True, False),
        ("SSLV3_ALERT_CERTIFICATE_UNKNOWN", True, False),
        ("TLSV1_ALERT_PROTOCOL_VERSION", False, True),
        ("TLSV1_ALERT_NO_APPLICATION_PROTOCOL", False, True),
        ("TLSV1_ALERT_INTERNAL_ERROR", False, False),
        ("UNEXPECTED_EOF_WHILE_READING", False, False),
        ("", False, False),
    ],
)
def test_a_reason_is_a_refusal_or_foreign_or_neither(
    reason: str, is_refusal: bool, is_foreign: bool
) -> None:
    assert (refusal.is_refusal(reason), refusal.is_foreign(reason)) == (is_refusal, is_foreign)
