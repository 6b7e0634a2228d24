"""Health checks by TCP and HTTP against real services, good, slow and strange.

The connections themselves are tested in test_connect.py.
"""

import asyncio
import http.server
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cmappd import __version__
from cmappd.core.url import parse_url
from cmappd.system.connect import RECEIVE_LIMIT
from cmappd.system.netprobe import (
    BODY_LIMIT,
    HEADER_LIMIT,
    MAX_REDIRECTS,
    HttpCheck,
    http_probe,
    tcp_probe,
)
from cmappd.system.probe import OUTPUT_LIMIT, ProbeResult

from ..certificates import Authority, Identity
from .conftest import open_files
from .services import DEADLINE, Service, answer, closed, deaf, flood, page, read_request, silent

ENOUGH = 20.0  # seconds, for what answers at once
SHORT = 1.0  # seconds, for what begins at once and does not end


def ask(url: str, limit: float = ENOUGH, **changes: Any) -> ProbeResult:
    return asyncio.run(http_probe(HttpCheck(parse_url(url), **changes), limit))


def ask_one(*parts: bytes, **changes: Any) -> ProbeResult:
    """Ask a service that gives this answer."""
    with Service(answer(*parts)) as service:
        return ask(service.url, **changes)


# TCP ---------------------------------------------------------------------------------


def test_a_connection_that_is_accepted_passes() -> None:
    with silent() as (host, port):
        result = asyncio.run(tcp_probe(host, port, ENOUGH))
    assert result == ProbeResult(True, f"was accepted by {host}:{port}", "")


def test_it_passes_though_there_is_no_time_to_part() -> None:
    with silent() as (host, port):
        assert asyncio.run(tcp_probe(host, port, 0.2)).passed


def test_the_service_sees_an_ordinary_end() -> None:
    seen: list[bytes] = []
    with Service(lambda connection: seen.append(connection.recv(1))) as service:
        assert asyncio.run(tcp_probe("localhost", service.port, ENOUGH)).passed
    assert seen == [b""]


def test_a_connection_that_is_refused_fails() -> None:
    with closed() as (host, port):
        result = asyncio.run(tcp_probe(host, port, ENOUGH))
    assert result == ProbeResult(False, f"was refused by {host}:{port}", "")


def test_a_service_that_is_too_busy_fails_in_time() -> None:
    with deaf() as (host, port):
        result = asyncio.run(tcp_probe(host, port, 0.2))
    detail = f"gave no answer within 0.2s, while connecting to {host}:{port}"
    assert result == ProbeResult(False, detail, "")


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    def resolve(*_: object, flags: int = 0, **__: object) -> list[Any]:
        if not flags & socket.AI_NUMERICHOST:
            answers.wait(DEADLINE)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    try:
        results = [
            asyncio.run(tcp_probe("db.test", 1521, 0.1)),
            ask("http://db.test/", limit=0.1),
        ]
        assert not answers.is_set()
    finally:
        answers.set()
    assert (
        results
        == [ProbeResult(False, "gave no answer within 0.1s, while looking up db.test", "")] * 2
    )


# HTTP: a server of the standard library ----------------------------------------------


class Pages(http.server.BaseHTTPRequestHandler):
    """Answers with the status in the path, and tells what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"{self.requestline}\n{self.headers}".encode()
        self.send_response(int(self.path.rpartition("/")[2]))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    """The URL of a real server, without the path."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(DEADLINE)


def test_what_is_asked(pages: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    result = ask(f"{pages}/a%20b?c=/200")
    assert result.passed
    assert result.detail == "answered 200 OK"
    assert result.output.splitlines() == [
        "GET /a%20b?c=/200 HTTP/1.1",
        f"Host: {pages.removeprefix('http://')}",
        f"User-Agent: cmappd/{__version__}",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
        "",
    ]


@pytest.mark.parametrize(
    ("code", "phrase", "passed"),
    [
        (200, "OK", True),
        (302, "Found", True),
        (304, "Not Modified", True),
        (400, "Bad Request", False),
        (404, "Not Found", False),
        (503, "Service Unavailable", False),
    ],
)
def test_which_status_passes(pages: str, code: int, phrase: str, passed: bool) -> None:
    result = ask(f"{pages}/{code}")
    assert (result.passed, result.detail) == (passed, f"answered {code} {phrase}")


@pytest.mark.parametrize(
    ("code", "passed"), [(200, False), (201, False), (204, True), (404, True), (500, True)]
)
def test_status_may_be_codes_and_ranges(pages: str, code: int, passed: bool) -> None:
    assert ask(f"{pages}/{code}", status=(204, range(404, 600))).passed is passed


def test_the_limits_of_the_default() -> None:
    for status, passed in (("399 x", True), ("400 x", False), ("999", False)):
        result = ask_one(page(status=status))
        assert (result.passed, result.detail) == (passed, f"answered {status}")


# HTTP: bodies ------------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "response",
    [
        page(b"all is ok"),
        b"HTTP/1.1 200 OK\r\n\r\nall is ok",
        b"HTTP/1.0 200 OK\r\n\r\nall is ok",
        CHUNKED + b"4\r\nall \r\n5\r\nis ok\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\n" + page(b"all is ok"),
    ],
)
def test_every_kind_of_body(response: bytes) -> None:
    for parts in ([response], [response[i : i + 1] for i in range(len(response))]):
        result = ask_one(*parts, body="is ok")
        assert result == ProbeResult(True, "answered 200 OK", "all is ok")


def test_a_text_that_is_not_there_fails() -> None:
    result = ask_one(page(b"failing"), body="ok")
    assert result == ProbeResult(False, "answered 200 OK without the text 'ok'", "failing")


def test_a_wrong_status_is_told_before_a_missing_text() -> None:
    result = ask_one(page(b"broken", "500 Oh No"), body="ok")
    assert result == ProbeResult(False, "answered 500 Oh No", "broken")


@pytest.mark.parametrize(("late", "passed"), [(0, True), (1, False)])
def test_the_text_is_looked_for_in_the_first_64_kib(late: int, passed: bool) -> None:
    body = b"x" * (BODY_LIMIT - 4 + late) + b"here" + b"y" * 100_000
    result = ask_one(page(body), body="here")
    assert result.passed is passed
    assert result.output == "x" * OUTPUT_LIMIT


def test_undecodable_bodies() -> None:
    result = ask_one(page(b"a\xffb \xc3\xbcber"), body="\u00fcber")
    assert result == ProbeResult(True, "answered 200 OK", "a\ufffdb \u00fcber")


def test_a_long_text_is_not_repeated_in_full() -> None:
    assert len(ask_one(page(), body="long " * 1000).detail) < 300


def test_a_body_that_breaks_off_fails() -> None:
    result = ask_one(page(b"12345")[:-1])
    why = "peer closed connection without sending complete message body (received 4 bytes, "
    assert not result.passed
    assert result.detail == f"answered 200 OK, but not to its end: {why}expected 5)"
    assert result.output == "1234"
    assert ask_one(page(b"12345", "503 No")[:-1]).detail == "answered 503 No"


@pytest.mark.parametrize("head", [b"", b"Content-Length: 99999999\r\n"])
@pytest.mark.parametrize("text", [None, "ok"])
def test_an_endless_body_is_left_when_enough_has_come(head: bytes, text: str | None) -> None:
    with Service(flood(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n", b"x" * 1000)) as service:
        result = ask(service.url, body=text)
    without = "" if text is None else " without the text 'ok'"
    assert result == ProbeResult(text is None, f"answered 200 OK{without}", "x" * OUTPUT_LIMIT)


# HTTP: services that do not behave ---------------------------------------------------


def drip(head: bytes, part: bytes) -> Callable[[socket.socket], None]:
    """Answer a little at a time, and never come to an end."""

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        connection.settimeout(0.02)
        while True:
            connection.sendall(part)
            try:
                if not connection.recv(1):
                    return
            except TimeoutError:
                continue

    return serve


def test_a_header_that_drips_in_fails_in_time() -> None:
    with Service(drip(b"HTTP/1.1 200 OK\r\nA: ", b"b")) as service:
        detail = f"gave no answer within 1s, while waiting for an answer of {service.place}"
        assert ask(service.url, SHORT) == ProbeResult(False, detail, "")


def test_a_body_that_drips_in_fails_in_time() -> None:
    with Service(drip(b"HTTP/1.1 200 OK\r\n\r\n", b"b")) as service:
        result = ask(service.url, SHORT)
    assert not result.passed
    assert result.detail == "answered 200 OK, but not to its end: 1s were over"
    assert set(result.output) == {"b"}


def test_a_wrong_status_is_told_though_the_body_drips() -> None:
    with Service(drip(b"HTTP/1.1 503 Busy\r\n\r\n", b"b")) as service:
        assert ask(service.url, SHORT).detail == "answered 503 Busy"


def test_a_service_that_says_nothing_fails_in_time() -> None:
    with silent() as (host, port):
        place = f"{host}:{port}"
        result = ask(f"http://{place}/", SHORT)
        detail = f"gave no answer within 1s, while waiting for an answer of {place}"
        assert result == ProbeResult(False, detail, "")


def test_a_header_of_16_kib_is_read_and_an_endless_one_is_not() -> None:
    field = f"A: {'a' * (HEADER_LIMIT - 100)}"
    assert ask_one(page(b"", "200 OK", field)).passed
    with Service(flood(b"HTTP/1.1 200 OK\r\nA: ", b"a" * 1000)) as service:
        result = ask(service.url)
    assert result.detail == "sent what is not HTTP: Receive buffer too long"


ENDLESS = {
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "chunk headers": (
        CHUNKED,
        b"1;" + b"e" * 8000 + b"\r\nx\r\n",
    ),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_never_comes_to_an_answer_is_left(kind: str) -> None:
    ticks = 0

    async def others() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def beside_others(url: str) -> ProbeResult:
        task = asyncio.create_task(others())
        try:
            return await http_probe(HttpCheck(parse_url(url)), ENOUGH)
        finally:
            task.cancel()

    with Service(flood(*ENDLESS[kind])) as service:
        result = asyncio.run(beside_others(service.url))
    assert not result.passed
    assert result.detail.endswith(f"sent {RECEIVE_LIMIT // 1024} KiB without coming to an end")
    assert ticks >= 64, "others have their turn with every 16 KiB"


@pytest.mark.parametrize(
    ("greeting", "line"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", "'SSH-2.0-OpenSSH_9.2p1 Debian'"),
        (b"HTT\r\n", "'HTT'"),
        (b"\n", "''"),
        (b"\x15\x03\x03\x00\x02\x02F", r"'\x15\x03\x03\x00\x02\x02F'"),
        (b"x" * 5000, f"'{'x' * 200}...'"),
        (b"HTTP/1.1 ok\r\n\r\n", "illegal status line: bytearray(b'HTTP/1.1 ok')"),
        (b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", "illegal header line: bytearray(b'bad header')"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "bad Content-Length"),
    ],
)
def test_what_is_not_http_is_told_at_once(greeting: bytes, line: str) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(greeting)
        while connection.recv(65536):
            pass

    with Service(serve) as service:
        result = ask(service.url)
    assert result == ProbeResult(False, f"sent what is not HTTP: {line}", "")


@pytest.mark.parametrize("beginning", [b"", b"HT"])
def test_no_answer_at_all(beginning: bytes) -> None:
    with Service(answer(beginning)) as service:
        result = ask(service.url)
        detail = f"ended without an answer: {service.place} closed the connection"
        assert result == ProbeResult(False, detail, "")


def test_half_an_answer() -> None:
    result = ask_one(b"HTTP/1.1 200 OK\r\n")
    assert result.detail == "sent what is not HTTP: peer unexpectedly closed connection"


def test_a_reset() -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    with Service(serve) as service:
        result = ask(service.url)
        detail = f"lost its connection to {service.place}: Connection reset by peer"
        assert result == ProbeResult(False, detail, "")


def test_refused() -> None:
    with closed() as (host, port):
        result = ask(f"http://{host}:{port}/")
    assert result == ProbeResult(False, f"was refused by {host}:{port}", "")


def test_an_ipv6_address() -> None:
    hosts: list[str] = []

    def serve(connection: socket.socket) -> None:
        hosts.append(read_request(connection).splitlines()[1])
        connection.sendall(page(b"six"))

    with Service(serve, "::1") as service:
        assert ask(service.url) == ProbeResult(True, "answered 200 OK", "six")
        assert hosts == [f"Host: [::1]:{service.port}"]


# Redirects ---------------------------------------------------------------------------


class Chain:
    """Redirects from /N to /N-1, and answers at /0."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, connection: socket.socket) -> None:
        path = read_request(connection).split()[1]
        self.asked.append(path)
        left = int(path[1:])
        if left:
            connection.sendall(page(b"elsewhere", "302 Found", f"Location: {left - 1}"))
        else:
            connection.sendall(page(b"here"))


def test_a_redirect_is_an_answer() -> None:
    chain = Chain()
    with Service(chain) as service:
        assert ask(f"{service.url}1") == ProbeResult(True, "answered 302 Found", "elsewhere")
    assert chain.asked == ["/1"]


def test_redirects_are_followed_on_request() -> None:
    chain = Chain()
    with Service(chain) as service:
        result = ask(f"{service.url}{MAX_REDIRECTS}", redirects=True, body="here", status=(200,))
    assert result == ProbeResult(True, "answered 200 OK", "here")
    assert chain.asked == ["/5", "/4", "/3", "/2", "/1", "/0"]


def test_redirects_come_to_an_end() -> None:
    chain = Chain()
    with Service(chain) as service:
        result = ask(f"{service.url}{MAX_REDIRECTS + 1}", redirects=True)
        detail = f"redirected more than 5 times, at last to {service.url}0"
    assert result == ProbeResult(False, detail, "")
    assert len(chain.asked) == 6


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_lead_to_other_services(status: int) -> None:
    with Service(answer(page(b"there"))) as other:
        to_other = page(b"", f"{status} Go", f"Location: {other.url}")
        assert ask_one(to_other, redirects=True).output == "there"
    assert other.accepted == 1


@pytest.mark.parametrize(
    "response",
    [page(b"x", "300 Choose", "Location: /"), page(b"x", "302 Found"), page(b"", "304 Same")],
)
def test_not_every_3xx_leads_on(response: bytes) -> None:
    with Service(answer(response)) as service:
        assert ask(service.url, redirects=True).passed
    assert service.accepted == 1


def test_a_redirect_that_leads_nowhere_fails() -> None:
    result = ask_one(page(b"", "302 Found", "Location: ftp://a/"), redirects=True)
    assert not result.passed
    assert result.detail.startswith(
        "redirected to 'ftp://a/', which cannot be followed: it must be a URL such as "
    )
    with closed() as (host, port):
        to_nobody = page(b"", "302 Found", f"Location: http://{host}:{port}/")
        result = ask_one(to_nobody, redirects=True)
    assert result == ProbeResult(False, f"was refused by {host}:{port}", "")


def test_redirects_share_one_time_limit() -> None:
    """Each of them takes a third of the time."""
    chain = Chain()

    def slowly(connection: socket.socket) -> None:
        time.sleep(SHORT / 3)
        chain(connection)

    with Service(slowly) as service:
        result = ask(f"{service.url}5", SHORT, redirects=True)
        detail = f"gave no answer within 1s, while waiting for an answer of {service.place}"
        assert result == ProbeResult(False, detail, "")
    assert len(chain.asked) < 6


# HTTPS -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authority is in the system's store, by the variables that OpenSSL has for it."""
    monkeypatch.setenv("SSL_CERT_FILE", authority.ca)
    monkeypatch.setenv("SSL_CERT_DIR", str(authority.directory / "none"))


def server_context(identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*identity)
    return context


def ask_tls(identity: Identity, **changes: Any) -> tuple[ProbeResult, str]:
    """The result, and the place of the service."""
    with Service(answer(page(b"secret")), context=server_context(identity)) as service:
        return ask(service.url, **changes), service.place


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_the_systems_authorities(authority: Authority) -> None:
    result, _ = ask_tls(authority.guest("localhost"), body="secret")
    assert result == ProbeResult(True, "answered 200 OK", "secret")


@pytest.mark.usefixtures("trusted")
def test_a_name_is_sent_and_checked(authority: Authority) -> None:
    names: list[str | None] = []
    context = server_context(authority.guest("localhost", addresses=[]))
    context.sni_callback = lambda _, name, __: names.append(name)
    with Service(answer(page(b"x" * 100_000)), context=context) as service:
        assert ask(f"https://localhost.:{service.port}/", body="x").passed
        assert not ask(service.url).passed
    assert names == ["localhost", None]


def test_a_service_sees_an_ordinary_end_of_tls(authority: Authority) -> None:
    seen: list[bytes | ssl.SSLError] = []

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(page())
        try:
            seen.append(connection.recv(1))
        except ssl.SSLError as error:
            seen.append(error)

    with Service(serve, context=server_context(authority.guest("a"))) as service:
        assert ask(service.url, verify=False).passed
    assert seen == [b""]


def refusals(authority: Authority, tmp_path: Path) -> Iterator[tuple[Identity, str]]:
    yield Authority(tmp_path, "Stranger").guest("a"), "unable to get local issuer certificate"
    old = authority.guest("a", start=timedelta(days=-9), end=timedelta(days=-1))
    yield old, "certificate has expired"
    mismatch = "IP address mismatch, certificate is not valid for '127.0.0.1'"
    yield authority.guest("a", addresses=["127.0.0.2"]), mismatch


@pytest.mark.usefixtures("trusted")
def test_certificates_that_are_not_trusted(authority: Authority, tmp_path: Path) -> None:
    for identity, why in refusals(authority, tmp_path):
        result, place = ask_tls(identity)
        advice = "http_verify = false would accept it"
        detail = f"could not trust the certificate of {place}: {why}; {advice}"
        assert result == ProbeResult(False, detail, "")
        assert ask_tls(identity, verify=False)[0].passed


@pytest.mark.usefixtures("trusted")
def test_a_service_that_wants_our_certificate(authority: Authority) -> None:
    context = server_context(authority.guest("a"))
    context.verify_mode = ssl.CERT_REQUIRED
    with Service(answer(page()), context=context) as service:
        result = ask(service.url)
        why = "the peer refused our certificate: we sent none (alert: certificate required)"
        assert result == ProbeResult(False, f"could not speak TLS with {service.place}: {why}", "")


def test_a_service_that_speaks_no_tls() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(page(status="400 Bad Request"))

    with Service(serve) as service:
        result = ask(f"https://{service.place}/")
        why = "the peer does not speak TLS"
        assert result == ProbeResult(False, f"could not speak TLS with {service.place}: {why}", "")


def test_a_service_that_closes_in_the_handshake() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)

    with Service(serve) as service:
        result = ask(f"https://{service.place}/")
        detail = f"got no TLS from {service.place}: it closed the connection"
        assert result == ProbeResult(False, detail, "")


def test_a_service_that_is_silent_in_the_handshake() -> None:
    with silent() as (host, port):
        result = ask(f"https://{host}:{port}/", SHORT, verify=False)
        detail = f"gave no answer within 1s, while agreeing on TLS with {host}:{port}"
        assert result == ProbeResult(False, detail, "")


def test_an_endless_body_in_tls(authority: Authority) -> None:
    context = server_context(authority.guest("a"))
    endless = flood(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 20_000)
    with Service(endless, context=context) as service:
        result = ask(service.url, verify=False, body="ok")
    assert result.detail == "answered 200 OK without the text 'ok'"


# Cancellation ------------------------------------------------------------------------


async def cancelled(work: Coroutine[Any, Any, object], listener: socket.socket) -> None:
    """Cancel work that waits for a service which has accepted it and says nothing."""
    loop = asyncio.get_running_loop()
    before = open_files()
    task = asyncio.create_task(work)
    connection, _ = await loop.sock_accept(listener)
    with connection:
        await loop.sock_recv(connection, 65536)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1
        assert len(open_files() - before) == 1, "only our end is open"
    assert open_files() == before


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cancelling_leaves_nothing(scheme: str, listener: socket.socket) -> None:
    url = parse_url(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/")
    asyncio.run(cancelled(http_probe(HttpCheck(url, verify=False), ENOUGH), listener))


def test_cancelling_a_tcp_check_leaves_nothing(listener: socket.socket) -> None:
    work = tcp_probe("127.0.0.1", listener.getsockname()[1], ENOUGH)
    asyncio.run(cancelled(work, listener))
