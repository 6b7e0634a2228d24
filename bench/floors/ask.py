"""The floor under cmappmgr and cmappctl: connect, ask cmappserver once, print what it says.

Arguments: host, port, certificate, key, authority, server's name, application; or the path of
a control socket. The first form stays connected until it is killed.
"""

import os
import socket
import ssl
import sys

HELLO = b'{"type":"hello","seq":1,"software":"floor","instance":"floor"}\n'


def by_tls(host: str, port: str, certificate: str, key: str, ca: str, name: str, app: str) -> None:
    """Ask as a manager for one application, and stay."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["cmapp/1"])
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    plain = socket.create_connection((host, int(port)))
    connection = context.wrap_socket(plain, server_hostname=name)
    _ask(connection, b'{"type":"status","seq":2,"apps":["%s"]}\n' % app.encode())
    connection.recv(1)


def by_control_socket(path: str) -> None:
    """Ask for all applications."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    _ask(connection, b'{"type":"status","seq":2}\n')


def _ask(connection: socket.socket, question: bytes) -> None:
    connection.sendall(HELLO + question)
    said = []
    with connection.makefile("rb") as lines:
        for line in lines:
            said.append(line)
            if b'"type":"done"' in line:  # it may have a long text
                break
    os.write(1, b"".join(said))


if len(sys.argv) == 2:
    by_control_socket(sys.argv[1])
else:
    by_tls(*sys.argv[1:])
