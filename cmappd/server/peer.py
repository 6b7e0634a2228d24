"""One peer's conversation: what it says is checked, and taken to where it belongs."""

import asyncio
import time
from collections import deque
from typing import Protocol

import msgspec

from cmappd import __version__
from cmappd.core import wire
from cmappd.core.messages import (
    Ack,
    Claim,
    Detach,
    Done,
    Hello,
    History,
    Logs,
    Maintain,
    Message,
    Poll,
    Refused,
    Release,
    Reload,
    Reopen,
    Request,
    Restart,
    Start,
    Status,
    Stop,
    Upgrade,
    Welcome,
)
from cmappd.core.ownership import Presence
from cmappd.core.session import Identity, Session
from cmappd.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.logs import Reader
from cmappd.server.office import Office
from cmappd.server.overview import TEXT_SIZE, overview
from cmappd.server.shared.items import Parted, Said

Asked = Claim | Detach | Stop | Start | Restart | Maintain  # of one application
MAX_UNANSWERED = 256  # requests of one peer
SEQ_LIMIT = 2**53  # above it, not every end of JSON can tell two numbers apart


class Carrier(Protocol):
    """What carries the bytes of a conversation."""

    def write(self, data: bytes) -> None:
        """Send; never blocks."""

    def hang_up(self) -> None:
        """End the connection when what was sent is on its way."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Read on."""

    def complain(self, what: str, text: str) -> None:
        """Log what the peer did wrong; ``what`` is a plural."""


class Peer:
    """The server's end of one conversation, whatever carries its bytes.

    A peer is served one request in each turn of the loop, and nothing more is read from it until
    it has been: however much one asks at once, the others, and the supervision, have their turns.
    """

    __slots__ = (
        "_asked",
        "_carrier",
        "_gone",
        "_heard",
        "_identity",
        "_office",
        "_owned",
        "_presence",
        "_receiver",
        "_session",
        "_unanswered",
        "instance",
        "opened",
        "over",
        "reader",
    )

    def __init__(self, office: Office, identity: Identity, carrier: Carrier) -> None:
        self._office = office
        self._identity = identity
        self._carrier = carrier
        self._session = Session()
        self._receiver = wire.requests()
        self._heard: deque[Request] = deque()  # and not served yet
        self._owned: Supervisor | None = None  # of the application it has claimed
        self._asked: set[Supervisor] = set()  # who must hear when the connection ends
        self._unanswered: set[int] = set()
        self.reader = Reader(office.registry, self.send)
        self.instance = ""
        self.opened = time.monotonic()
        self._presence = Presence(self.opened)
        self._gone = False  # its connection has ended
        self.over = False  # it is being cut: nothing more is heard from it, or said to it

    @property
    def name(self) -> str:
        """Who it is."""
        return self._identity.name

    @property
    def administrator(self) -> bool:
        """Whether it came by the control socket."""
        return self._identity.administrator

    @property
    def last_there(self) -> float:
        """Until when it was certainly there, by what it has said; monotonic seconds."""
        return self._presence.since

    @property
    def waits(self) -> bool:
        """Whether it has asked for something, and has no answer yet."""
        return not self.over and bool(self._heard or self._unanswered)

    @property
    def busy(self) -> bool:
        """Whether it has said something that it is not served with yet."""
        return bool(self._heard)

    @property
    def known(self) -> bool:
        """Whether anything at all is served to it."""
        return self._office.knows(self._identity)

    def recheck(self) -> None:
        """Part from a manager that may not drive what it owns any more, or nothing at all."""
        owned = self._owned.app.name if self._owned is not None else ""
        if not self.known or (owned and not self._may_drive(owned)):
            what = f"'{owned}'" if owned else "anything"
            text = f"{self.name} may not drive {what} any more"
            self._carrier.complain("denials", f"disconnected: {text}")
            self.send(Refused(0, "denied", text))
            self.hang_up()

    def send(self, *messages: Message) -> None:
        """Send the peer messages. Never fails: what cannot be sent ends the connection.

        One that is being cut is told no more: what is said to it late may not hold any more.
        """
        if self.over:
            return
        try:
            for message in messages:
                self._session.sent(message)
                self._presence.answered(message.seq, time.monotonic())
                self._unanswered.discard(message.seq)
            data = b"".join(map(wire.encode, messages))
        except LocalProtocolError as error:
            self._break_off(error)
        else:
            self._carrier.write(data)

    def _break_off(self, error: ProtocolError) -> None:
        self._carrier.complain("disconnections", f"disconnected: {error}")
        self._carrier.write(wire.encode(Refused(0, "protocol", str(error))))
        self.hang_up()

    def hang_up(self) -> None:
        """End the connection when what was sent is on its way."""
        self.over = True
        self._carrier.hang_up()

    def parted(self) -> None:
        """The connection has ended; what was heard before that still counts."""
        self._gone = True
        if not self._heard:
            self._part()

    def _part(self) -> None:
        self.reader.close()
        for supervisor in self._asked:
            supervisor.post(Parted(self))

    def receive(self, data: bytes) -> None:
        """Take what the peer has sent; a peer that breaks the rules is told so and cut."""
        idle = not self._heard
        try:
            self._heard += self._receiver.receive(data)
        except ProtocolError as error:
            self._break_off(error)
        else:
            if idle and self._heard:
                self._serve_next()

    def _serve_next(self) -> None:
        if self._heard and not self.over:
            try:
                self._take(self._heard.popleft())
            except ProtocolError as error:
                self._break_off(error)
            except Exception as error:  # or it would wait for ever
                log, defect = self._office.world.log, not isinstance(error, OSError)
                log.error("%s: cannot be served: %s", self.name, error, exc_info=defect)
                self.hang_up()
        if self.over:
            self._heard.clear()
        if self._heard:
            self._carrier.pause()
            asyncio.get_running_loop().call_soon(self._serve_next)
        elif self._gone:
            self._part()
        elif not self.over:
            self._carrier.resume()

    def _take(self, message: Request) -> None:
        if not 0 < message.seq < SEQ_LIMIT:
            raise RemoteProtocolError(f"the seq of a request must be from 1 to {SEQ_LIMIT - 1}")
        self._session.received(message)
        self._unanswered.add(message.seq)
        if len(self._unanswered) > MAX_UNANSWERED:
            raise RemoteProtocolError(f"more than {MAX_UNANSWERED} requests are unanswered")
        self._serve(message)

    def _serve(self, message: Request) -> None:
        if isinstance(message, Hello | Claim | Poll):
            self._presence.asked(message.seq)
        if not self._identity.may_say(message):
            kind = type(message).__name__.lower()
            self._deny(message.seq, f"{self.name} may not ask for '{kind}'")
            return
        if isinstance(message, Hello):
            self.instance = message.instance
            world = self._office.world
            self.send(Welcome(message.seq, __version__, world.guest, world.boot_id, world.epoch))
        elif not self.known:
            self._deny(message.seq, self._office.denial(self.name, _apps(message)))
        else:
            self._answer(message)

    def _deny(self, seq: int, text: str) -> None:
        self._carrier.complain("denials", f"denied: {text}"[:TEXT_SIZE])
        self.send(Refused(seq, "denied", text[:TEXT_SIZE]))

    def _answer(self, message: Request) -> None:
        match message:
            case Status():
                self._status(message)
            case Reload(seq) | Upgrade(seq) if self._office.world.ending:
                self.send(Refused(seq, "operator", self._office.world.ending))
            case Reload(seq):
                self._office.reloader.ask(seq, self.send)
            case Upgrade(seq):
                self._office.upgrader.ask(seq, self.send)
            case History():
                self._history(message)
            case Logs():
                self.reader.read(message)
            case Reopen():
                self.reader.reopen(message)
            case Claim() | Detach() | Stop() | Start() | Restart() | Maintain():
                self._ask(message)
            case Poll(seq):
                assert self._owned is not None  # the session's table sees to that
                self._owned.heard()
                self.send(self._owned.state(seq))
            case Ack() | Release():
                assert self._owned is not None
                self._owned.post(Said(self, message))

    # One application -----------------------------------------------------------------

    def _ask(self, message: Asked) -> None:
        if not self._may_drive(message.app):
            self._deny(message.seq, self._office.denial(self.name, (message.app,)))
            return
        refusal = self._refusal(message)
        if refusal is not None:
            self.send(refusal)
            return
        supervisor = self._office.registry.find(message.app)
        assert supervisor is not None
        if isinstance(message, Claim):
            if message.start and self._office.world.ending:
                self.hang_up()  # it is not started, and not yet stopped: let it ask again
                return
            self._owned = supervisor
        self._asked.add(supervisor)
        supervisor.post(Said(self, message))

    def _refusal(self, message: Asked) -> Refused | None:
        app, seq, registry = message.app, message.seq, self._office.registry
        supervisor = registry.find(app)
        if self._office.world.ending and not _goes_on(supervisor, message):
            return Refused(seq, "operator", self._office.world.ending)
        if supervisor is None or _lacks_definition(supervisor, message):
            problem = registry.problem(app)
            if problem:
                return Refused(seq, "not-started", f"the definition of '{app}' is bad: {problem}")
            return Refused(seq, "unknown-app", f"there is no application '{app}' in this guest")
        return None

    def _may_drive(self, app: str) -> bool:
        return self._office.may_drive(self._identity, app)

    # Many ----------------------------------------------------------------------------

    def _status(self, message: Status) -> None:
        denied = tuple(sorted(app for app in set(message.apps) if not self._may_drive(app)))
        if denied:
            self._deny(message.seq, self._office.denial(self.name, denied))
        else:
            self.send(*overview(self._office, self._identity, message))

    def _history(self, message: History) -> None:
        supervisor = self._office.registry.find(message.app)
        if supervisor is None:
            text = f"there is no application '{message.app}' in this guest"
            self.send(Refused(message.seq, "unknown-app", text))
            return
        past = [msgspec.structs.replace(one, seq=message.seq) for one in supervisor.notes.history]
        self.send(*past, Done(message.seq))


def _apps(message: Request) -> tuple[str, ...]:
    """The applications that a request names."""
    named: tuple[str, ...] = getattr(message, "apps", ())
    return (message.app,) if isinstance(message, Asked) else named


def _goes_on(supervisor: Supervisor | None, message: Asked) -> bool:
    """Whether this may be asked while all are being stopped. Who follows what still lives must not
    hear that it is stopped before it is.
    """
    if isinstance(message, Claim):
        return supervisor is not None and not supervisor.at_rest
    return supervisor is not None and isinstance(message, Stop)


def _lacks_definition(supervisor: Supervisor, message: Request) -> bool:
    """Whether it is removed, and too far gone for this request."""
    if isinstance(message, Claim) and supervisor.custody.undelivered is not None:
        return False  # its result is still owed
    return supervisor.app.removed and (supervisor.at_rest or isinstance(message, Restart))
