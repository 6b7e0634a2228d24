"""The link, against real sockets."""

import select
import socket
import threading
import time
from contextlib import suppress

import pytest

from cmappd import reasons
from cmappd.client.call import Call, RefusedError, wait
from cmappd.client.link import Address, Link, LinkError, resolve, security
from cmappd.core import wire
from cmappd.core.messages import Done, Hello, Logs, Refused, Status, Text, Welcome
from cmappd.errors import LocalProtocolError
from tests.client.peer import Conversation, Site, raw_peer

SOON = 10.0


def connect(*addresses: Address, timeout: float = SOON) -> Link:
    now = time.monotonic()
    return Link(list(addresses), None, now, now + timeout)


def local(port: int) -> Address:
    return Address(socket.AF_INET, ("127.0.0.1", port))


@pytest.fixture
def closed() -> Address:
    """An address at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return local(unused.getsockname()[1])


def until_ready(link: Link) -> None:
    while not link.ready:
        wait(link, time.monotonic() + SOON)


def hear_hello(peer: Conversation) -> None:
    assert isinstance(peer.hear(), Hello)


def test_the_next_address_is_tried_when_one_refuses(closed: Address) -> None:
    with raw_peer(hear_hello) as peer:
        link = connect(closed, local(peer.port))
        until_ready(link)
        link.send(Hello(1, "test", "i"))
        link.close()


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    with socket.socket() as silent:
        # With its backlog full, a listener's kernel drops what comes: no answer at all.
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(silent.getsockname())
            with raw_peer(hear_hello) as peer:
                link = connect(local(silent.getsockname()[1]), local(peer.port), timeout=1.0)
                until_ready(link)
                link.send(Hello(1, "test", "i"))
                link.close()
        finally:
            for one in waiting:
                one.close()


def test_when_no_address_is_left_the_last_failure_is_told(closed: Address) -> None:
    link = connect(closed, closed)
    with pytest.raises(LinkError, match="Connection refused") as raised:
        until_ready(link)
    assert raised.value.failure.reason is reasons.UNREACHABLE
    link.close()


def test_no_address_at_all() -> None:
    with pytest.raises(LinkError, match="no address"):
        connect().work(time.monotonic())


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(LinkError, match=r"cannot resolve 'no\.such\.invalid'"):
        resolve("no.such.invalid", 1)


def test_an_address_resolves_to_itself() -> None:
    assert resolve("127.0.0.1", 5315) == [Address(socket.AF_INET, ("127.0.0.1", 5315))]
    assert resolve("::1", 5315)[0].family == socket.AF_INET6


def _listen(peer: Conversation) -> None:
    """Stay until the link is closed."""
    peer.hear()


def test_nagle_is_off() -> None:
    with raw_peer(_listen) as peer:
        link = connect(local(peer.port))
        until_ready(link)
        with socket.socket(fileno=socket.dup(link.fileno())) as same:
            assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        link.close()


def test_messages_cut_anywhere_arrive_whole_and_before_the_failure() -> None:
    frames = wire.encode(Welcome(1, "0.1", "g", "b", "e")) + wire.encode(Done(2, "ä" * 3000))

    def trickle(peer: Conversation) -> None:
        peer.hear()
        for at in range(0, len(frames), 501):
            peer.connection.sendall(frames[at : at + 501])

    with raw_peer(trickle) as peer:
        link = connect(local(peer.port))
        until_ready(link)
        link.send(Hello(1, "test", "i"))
        messages: list[object] = []
        while len(messages) < 2:
            messages += wait(link, time.monotonic() + SOON)
        assert [type(message) for message in messages] == [Welcome, Done]
        with pytest.raises(LinkError, match="closed the connection"):
            wait(link, time.monotonic() + SOON)
        link.close()


def test_what_may_not_be_said_is_not_sent() -> None:
    with raw_peer(_listen) as peer:
        link = connect(local(peer.port))
        until_ready(link)
        with pytest.raises(LocalProtocolError, match="cannot send Status"):
            link.send(Status(1))
        link.close()


def test_a_peer_that_breaks_the_rules_is_told_apart() -> None:
    def script(peer: Conversation) -> None:
        peer.hear()
        peer.say(Text(0, "unasked"))
        peer.connection.recv(1)

    with raw_peer(script) as peer:
        link = connect(local(peer.port))
        until_ready(link)
        link.send(Hello(1, "test", "i"))
        with pytest.raises(LinkError, match="sent Text in stage") as raised:
            wait(link, time.monotonic() + SOON)
        assert raised.value.failure.reason is reasons.PROTOCOL
        link.close()


def test_more_is_sent_than_the_kernel_takes_without_blocking() -> None:
    received: list[int] = []
    may_read = threading.Event()

    def slow(peer: Conversation) -> None:
        hear_hello(peer)
        peer.say(Welcome(1, "0.1", "g", "b", "e"))
        may_read.wait(SOON)
        total = 0
        while total < size:
            total += len(peer.connection.recv(1 << 20))
        received.append(total)

    request = Logs(2, "x" * 60_000)
    size = len(wire.encode(request)) * 200
    with raw_peer(slow) as peer:
        link = connect(local(peer.port))
        until_ready(link)
        link.send(Hello(1, "test", "i"))
        wait(link, time.monotonic() + SOON)
        for _ in range(200):
            link.send(request)
        assert link.events() & select.POLLOUT
        may_read.set()
        with suppress(LinkError):  # when it has read all, it hangs up
            while link.events() & select.POLLOUT:
                poller = select.poll()
                poller.register(link, link.events())
                assert poller.poll(SOON * 1000)
                link.work(time.monotonic())
        link.close()
    assert received == [size]


def test_tls_has_the_name_checked(site: Site) -> None:
    manager = site.authority.manager("vmhost1")
    secure = security(manager.certificate, manager.key, site.authority.ca, "another")
    with site.peer(lambda peer: None) as peer:
        now = time.monotonic()
        link = Link([local(peer.port)], secure, now, now + SOON)
        with pytest.raises(LinkError, match="set server_name") as raised:
            until_ready(link)
        assert raised.value.failure.reason is reasons.TLS
        link.close()


def test_a_call_keeps_what_came_after_the_answer() -> None:
    def script(peer: Conversation) -> None:
        peer.greet()
        first = peer.hear()
        peer.say(Done(first.seq), Text(first.seq + 1, "one"))
        second = peer.hear()
        peer.say(Text(second.seq, "two"), Done(second.seq))

    with raw_peer(script) as peer:
        until = time.monotonic() + SOON
        call = Call(connect(local(peer.port)), "test", "i", until)
        assert list(call.ask(Status(call.seq()), until)) == [Done(2)]
        assert list(call.ask(Logs(call.seq(), "a"), until)) == [
            Text(3, "one"),
            Text(3, "two"),
            Done(3),
        ]
        call.close()


def test_a_refusal_is_raised_with_its_reason() -> None:
    def script(peer: Conversation) -> None:
        peer.greet()
        peer.say(Refused(peer.hear().seq, "denied", "you may not"))

    with raw_peer(script) as peer:
        until = time.monotonic() + SOON
        call = Call(connect(local(peer.port)), "test", "i", until)
        with pytest.raises(RefusedError, match="you may not") as raised:
            list(call.ask(Status(call.seq()), until))
        assert raised.value.failure.reason is reasons.DENIED
        call.close()
