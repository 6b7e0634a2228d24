"""Requests and their answers, one after another, with a deadline: for all but following."""

import math
import select
import time
from collections.abc import Callable, Iterator

from cmappd import reasons
from cmappd.client.link import Link, LinkError
from cmappd.core import policy
from cmappd.core.follow.actions import ATTEMPT, FIRST_RETRY, LAST_RETRY, Failure
from cmappd.core.follow.verdicts import refusal
from cmappd.core.messages import Claim, Done, Ended, Hello, Message, Refused, Reply, State, Welcome
from cmappd.core.wording import WARNING, Line

LONGEST_WAIT = 3600.0  # seconds in one poll(2); whoever waits for longer waits again
Opener = Callable[[float, float], Link]  # now and until, monotonic seconds


class RefusedError(Exception):
    """The server refused a request."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.text)
        self.reason = refused.reason
        self.failure = refusal(refused)


class Call:
    """An open link to a server that has said Welcome."""

    def __init__(self, link: Link, software: str, instance: str, until: float) -> None:
        """Raises LinkError, and RefusedError where the server will not have us."""
        self._link = link
        self._seq = 0
        self._pending: list[Reply] = []
        (self.welcome,) = (
            reply
            for reply in self.ask(Hello(self.seq(), software, instance), until)
            if isinstance(reply, Welcome)
        )

    def seq(self) -> int:
        """The number for the next request."""
        self._seq += 1
        return self._seq

    @property
    def server_pid(self) -> int:
        """The process at the other end of a unix socket."""
        return self._link.peer_pid()

    def expiring(self) -> list[Line]:
        """A warning for each certificate that soon ends."""
        return self._link.expiring()

    def close(self) -> None:
        """Hang up."""
        self._link.close()

    def ask(self, request: Message, until: float) -> Iterator[Reply]:
        """All that the server says until it has answered, its answer last.

        Raises LinkError, also when there is no answer until then, and RefusedError.
        """
        self._link.send(request)
        while True:
            self._pending += [] if self._pending else wait(self._link, until)
            while self._pending:
                reply = self._pending.pop(0)
                if isinstance(reply, Refused) and reply.seq in (0, request.seq):
                    raise RefusedError(reply)
                yield reply
                if reply.seq == request.seq and _closes(request, reply):
                    return

    def tell(self, request: Message) -> None:
        """Say something whose answer does not matter."""
        self._link.send(request)


def _closes(request: Message, reply: Reply) -> bool:
    if isinstance(reply, State | Ended):
        return isinstance(request, Claim)
    return isinstance(reply, Done | Welcome)


def wait(link: Link, until: float) -> list[Reply]:
    """The next messages, or none when the link has just become ready. Raises LinkError."""
    while True:
        was_ready = link.ready
        messages = link.work(time.monotonic())
        if messages or link.ready != was_ready:
            return messages
        left = until - time.monotonic()
        if left <= 0:
            raise LinkError(Failure(reasons.UNREACHABLE, "no answer in time"))
        if link.deadline is not None:
            left = min(left, link.deadline - time.monotonic())
        poller = select.poll()
        poller.register(link, link.events())
        poller.poll(max(0, math.ceil(min(left, LONGEST_WAIT) * 1000)))


def call(
    opener: Opener,
    software: str,
    instance: str,
    until: float,
    chance: float,
    say: Callable[[str, int], None],
) -> Call:
    """Connect, again and again until then. Raises LinkError and RefusedError."""
    attempts, said = 0, ""
    while True:
        link = None
        try:
            attempt = min(until, time.monotonic() + ATTEMPT)
            link = opener(time.monotonic(), attempt)
            while not link.ready:
                wait(link, attempt)
            return Call(link, software, instance, attempt)
        except LinkError as error:
            if link is not None:
                link.close()
            delay = policy.back_off(attempts, FIRST_RETRY, LAST_RETRY, chance)
            if error.failure.reason is not reasons.UNREACHABLE or time.monotonic() + delay > until:
                raise
            if error.failure.text != said:
                said = error.failure.text
                say(f"cannot reach the server: {said}; trying again", WARNING)
            time.sleep(delay)
            attempts += 1
