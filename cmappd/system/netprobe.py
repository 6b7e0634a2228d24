"""Health checks by TCP and by HTTP: one connection, or one answer, within a time limit."""

import asyncio
from dataclasses import dataclass, field

import h11

from cmappd import __version__
from cmappd.core.url import Url
from cmappd.system.connect import Attempt, NotConnected, Stream, client_context, connect, part
from cmappd.system.probe import OUTPUT_LIMIT, ProbeResult
from cmappd.system.tls import TlsPipe

BODY_LIMIT = 64 * 1024  # bytes of a body in which a text is looked for
MAX_REDIRECTS = 5
HEADER_LIMIT = 16 * 1024  # bytes of a status line with its header fields
_PART_TIMEOUT = 0.5  # seconds
_LONGEST = 200  # characters of foreign words in a detail
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BEGINNING = b"HTTP/"


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """What to ask by GET, and which answers pass.

    ``status`` are the codes that do. HAProxy, the kubelet and curl -f take 200 to 399, and so
    does the default: a service that sends people to its login page is up, and a stricter default
    would end applications that work. With ``redirects`` the last answer is the one that counts.
    ``body`` must be found in the first 64 KiB of the body, read as UTF-8. Without ``verify`` any
    certificate is accepted, also where a redirect leads to.
    """

    url: Url
    status: tuple[int | range, ...] = (range(200, 400),)
    redirects: bool = False
    body: str | None = None
    verify: bool = True


@dataclass(slots=True)
class _Answer:
    status: int
    said: str
    location: str  # where it redirects to, if it does
    body: bytearray = field(default_factory=bytearray)
    broken: str = ""  # why its body is not complete


class _Failed(Exception):
    """There is no answer that can be judged; the text is the detail."""


async def tcp_probe(host: str, port: int, limit: float) -> ProbeResult:
    """Pass when a connection is accepted within ``limit`` seconds.

    Raises LaunchError where nobody can be asked.
    """
    attempt = Attempt(limit)
    accepted = False
    try:
        async with asyncio.timeout(limit):
            with await connect(host, port, attempt) as sock:
                accepted = True
                await part(sock, _PART_TIMEOUT)
    except NotConnected as failed:
        return ProbeResult(False, str(failed), "")
    except TimeoutError:
        if not accepted:
            return ProbeResult(False, attempt.late(), "")
    return ProbeResult(True, f"was accepted by {attempt.peer}", "")


async def http_probe(check: HttpCheck, limit: float) -> ProbeResult:
    """Ask, and judge the answer, all within ``limit`` seconds.

    Raises LaunchError where nobody can be asked.

    An answer is complete when its body has ended, or when as much of that has come as is looked
    at: 4 KiB, or 64 KiB where a text is looked for. What is not complete in time has failed.
    """
    inquiry = _Inquiry(check, limit)
    try:
        async with asyncio.timeout(limit):
            return _judge(await inquiry.fetch(), check)
    except (_Failed, NotConnected) as failed:
        return ProbeResult(False, str(failed), "")
    except TimeoutError:
        if inquiry.answer is None:
            return ProbeResult(False, inquiry.attempt.late(), "")
        inquiry.answer.broken = f"{limit:g}s were over"
        return _judge(inquiry.answer, check)


def _judge(answer: _Answer, check: HttpCheck) -> ProbeResult:
    output = answer.body[:OUTPUT_LIMIT].decode(errors="replace")
    if not any(answer.status in _codes(one) for one in check.status):
        return ProbeResult(False, answer.said, output)
    if answer.broken:
        return ProbeResult(False, f"{answer.said}, but not to its end: {answer.broken}", output)
    if check.body is not None and check.body not in answer.body.decode(errors="replace"):
        return ProbeResult(False, f"{answer.said} without the text {_short(check.body)!r}", output)
    return ProbeResult(True, answer.said, output)


def _codes(accepted: int | range) -> range:
    return accepted if isinstance(accepted, range) else range(accepted, accepted + 1)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


class _Inquiry:
    """A question, asked until there is an answer that counts."""

    def __init__(self, check: HttpCheck, limit: float) -> None:
        self._check = check
        self.attempt = Attempt(limit)
        self.answer: _Answer | None = None

    async def fetch(self) -> _Answer:
        """The first answer, or where redirects are followed the last."""
        url = self._check.url
        for _ in range(MAX_REDIRECTS + 1):
            self.answer = None
            answer = await self._get(url)
            if not self._leads_on(answer):
                return answer
            url = _follow(url, answer.location)
        raise _Failed(f"redirected more than {MAX_REDIRECTS} times, at last to {_short(str(url))}")

    def _leads_on(self, answer: _Answer) -> bool:
        return self._check.redirects and answer.location != ""

    async def _get(self, url: Url) -> _Answer:
        attempt, pipe = self.attempt, None
        if url.scheme == "https":
            attempt.step = "reading the system's certificates"
            context = await client_context(self._check.verify)
            pipe = TlsPipe(context, server_side=False, server_name=url.host.rstrip("."))
        with await connect(url.host, url.port, attempt) as sock:
            stream = Stream(sock, attempt.peer, pipe)
            if pipe is not None:
                attempt.step = f"agreeing on TLS with {attempt.peer}"
                await stream.shake_hands()
            attempt.step = f"waiting for an answer of {attempt.peer}"
            answer = await self._ask(url, stream)
            stream.close()
            return answer

    async def _ask(self, url: Url, stream: Stream) -> _Answer:
        http = h11.Connection(h11.CLIENT, HEADER_LIMIT)
        await stream.send(http.send(_request(url)) + http.send(h11.EndOfMessage()))
        http.receive_data(await _beginning(stream, self.attempt.peer))
        answer = self.answer = _answer(await _response(http, stream))
        if not self._leads_on(answer):
            need = OUTPUT_LIMIT if self._check.body is None else BODY_LIMIT
            await _read_body(http, stream, answer, need)
        return answer


def _follow(url: Url, location: str) -> Url:
    try:
        return url.join(location)
    except ValueError as error:
        raise _Failed(
            f"redirected to {_short(location)!r}, which cannot be followed: it {error}"
        ) from None


def _request(url: Url) -> h11.Request:
    headers = [
        ("Host", url.authority),
        ("User-Agent", f"cmappd/{__version__}"),
        ("Accept", "*/*"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ]
    return h11.Request(method="GET", target=url.target, headers=headers)


async def _beginning(stream: Stream, peer: str) -> bytes:
    """The first bytes of an answer. Raises _Failed where they are no HTTP.

    h11 would wait for an empty line, which a server that greets its clients never sends.
    """
    data = b""
    while len(data) < len(_BEGINNING) and _BEGINNING.startswith(data):
        more = await stream.receive()
        if not more:
            raise _Failed(f"ended without an answer: {peer} closed the connection")
        data += more
    if not data.startswith(_BEGINNING):
        line = data.splitlines()[0].decode("ascii", "replace")
        raise _Failed(f"sent what is not HTTP: {_short(line)!r}")
    return data


async def _response(http: h11.Connection, stream: Stream) -> h11.Response:
    """Status line and header fields, after any interim answers (1xx)."""
    try:
        while not isinstance(event := await _next_event(http, stream), h11.Response):
            pass
    except h11.RemoteProtocolError as error:
        raise _Failed(f"sent what is not HTTP: {_short(str(error))}") from None
    return event


def _answer(response: h11.Response) -> _Answer:
    code, reason = response.status_code, response.reason.decode("ascii", "replace")
    location = dict(response.headers).get(b"location", b"") if code in _REDIRECTS else b""
    said = f"answered {code} {_short(reason)}".rstrip()
    return _Answer(code, said, location.decode("latin-1"))


async def _read_body(http: h11.Connection, stream: Stream, answer: _Answer, need: int) -> None:
    try:
        while len(answer.body) < need:
            event = await _next_event(http, stream)
            if not isinstance(event, h11.Data):
                return
            answer.body += event.data[: need - len(answer.body)]
    except (h11.RemoteProtocolError, NotConnected) as error:
        answer.broken = _short(str(error))


async def _next_event(http: h11.Connection, stream: Stream) -> object:
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await stream.receive())
    return event
