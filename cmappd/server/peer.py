"""One peer's conversation: what it says is checked, and taken to where it belongs."""

import time
from collections.abc import Callable

import msgspec

from cmappd import __version__
from cmappd.core import wire
from cmappd.core.messages import (
    Ack,
    AppStatus,
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
    State,
    Status,
    Stop,
    Upgrade,
    Welcome,
)
from cmappd.core.ownership import Presence
from cmappd.core.session import Identity, Session
from cmappd.errors import LocalProtocolError, ProtocolError
from cmappd.server.application.supervisor import Supervisor
from cmappd.server.cgroups import about
from cmappd.server.logs import Reader
from cmappd.server.registry import Registry
from cmappd.server.reload import Reloader
from cmappd.server.shared.items import Parted, Said
from cmappd.server.shared.world import World
from cmappd.server.upgrade import Upgrader

Asked = Claim | Detach | Stop | Start | Restart | Maintain  # of one application
TEXT_SIZE = 8 * 1024  # characters; in JSON none takes more than six bytes


class Office:
    """What every peer is served with."""

    __slots__ = ("registry", "reloader", "upgrader", "world")

    def __init__(
        self, world: World, registry: Registry, reloader: Reloader, upgrader: Upgrader
    ) -> None:
        self.world = world
        self.registry = registry
        self.reloader = reloader
        self.upgrader = upgrader


class Peer:
    """The server's end of one conversation, whatever carries its bytes.

    ``write`` takes bytes to be sent and never blocks; ``close`` ends the connection when they
    are on their way; ``complain`` logs why.
    """

    __slots__ = (
        "_asked",
        "_close",
        "_complain",
        "_identity",
        "_office",
        "_owned",
        "_presence",
        "_receiver",
        "_session",
        "_unanswered",
        "_write",
        "instance",
        "over",
        "reader",
    )

    def __init__(
        self,
        office: Office,
        identity: Identity,
        write: Callable[[bytes], None],
        close: Callable[[], None],
        complain: Callable[[str], None],
    ) -> None:
        self._office = office
        self._identity = identity
        self._write = write
        self._close = close
        self._complain = complain
        self._session = Session()
        self._receiver = wire.requests()
        self._owned: Supervisor | None = None  # of the application it has claimed
        self._asked: set[Supervisor] = set()  # who must hear when the connection ends
        self._unanswered: set[int] = set()
        self.reader = Reader(office.registry, self.send)
        self.instance = ""
        self._presence = Presence(time.monotonic())
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
        return bool(self._unanswered)

    def recheck(self) -> None:
        """Part from a manager that may not drive what it owns any more."""
        if self._owned is not None and not self._may_drive(self._owned.app.name):
            text = f"{self.name} may not drive '{self._owned.app.name}' any more"
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
            self._write(data)

    def _break_off(self, error: ProtocolError) -> None:
        self._complain(f"{self.name}: disconnected: {error}")
        self._write(wire.encode(Refused(0, "protocol", str(error))))
        self.hang_up()

    def hang_up(self) -> None:
        """End the connection when what was sent is on its way."""
        self.over = True
        self._close()

    def parted(self) -> None:
        """The connection has ended."""
        for supervisor in self._asked:
            supervisor.post(Parted(self))
        self.reader.close()

    def receive(self, data: bytes) -> None:
        """Take what the peer has sent; a peer that breaks the rules is told so and cut."""
        try:
            for message in self._receiver.receive(data):
                if self.over:
                    return
                self._session.received(message)
                self._unanswered.add(message.seq)
                self._serve(message)
        except ProtocolError as error:
            self._break_off(error)

    def _serve(self, message: Request) -> None:
        if isinstance(message, Hello | Claim | Poll):
            self._presence.asked(message.seq)
        if not self._identity.may_say(message):
            kind = type(message).__name__.lower()
            self.send(Refused(message.seq, "denied", f"{self.name} may not ask for '{kind}'"))
            return
        match message:
            case Hello(seq, _software, instance):
                self.instance = instance
                world = self._office.world
                self.send(Welcome(seq, __version__, world.guest, world.boot_id, world.epoch))
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
        if not self._may_drive(app):
            return Refused(seq, "denied", self._denial(app))
        supervisor = registry.find(app)
        if self._office.world.ending and not _goes_on(supervisor, message):
            return Refused(seq, "operator", self._office.world.ending)
        if supervisor is None or _lacks_definition(supervisor, message):
            problem = registry.problem(app)
            if problem:
                return Refused(seq, "not-started", f"the definition of '{app}' is bad: {problem}")
            return Refused(seq, "unknown-app", f"there is no application '{app}' in this guest")
        return None

    def _denial(self, app: str) -> str:
        """What is said to who may not drive an application; a bad file may hide that it may."""
        text = f"{self.name} may not drive '{app}' in this guest"
        config = self._office.registry.config
        if self.name in config.managers or all(one.app for one in config.problems):
            return text
        return f"{text}, whose configuration has problems: see cmappctl status there"

    def _may_drive(self, app: str) -> bool:
        if self.administrator:
            return True
        manager = self._office.registry.config.managers.get(self.name)
        return manager is not None and manager.allows(app)

    # Many ----------------------------------------------------------------------------

    def _status(self, message: Status) -> None:
        registry, world = self._office.registry, self._office.world
        statuses = [one.status() for one in registry.supervisors()] + registry.refused()
        statuses.sort(key=lambda status: status.app)
        shown = [one for one in statuses if self._may_see(one, message.apps)]
        missing = sorted(set(message.apps) - {one.app for one in shown})
        if missing:
            names = ", ".join(f"'{name}'" for name in missing)
            reason = "unknown-app" if all(map(self._may_drive, missing)) else "denied"
            self.send(Refused(message.seq, reason, f"there is no application {names} to be seen"))
            return
        states = [State(message.seq, one, world.boot_id, world.epoch) for one in shown]
        told = about(world)[:TEXT_SIZE] if self.administrator else ""
        self.send(*states, Done(message.seq, self._problems(), told))

    def _may_see(self, status: AppStatus, wanted: tuple[str, ...]) -> bool:
        return (not wanted or status.app in wanted) and self._may_drive(status.app)

    def _problems(self) -> str:
        """The problems of the configuration that belong to no application; for the guest only."""
        if not self.administrator:
            return ""
        office = self._office
        general = [str(one) for one in office.registry.config.problems if one.app is None]
        return "\n".join(general + office.reloader.service_problems)[:TEXT_SIZE]

    def _history(self, message: History) -> None:
        supervisor = self._office.registry.find(message.app)
        if supervisor is None:
            text = f"there is no application '{message.app}' in this guest"
            self.send(Refused(message.seq, "unknown-app", text))
            return
        past = [msgspec.structs.replace(one, seq=message.seq) for one in supervisor.notes.history]
        self.send(*past, Done(message.seq))


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
