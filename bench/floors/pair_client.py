"""The client's half: it ends with what it is told, by os._exit.

Arguments: port, certificate, key, authority, and the server's name.
"""

import os
import socket
import ssl
import sys


def main() -> None:
    """Connect, and end when the application has ended."""
    port, certificate, key, ca, name = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    plain = socket.create_connection(("127.0.0.1", int(port)))
    with context.wrap_socket(plain, server_hostname=name) as connection:
        os.write(1, connection.recv(100))
        os._exit(int(connection.recv(100)))


main()
