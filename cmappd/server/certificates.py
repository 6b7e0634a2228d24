"""The server's certificates: loaded from where the configuration says, if they can be trusted."""

import ssl

from cmappd.core.config import Tls
from cmappd.system import files, tls


def load_certificates(section: Tls) -> ssl.SSLContext:
    """The context for new connections. Raises ConfigError or TlsError, which say what to mend."""
    for path in (section.certificate, section.ca, section.crl, section.key):
        if path is not None:
            files.check_trusted(path)
    files.check_private(section.key)
    return tls.server_context(section.certificate, section.key, section.ca, section.crl)
