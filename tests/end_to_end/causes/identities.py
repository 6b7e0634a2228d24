"""Certificates that are refused, and managers that may not."""

from collections.abc import Callable
from datetime import timedelta

from cmappd import reasons
from tests.certificates import CLIENT, Authority
from tests.end_to_end.causes import Case, Cause
from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import Manager

SECOND = timedelta(seconds=1)


def with_host(make: Callable[[Scene], str]) -> Cause:
    """A good guest, and a host with this configuration."""

    def cause(scene: Scene) -> Manager:
        scene.guest.define("db", "/bin/sleep", "600")
        scene.guest.start()
        return scene.manager("db", config=make(scene))

    return cause


def other_authority(scene: Scene) -> str:
    """A manager from an authority that the guest does not know."""
    other = Authority(scene.folder / "other", "Other CA")
    return scene.host(other.manager("vmhost1"))


def untrusted_guest(scene: Scene) -> str:
    """A manager that does not know the authority of the guest."""
    return scene.host(ca=Authority(scene.folder / "other", "Other CA").ca)


def expired_manager(scene: Scene) -> str:
    return scene.host(scene.authority.manager("vmhost1", end=-SECOND))


def guest_as_manager(scene: Scene) -> str:
    return scene.host(scene.guest.identity)


def wrong_server_name(scene: Scene) -> str:
    return scene.host(server_name="guest2")


def with_two_purposes(scene: Scene) -> str:
    """A manager whose common name is not its alternative name: only the former counts."""
    return scene.host(scene.authority.issue(["vmhost9"], [CLIENT], ["vmhost1"]))


def expired_guest(scene: Scene) -> Manager:
    guest = scene.guest
    guest.identity = scene.authority.guest("guest1", end=-SECOND)
    guest.define("db", "/bin/sleep", "600")
    guest.start()
    return scene.manager("db")


def revoked(scene: Scene) -> Manager:
    guest = scene.guest
    guest.tls["crl"] = scene.authority.crl([scene.identity])
    guest.define("db", "/bin/sleep", "600")
    guest.start()
    return scene.manager("db")


def not_allowed(scene: Scene) -> Manager:
    guest = scene.guest
    guest.define("db", "/bin/sleep", "600")
    guest.define("web", "/bin/sleep", "600")
    guest.managers = {"vmhost1": {"apps": ["web"]}}
    guest.start()
    return scene.manager("db")


def not_listed(scene: Scene) -> str:
    return scene.host(scene.authority.manager("vmhost7"))


def unknown_application(scene: Scene) -> Manager:
    scene.guest.define("db", "/bin/sleep", "600")
    scene.guest.start()
    return scene.manager("bd")


CASES = (
    Case(
        "wrong authority",
        reasons.TLS,
        203,
        "the peer refused our certificate: it is not from an authority that the peer knows",
        with_host(other_authority),
    ),
    Case(
        "wrong authority of the guest",
        reasons.TLS,
        203,
        "the peer's certificate is not from an authority in our ca file",
        with_host(untrusted_guest),
    ),
    Case("manager expired", reasons.TLS, 203, "it expired on", with_host(expired_manager)),
    Case(
        "guest expired",
        reasons.TLS,
        203,
        "the peer's certificate, or its authority's, has expired",
        expired_guest,
    ),
    Case(
        "a guest's certificate for a manager",
        reasons.TLS,
        203,
        "it was not issued for a manager (clientAuth)",
        with_host(guest_as_manager),
    ),
    Case(
        "wrong server name",
        reasons.TLS,
        203,
        "the peer's certificate is not for 'guest2'",
        with_host(wrong_server_name),
    ),
    Case("revoked", reasons.TLS, 203, "the peer refused our certificate: it is revoked", revoked),
    Case(
        "not allowed", reasons.DENIED, 204, "vmhost1 may not drive 'db' in this guest", not_allowed
    ),
    Case(
        "not listed",
        reasons.DENIED,
        204,
        "vmhost7 may not drive 'db' in this guest",
        with_host(not_listed),
    ),
    Case(
        "its alternative name is not its name",
        reasons.DENIED,
        204,
        "vmhost9 may not drive 'db' in this guest",
        with_host(with_two_purposes),
    ),
    Case(
        "unknown application",
        reasons.UNKNOWN_APP,
        205,
        "there is no application 'bd' in this guest",
        unknown_application,
    ),
)
