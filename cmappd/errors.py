"""The errors of cmappd: one small tree, told apart by whose fault they are."""


class CmappdError(Exception):
    """Anything cmappd reports to a person; its text says what, where, and what to do."""


class UsageError(CmappdError):
    """Wrong arguments, or a wrong configuration on this side."""


class ConfigError(CmappdError):
    """The configuration cannot be used; the text has a line for each problem."""


class TransientError(ConfigError):
    """It cannot be used now, for a want that may pass without an edit."""


class LaunchError(CmappdError):
    """A program could not be executed."""


class TlsError(CmappdError):
    """A certificate, a key or a handshake was refused, by us or by the peer."""


class UnfitCertificateError(TlsError):
    """Our certificate can be used, and the peer would refuse it: for its time, or for its use."""


class ProtocolError(CmappdError):
    """A rule of the wire was broken."""


class LocalProtocolError(ProtocolError):
    """This side tried to say what it may not say now: a defect in cmappd."""


class RemoteProtocolError(ProtocolError):
    """The peer said what it may not say, or what cannot be read."""
