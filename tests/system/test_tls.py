"""TLS between a TlsPipe on a real socket, as in the server, and a blocking client's socket."""

import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from cmappd.errors import LocalProtocolError, TlsError
from cmappd.system import pki, tls
from tests.certificates import ANY, CLIENT, DAY, SERVER, Authority, Identity, private_pem

HALF = DAY / 2
DEADLINE = 10.0

UNKNOWN_AUTHORITY = "the peer's certificate is not from an authority in our ca file"
EXPIRED = "the peer's certificate, or its authority's, has expired"
NOT_YET = "the peer's certificate is not valid yet: compare the clocks of both machines"
PURPOSE = (
    "the peer's certificate is not for this use: a guest's needs the extended key usage"
    " serverAuth, a manager's clientAuth"
)
REFUSED = "the peer refused our certificate: "
BAD = f"{REFUSED}it is not valid now, or not for the name the peer expects (alert: bad certificate)"
UNSUPPORTED = (
    f"{REFUSED}it is not for this use (extended key usage) (alert: unsupported certificate)"
)
UNKNOWN_CA = f"{REFUSED}it is not from an authority that the peer knows (alert: unknown ca)"
TOO_OLD = (
    f"{REFUSED}by the peer's clock it, or the peer's revocation list, has expired"
    " (alert: certificate expired)"
)
REVOKED = f"{REFUSED}it is revoked (alert: certificate revoked)"
NONE_SENT = f"{REFUSED}we sent none (alert: certificate required)"
CLOSED = "the peer closed the connection"
RESET = "Connection reset by peer"


class World(NamedTuple):
    """One authority, a guest and a manager that trust each other."""

    authority: Authority
    stranger: Authority
    guest: Identity
    manager: Identity

    def server(self, identity: Identity | None = None, crl: str | None = None) -> ssl.SSLContext:
        guest = identity or self.guest
        return tls.server_context(guest.certificate, guest.key, self.authority.ca, crl)

    def client(self, identity: Identity | None = None) -> ssl.SSLContext:
        """As client_context makes it, but with a certificate that it would not load."""
        context = tls.client_context(self.manager.certificate, self.manager.key, self.authority.ca)
        if identity is not None:
            context.load_cert_chain(identity.certificate, identity.key)
        return context


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    directory = tmp_path_factory.mktemp("world")
    authority = Authority(directory / "ours")
    stranger = Authority(directory / "theirs", "Another CA")
    return World(authority, stranger, authority.guest("guest1"), authority.manager("vmhost1"))


class Served:
    """What came of one connection, on the server's end."""

    error = ""
    name = ""


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """Serve one connection in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(DEADLINE)
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join(DEADLINE)
            assert not thread.is_alive()


def echo(context: ssl.SSLContext, served: Served, connection: socket.socket) -> None:
    """Send back what comes, until the peer or TLS ends it, as cmappserver would."""
    pipe = tls.TlsPipe(context)
    try:
        while not pipe.closed and (ciphertext := connection.recv(65536)):
            for chunk in pipe.receive(ciphertext):
                pipe.send(chunk)
            if pipe.established:
                served.name = tls.peer_name(pipe.ssl_object)
            write(connection, pipe)
    except TlsError as error:
        served.error = str(error)
        write(connection, pipe)


def write(connection: socket.socket, pipe: tls.TlsPipe) -> None:
    if ciphertext := pipe.outgoing():
        connection.sendall(ciphertext)


class Result(NamedTuple):
    server: str
    client: str
    is_refusal: bool
    is_foreign: bool


def meet(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "guest1") -> Result:
    """What each end says of a handshake, and of the first bytes after it."""
    served = Served()
    with listening(partial(echo, server, served)) as address:
        error = approach(client, address, name)
    if error is None:
        return Result(served.error, "", False, False)
    return Result(served.error, tls.explain(error), tls.is_refusal(error), tls.is_foreign(error))


def approach(context: ssl.SSLContext, address: tuple[str, int], name: str) -> OSError | None:
    with socket.create_connection(address, DEADLINE) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=name) as connection:
                connection.sendall(b"hello")
                if connection.recv(5) != b"hello":
                    return ssl.SSLEOFError()
        except OSError as error:
            return error
    return None


def refused(server: str, client: str) -> Result:
    return Result(server, client, is_refusal=True, is_foreign=False)


# --- handshakes that succeed


@pytest.mark.parametrize("name", ["guest1", "localhost", "127.0.0.1"])
def test_both_ends_accept(world: World, name: str) -> None:
    assert meet(world.server(), world.client(), name) == ("", "", False, False)


def test_certificates_of_our_own_authority(tmp_path: Path) -> None:
    pki.init(tmp_path)
    pki.issue_guest(tmp_path, "guest1", ["127.0.0.1"])
    pki.issue_manager(tmp_path, "vmhost1")
    pki.issue_manager(tmp_path, "vmhost2")
    pki.revoke(tmp_path, "vmhost2")
    ca, crl = tmp_path / "ca.pem", tmp_path / "crl.pem"
    server = tls.server_context(tmp_path / "guest1.pem", tmp_path / "guest1.key", ca, crl)
    good, bad = (
        tls.client_context(tmp_path / f"{n}.pem", tmp_path / f"{n}.key", ca)
        for n in ("vmhost1", "vmhost2")
    )
    served = Served()
    with listening(partial(echo, server, served)) as address:
        assert approach(good, address, "127.0.0.1") is None
    assert served.name == "vmhost1"
    assert meet(server, bad) == refused("the peer's certificate is revoked", REVOKED)


def test_connection_is_tls_1_3_with_our_protocol_and_no_tickets(world: World) -> None:
    served = Served()
    with (
        listening(partial(echo, world.server(), served)) as address,
        socket.create_connection(address, DEADLINE) as plain,
        world.client().wrap_socket(plain, server_hostname="guest1") as connection,
    ):
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        assert connection.version() == "TLSv1.3"
        assert connection.selected_alpn_protocol() == "cmapp/1"
        assert connection.session is not None
        assert not connection.session.has_ticket


def test_certificate_for_both_purposes_serves_both(world: World) -> None:
    both = world.authority.issue(["both"], [SERVER, CLIENT], ["guest1"])
    assert meet(world.server(both), world.client(both)) == ("", "", False, False)


def test_manager_on_a_list_of_others_is_accepted(world: World) -> None:
    crl = world.authority.crl([world.authority.manager("vmhost9")])
    assert meet(world.server(crl=crl), world.client()).client == ""


def test_system_authorities_are_not_trusted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", world.stranger.ca)
    strange = world.stranger.manager("vmhost1")
    assert meet(world.server(), world.client(strange)).server == UNKNOWN_AUTHORITY


# --- the server refuses the manager


def test_manager_expired(world: World) -> None:
    manager = world.authority.manager("vmhost1", end=-HALF)
    assert meet(world.server(), world.client(manager)) == refused(EXPIRED, TOO_OLD)


def test_manager_not_yet_valid(world: World) -> None:
    manager = world.authority.manager("vmhost1", start=HALF)
    assert meet(world.server(), world.client(manager)) == refused(NOT_YET, BAD)


def test_manager_of_another_authority(world: World) -> None:
    manager = world.stranger.manager("vmhost1")
    assert meet(world.server(), world.client(manager)) == refused(UNKNOWN_AUTHORITY, UNKNOWN_CA)


def test_manager_without_a_certificate(world: World) -> None:
    context = ssl.create_default_context(cafile=world.authority.ca)
    context.set_alpn_protocols([tls.ALPN])
    no_certificate = "the peer sent no certificate, and one is required"
    assert meet(world.server(), context) == refused(no_certificate, NONE_SENT)


@pytest.mark.parametrize("usage", [SERVER, ANY])
def test_manager_with_another_purpose(world: World, usage: x509.ObjectIdentifier) -> None:
    manager = world.authority.issue(["vmhost1"], [usage], [])
    assert meet(world.server(), world.client(manager)) == refused(PURPOSE, UNSUPPORTED)


def test_manager_without_a_purpose(world: World) -> None:
    """OpenSSL accepts it, so that there is no alert: the connection just ends."""
    manager = world.authority.issue(["vmhost1"], [], [])
    assert_dropped(meet(world.server(), world.client(manager)), PURPOSE)


def assert_dropped(result: Result, sentence: str) -> None:
    """The server ends the connection without an alert; bytes it did not read make a reset."""
    assert result.client in {CLOSED, RESET}
    assert result == Result(sentence, result.client, is_refusal=False, is_foreign=False)


def test_manager_revoked(world: World) -> None:
    server = world.server(crl=world.authority.crl([world.manager]))
    sentence = "the peer's certificate is revoked"
    assert meet(server, world.client()) == refused(sentence, REVOKED)


def test_revocation_list_expired(world: World) -> None:
    server = world.server(crl=world.authority.crl([], end=-HALF))
    assert meet(server, world.client()) == refused("our revocation list has expired", TOO_OLD)


def test_revocation_list_of_another_authority(world: World) -> None:
    server = world.server(crl=world.stranger.crl([]))
    sentence = "our revocation list is not from the authority of the peer's certificate"
    assert meet(server, world.client()) == refused(sentence, UNKNOWN_CA)


# --- the manager refuses the server


def test_guest_expired(world: World) -> None:
    guest = world.authority.guest("guest1", end=-HALF)
    assert meet(world.server(guest), world.client()) == refused(TOO_OLD, EXPIRED)


def test_guest_not_yet_valid(world: World) -> None:
    guest = world.authority.guest("guest1", start=HALF)
    assert meet(world.server(guest), world.client()) == refused(BAD, NOT_YET)


def test_guest_of_another_authority(world: World) -> None:
    guest = world.stranger.guest("guest1")
    assert meet(world.server(guest), world.client()) == refused(UNKNOWN_CA, UNKNOWN_AUTHORITY)


@pytest.mark.parametrize("name", ["guest2", "192.0.2.1"])
def test_guest_of_another_name(world: World, name: str) -> None:
    sentence = f"the peer's certificate is not for '{name}': set server_name to a name it has"
    assert meet(world.server(), world.client(), name) == refused(BAD, sentence)


def test_guest_whose_name_is_only_its_common_name(world: World) -> None:
    guest = world.authority.issue(["guest1"], [SERVER], [])
    sentence = "the peer's certificate is not for 'guest1': set server_name to a name it has"
    assert meet(world.server(guest), world.client()) == refused(BAD, sentence)


def strange_server(world: World, guest: Identity) -> ssl.SSLContext:
    """A server that presents a certificate which server_context would not load."""
    context = world.server()
    context.load_cert_chain(guest.certificate, guest.key)
    return context


def test_guest_with_a_manager_certificate(world: World) -> None:
    guest = world.authority.issue(["guest1"], [CLIENT], ["guest1"])
    server = strange_server(world, guest)
    assert meet(server, world.client()) == refused(UNSUPPORTED, PURPOSE)


def test_guest_without_a_purpose(world: World) -> None:
    """OpenSSL accepts it, so that there is no alert; the client's own check refuses it."""
    server = strange_server(world, world.authority.issue(["guest1"], [], ["guest1"]))
    assert meet(server, world.client()) == refused("", PURPOSE)


# --- the peer speaks something else


@pytest.mark.parametrize("protocols", [["http/1.1"], []])
def test_client_of_another_protocol(world: World, protocols: list[str]) -> None:
    client = ssl.create_default_context(cafile=world.authority.ca)
    client.load_cert_chain(world.manager.certificate, world.manager.key)
    if protocols:
        client.set_alpn_protocols(protocols)
    sentence = "no common protocol: the peer does not speak cmapp/1"
    assert_dropped(meet(world.server(), client), sentence)


@pytest.mark.parametrize("protocols", [["http/1.1"], []])
def test_server_of_another_protocol(world: World, protocols: list[str]) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(world.guest.certificate, world.guest.key)
    if protocols:
        server.set_alpn_protocols(protocols)
    with listening(partial(greet, server)) as address:
        error = approach(world.client(), address, "guest1")
    assert error is not None
    assert tls.explain(error) == "no common protocol: the peer does not speak cmapp/1"
    assert tls.is_foreign(error)
    assert not tls.is_refusal(error)


def greet(context: ssl.SSLContext, connection: socket.socket) -> None:
    with (
        suppress(ConnectionResetError),  # tickets that the client had not read when it left
        context.wrap_socket(connection, server_side=True) as secure,
    ):
        secure.recv(1)


def test_client_of_an_older_version(world: World) -> None:
    client = ssl.create_default_context(cafile=world.authority.ca)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    sentence = "no common protocol: the peer does not speak TLS 1.3"
    assert meet(world.server(), client) == Result(sentence, sentence, False, True)


@pytest.mark.parametrize(
    "speech", [b"GET / HTTP/1.0\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b'{"type":"hello"}\n', bytes(99)]
)
def test_peers_that_do_not_speak_tls(world: World, speech: bytes) -> None:
    served = Served()
    with (
        listening(partial(echo, world.server(), served)) as address,
        socket.create_connection(address, DEADLINE) as plain,
    ):
        plain.sendall(speech)
        while plain.recv(4096):
            pass
    assert served.error == "the peer does not speak TLS"
    with listening(partial(answer, speech)) as address:
        error = approach(world.client(), address, "guest1")
    assert error is not None
    assert tls.explain(error) == "the peer does not speak TLS"
    assert tls.is_foreign(error)
    assert not tls.is_refusal(error)


def answer(speech: bytes, connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(speech)


# --- connections that break say nothing about certificates


def reset(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(("serve", "sentence"), [(partial(answer, b""), CLOSED), (reset, RESET)])
def test_broken_connections(
    world: World, serve: Callable[[socket.socket], None], sentence: str
) -> None:
    with listening(serve) as address:
        error = approach(world.client(), address, "guest1")
    assert error is not None
    assert tls.explain(error) == sentence
    assert not tls.is_refusal(error)
    assert not tls.is_foreign(error)


def test_silent_peer(world: World) -> None:
    done = threading.Event()

    def serve(_: socket.socket) -> None:
        done.wait(DEADLINE)

    with listening(serve) as address:
        with socket.create_connection(address, 0.05) as plain, pytest.raises(TimeoutError) as late:
            world.client().wrap_socket(plain, server_hostname="guest1")
        done.set()
    assert tls.explain(late.value) == "the peer did not answer in time"
    assert not tls.is_refusal(late.value)
    assert not tls.is_foreign(late.value)


def test_alert_is_still_read_after_a_write_has_failed(world: World) -> None:
    """The server refused and closed before the client wrote: what link.py must expect."""
    gone = threading.Event()

    def serve(connection: socket.socket) -> None:
        echo(world.server(), served, connection)
        connection.close()
        gone.set()

    served = Served()
    with listening(serve) as address, socket.create_connection(address, DEADLINE) as plain:
        client = world.client(world.stranger.manager("vmhost1"))
        with client.wrap_socket(plain, server_hostname="guest1") as connection:
            assert gone.wait(DEADLINE)
            with pytest.raises((ssl.SSLEOFError, BrokenPipeError, ConnectionResetError)):
                send_until_it_fails(connection)
            with pytest.raises(ssl.SSLError) as caught:
                connection.recv(1)
    assert served.error == UNKNOWN_AUTHORITY
    assert tls.explain(caught.value) == UNKNOWN_CA
    assert tls.is_refusal(caught.value)


def send_until_it_fails(connection: ssl.SSLSocket) -> None:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        connection.sendall(b"hello")


# --- files


def load_server(identity: Identity, ca: str, crl: str | None = None) -> str:
    with pytest.raises(TlsError) as error:
        tls.server_context(identity.certificate, identity.key, ca, crl)
    return str(error.value)


def test_missing_files(world: World, tmp_path: Path) -> None:
    none = str(tmp_path / "none")
    why = "No such file or directory"
    certificate, key = world.guest
    ca = world.authority.ca
    assert load_server(Identity(none, key), ca) == f"cannot read certificate {none}: {why}"
    assert load_server(Identity(certificate, none), ca) == f"cannot read key {none}: {why}"
    assert load_server(world.guest, none) == f"cannot read ca {none}: {why}"
    assert load_server(world.guest, ca, none) == f"cannot read crl {none}: {why}"
    assert load_server(world.guest, str(tmp_path)) == f"cannot read ca {tmp_path}: Is a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_key(world: World, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o000)
    sentence = f"cannot read key {key}: Permission denied"
    assert load_server(Identity(world.guest.certificate, str(key)), world.authority.ca) == sentence


def test_files_of_something_else(world: World, tmp_path: Path) -> None:
    junk = str(tmp_path / "junk")
    Path(junk).write_bytes(b"\xff junk\n")
    certificate, key = world.guest
    ca = world.authority.ca
    no_certificate = f"cannot use certificate {junk}: it holds no certificate in PEM form"
    no_key = "it holds no private key in PEM form"
    assert load_server(Identity(junk, key), ca) == no_certificate
    assert load_server(Identity(certificate, junk), ca) == f"cannot use key {junk}: {no_key}"
    swapped = load_server(Identity(certificate, certificate), ca)
    assert swapped == f"cannot use key {certificate}: {no_key}"
    assert load_server(world.guest, junk) == f"cannot use ca {junk}: it holds nothing in PEM form"
    sentence = f"cannot use crl {junk}: it holds nothing in PEM form"
    assert load_server(world.guest, ca, junk) == sentence


def test_authorities_and_lists_mistaken_for_each_other(world: World) -> None:
    ca, crl, leaf = world.authority.ca, world.authority.crl([]), world.guest.certificate
    no_authority = "it holds no certificate of an authority"
    assert load_server(world.guest, leaf) == f"cannot use ca {leaf}: {no_authority}"
    assert load_server(world.guest, crl) == f"cannot use ca {crl}: {no_authority}"
    strange = world.stranger.ca
    assert load_server(world.guest, ca, strange) == (
        f"cannot use crl {strange}: it holds a certificate"
    )


@pytest.mark.parametrize("content", ["AAAA", "not base64", "MIIB"])
def test_damaged_certificate(world: World, tmp_path: Path, content: str) -> None:
    path = tmp_path / "damaged.pem"
    path.write_text(f"-----BEGIN CERTIFICATE-----\n{content}\n-----END CERTIFICATE-----\n")
    sentence = f"cannot use certificate {path}: it is damaged"
    assert load_server(Identity(str(path), world.guest.key), world.authority.ca) == sentence


def test_a_damaged_certificate_behind_a_good_one(world: World, tmp_path: Path) -> None:
    path = tmp_path / "chain.pem"
    damaged = "-----BEGIN CERTIFICATE-----\nnot base64\n-----END CERTIFICATE-----\n"
    path.write_text(Path(world.guest.certificate).read_text() + damaged)
    sentence = f"cannot use certificate {path}: it is damaged"
    assert load_server(Identity(str(path), world.guest.key), world.authority.ca) == sentence


def test_keys_of_another_certificate(world: World, tmp_path: Path) -> None:
    rsa_key = tmp_path / "rsa.key"
    key = rsa.generate_private_key(65537, 2048)
    rsa_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificate = world.guest.certificate
    for other in (world.manager.key, str(rsa_key)):
        sentence = f"cannot use key {other}: it does not belong to certificate {certificate}"
        assert load_server(Identity(certificate, other), world.authority.ca) == sentence


def test_encrypted_key_is_refused_without_asking(world: World, tmp_path: Path) -> None:
    key = tmp_path / "encrypted.key"
    key.write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    sentence = f"cannot use key {key}: it is encrypted; store it without a password"
    assert load_server(Identity(world.guest.certificate, str(key)), world.authority.ca) == sentence


def test_certificates_for_the_other_end(world: World) -> None:
    ca = world.authority.ca
    guest, manager = world.guest, world.manager
    nothing = world.authority.issue(["guest1"], [], ["guest1"])
    for identity in (manager, nothing):
        assert load_server(identity, ca) == (
            f"cannot use certificate {identity.certificate}:"
            " it was not issued for a guest (serverAuth)"
        )
    for identity in (guest, nothing):
        assert load_client(identity, world) == (
            f"cannot use certificate {identity.certificate}:"
            " it was not issued for a manager (clientAuth)"
        )


def test_client_does_not_load_what_the_guest_would_refuse(world: World) -> None:
    expired = world.authority.manager("vmhost1", end=-HALF)
    early = world.authority.manager("vmhost1", start=HALF)
    ended = x509_of(expired).not_valid_after_utc
    begins = x509_of(early).not_valid_before_utc
    assert load_client(expired, world) == (
        f"cannot use certificate {expired.certificate}: it expired on {ended:%Y-%m-%d %H:%M} UTC"
    )
    assert load_client(early, world) == (
        f"cannot use certificate {early.certificate}: it is not valid before"
        f" {begins:%Y-%m-%d %H:%M} UTC; is this machine's clock right?"
    )


def x509_of(identity: Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(identity.certificate).read_bytes())


def load_client(identity: Identity, world: World) -> str:
    with pytest.raises(TlsError) as error:
        tls.client_context(*identity, world.authority.ca)
    return str(error.value)


def test_server_loads_an_expired_certificate_and_tells_when(world: World) -> None:
    expired = world.authority.guest("guest1", end=-HALF)
    world.server(expired)
    assert (
        tls.read_certificate(expired.certificate).end
        == x509_of(expired).not_valid_after_utc.timestamp()
    )
    with pytest.raises(TlsError, match=r"^cannot use certificate .*: it holds no certificate"):
        tls.read_certificate(expired.key)


# --- the name of a peer


def named(world: World, names: list[str]) -> str:
    manager = world.authority.issue(names, [CLIENT], [])
    server, _ = establish(world.server(), world.client(manager))
    return tls.peer_name(server.ssl_object)


@pytest.mark.parametrize("name", ["vmhost1", "VM host 1", "hôte", "a" * 64])
def test_peer_name(world: World, name: str) -> None:
    assert named(world, [name]) == name


@pytest.mark.parametrize("names", [[], ["vmhost1", "vmhost2"], ["vmhost1", "vmhost1"]])
def test_peer_with_no_single_name(world: World, names: list[str]) -> None:
    with pytest.raises(TlsError) as error:
        named(world, names)
    assert str(error.value) == (
        f"the peer's certificate has {len(names)} common names instead of one"
    )


@pytest.mark.parametrize("name", ["a\nb", "a\0b", "\x1b[2J", "a\u202eb"])
def test_peer_with_an_unusable_name(world: World, name: str) -> None:
    with pytest.raises(TlsError) as error:
        named(world, [name])
    assert str(error.value) == f"the peer's certificate has an unusable common name: {name!a}"


# --- the pipe


def establish(
    server: ssl.SSLContext, client: ssl.SSLContext, size: int = 1 << 20
) -> tuple[tls.TlsPipe, tls.TlsPipe]:
    """Both ends of a connection; every delivery is cut into parts of ``size`` bytes."""
    ends = tls.TlsPipe(server), tls.TlsPipe(client, server_side=False, server_name="guest1")
    ends[1].receive(b"")
    for _ in range(10):
        if ends[0].established and ends[1].established:
            return ends
        deliver(ends[1], ends[0], size)
        deliver(ends[0], ends[1], size)
    raise AssertionError("no handshake")


def deliver(sender: tls.TlsPipe, receiver: tls.TlsPipe, size: int = 1 << 20) -> bytes:
    ciphertext = sender.outgoing()
    parts = (ciphertext[i : i + size] for i in range(0, len(ciphertext), size))
    return b"".join(chunk for part in parts for chunk in receiver.receive(part))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 1000])
def test_handshake_and_data_in_small_parts(world: World, size: int) -> None:
    server, client = establish(world.server(), world.client(), size)
    client.send(b"poll\n")
    assert deliver(client, server, size) == b"poll\n"
    server.send(b"status\n")
    assert deliver(server, client, size) == b"status\n"


def test_handshake_cut_anywhere(world: World) -> None:
    contexts = world.server(), world.client()
    length = len(hello(contexts[1]).outgoing())
    for cut in range(0, length + 1, 7):
        server, client = tls.TlsPipe(contexts[0]), hello(contexts[1])
        first = client.outgoing()
        assert server.receive(first[:cut]) + server.receive(first[cut:]) == []
        deliver(server, client)
        last = client.outgoing()
        place = cut * len(last) // length
        server.receive(last[:place])
        assert not server.established or place == len(last)
        server.receive(last[place:])
        assert server.established


def hello(context: ssl.SSLContext) -> tls.TlsPipe:
    client = tls.TlsPipe(context, server_side=False, server_name="guest1")
    client.receive(b"")
    return client


def test_data_that_comes_with_the_end_of_the_handshake(world: World) -> None:
    server, client = tls.TlsPipe(world.server()), hello(world.client())
    deliver(client, server)
    deliver(server, client)
    client.send(b"first\n")
    assert deliver(client, server) == b"first\n"
    assert tls.peer_name(server.ssl_object) == "vmhost1"


@settings(max_examples=25)
@given(message=st.binary(max_size=100_000), size=st.integers(1000, 70_000))
def test_any_data_arrives_whole(world: World, message: bytes, size: int) -> None:
    server, client = establish(world.server(), world.client())
    client.send(message)
    assert deliver(client, server, size) == message


@settings(max_examples=100)
@given(noise=st.binary(min_size=1, max_size=20_000))
def test_noise_in_the_handshake_raises_tls_error_only(world: World, noise: bytes) -> None:
    pipe = tls.TlsPipe(world.server())
    try:
        assert pipe.receive(noise) == []
    except TlsError:
        assert pipe.closed
        assert pipe.receive(noise) == []
    assert not pipe.established


@settings(max_examples=50)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_flipped_bit_raises_tls_error_only(world: World, place: int, bit: int) -> None:
    server, client = establish(world.server(), world.client())
    client.send(b"stop\n" * 10)
    ciphertext = bytearray(client.outgoing())
    ciphertext[place % len(ciphertext)] ^= 1 << bit
    try:
        assert server.receive(bytes(ciphertext)) == []  # a longer length waits for more
    except TlsError:
        assert server.closed


def test_endless_handshake_is_cut(world: World) -> None:
    """Messages of 100 KiB are within OpenSSL's limits, and from a peer not yet known."""
    server, client = tls.TlsPipe(world.server()), hello(big_client(world))
    deliver(client, server)
    deliver(server, client)
    with pytest.raises(TlsError) as error:
        deliver(client, server)
    assert str(error.value) == "the peer's handshake is too long"
    assert server.closed
    assert not server.established
    assert server.receive(b"more") == []


def big_client(world: World) -> ssl.SSLContext:
    """A client that sends its certificate with a chain of 64 KiB."""
    chain = Path(world.manager.certificate).read_text()
    strange = Path(world.stranger.ca).read_text()
    path = world.authority.directory / "chain.pem"
    path.write_text(chain + strange * (64 * 1024 // len(ssl.PEM_cert_to_DER_cert(strange))))
    return world.client(Identity(str(path), world.manager.key))


def test_nothing_is_sent_before_the_handshake(world: World) -> None:
    with pytest.raises(LocalProtocolError, match=r"^cannot send before the handshake is done$"):
        tls.TlsPipe(world.server()).send(b"early")


def test_close_is_seen_by_the_peer_after_what_was_sent(world: World) -> None:
    server, client = establish(world.server(), world.client())
    server.send(b"last words")
    server.close()
    assert deliver(server, client) == b"last words"
    assert client.closed
    assert not server.closed
    client.close()
    deliver(client, server)
    assert client.receive(b"more") == []
    with pytest.raises(TlsError):
        server.send(b"too late")


def test_close_before_the_handshake_says_nothing(world: World) -> None:
    pipe = tls.TlsPipe(world.server())
    pipe.close()
    assert pipe.outgoing() == b""


def test_outgoing_gives_everything_once(world: World) -> None:
    server, client = establish(world.server(), world.client())
    server.send(b"a" * 50_000)
    assert deliver(server, client) == b"a" * 50_000
    assert server.outgoing() == b""


def test_imports_stay_few() -> None:
    """cmappmgr runs by the hundred."""
    code = "import sys, cmappd.system.tls; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert not {"asyncio", "cryptography", "logging", "pydantic"} & set(done.stdout.split())
