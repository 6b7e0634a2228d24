"""The server's half of the floor under "killed -> reaped": a pidfd and a push, nothing else.

Arguments: certificate, key, authority, and the command to run.
"""

import os
import select
import socket
import ssl
import subprocess
import sys


def main() -> None:
    """Run the command, and tell the one client of its end."""
    certificate, key, ca, *command = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    child = subprocess.Popen(command, start_new_session=True)
    pidfd = os.pidfd_open(child.pid)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"port {listener.getsockname()[1]} pid {child.pid}", flush=True)
        plain, _address = listener.accept()
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with context.wrap_socket(plain, server_side=True) as connection:
        connection.sendall(b"running\n")
        select.select([pidfd], [], [])
        status = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        connection.sendall(b"%d\n" % (128 + status.si_status if status else 0))
        connection.recv(1)  # not to end at the same time as the client


main()
