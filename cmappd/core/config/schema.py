"""What the configuration may say: the TOML as frozen models.

Durations are seconds, sizes bytes.
"""

from functools import lru_cache
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from cmappd.core import units
from cmappd.core.config.values import (
    NAME,
    Addresses,
    Command,
    Count,
    Description,
    Duration,
    HttpStatuses,
    HttpUrl,
    Limit,
    LimitName,
    Mask,
    Names,
    Path,
    Paths,
    Processors,
    Ready,
    Service,
    Signal,
    Size,
    Statuses,
    Text,
    Timeout,
    Variable,
    Word,
    Words,
)

T = TypeVar("T")


class Model(BaseModel):
    """What all tables share: nothing unknown, nothing coerced, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Server(Model):
    """[server]. ``include`` holds absolute patterns; None is the program's default."""

    listen: Addresses = ()
    include: Paths = ()
    on_shutdown: Literal["stop", "keep"] = "stop"
    control: Path | None = None
    state_directory: Path | None = None
    log_format: Literal["text", "json"] = "text"


class Tls(Model):
    """[tls]."""

    certificate: Path
    key: Path
    ca: Path
    crl: Path | None = None


class Manager(Model):
    """[managers.NAME]: the applications that it may drive, or ("*",)."""

    apps: Words

    def allows(self, app: str) -> bool:
        """Whether this manager may drive the application."""
        return self.apps == ("*",) or app in self.apps

    @field_validator("apps")
    @classmethod
    def _names(cls, apps: tuple[str, ...]) -> tuple[str, ...]:
        if apps != ("*",) and not all(NAME.fullmatch(app) for app in apps):
            raise ValueError('must be an array of application names, or ["*"] for all')
        return apps


class Start(Model):
    """[apps.NAME.start]. ``ready`` is "health", "notify", or the seconds to survive.

    ``command`` runs to completion first; ``timeout`` is for it, and then for readiness.
    """

    command: Command | None = None
    ready: Ready = 1.0
    timeout: Timeout = Field(default=120.0, validate_default=True)

    @field_validator("timeout")
    @classmethod
    def _reachable(cls, timeout: float, info: ValidationInfo) -> float:
        ready = info.data.get("ready")
        if isinstance(ready, float) and ready > timeout:
            raise ValueError(f'must be at least start.ready, "{units.format_duration(ready)}"')
        return timeout


class Stop(Model):
    """[apps.NAME.stop]. The signal goes to the main process, with ``tree`` to all.

    ``command`` asks it to end in place of the signal; ``after`` runs when nothing is left of it.
    """

    command: Command | None = None
    signal: Signal = "SIGTERM"
    tree: bool = False
    timeout: Timeout = 30.0
    after: Command | None = None


class Restart(Model):
    """[apps.NAME.restart]: at most ``limit`` restarts within ``window``."""

    policy: Literal["never", "on-failure", "always"] = "never"
    success_codes: Statuses = (0,)
    limit: int = Field(default=3, ge=0, le=1_000_000)
    window: Timeout = 600.0
    delay: Duration = 1.0
    max_delay: Timeout = Field(default=30.0, validate_default=True)

    @field_validator("max_delay")
    @classmethod
    def _grows(cls, max_delay: float, info: ValidationInfo) -> float:
        delay = info.data.get("delay", 0.0)
        if max_delay < delay:
            raise ValueError(f'must be at least restart.delay, "{units.format_duration(delay)}"')
        return max_delay


class Health(Model):
    """[apps.NAME.health]. ``failures`` and ``successes`` are consecutive ones.

    Of ``command``, ``http`` and ``tcp`` there is one, or none where there is a ``watchdog``: the
    longest time between two pings by sd_notify(3). ``http_status`` None is 200 to 399.
    """

    watchdog: Timeout | None = None
    command: Command | None = None
    http: HttpUrl | None = None
    http_status: HttpStatuses | None = Field(default=None, validate_default=True)
    http_body: Word | None = Field(default=None, validate_default=True)
    http_redirects: bool = Field(default=False, validate_default=True)
    http_verify: bool = Field(default=True, validate_default=True)
    tcp: Service | None = Field(default=None, validate_default=True)
    interval: Timeout = 10.0
    timeout: Timeout = 5.0
    failures: Count = 3
    successes: Count = 1
    start_period: Duration = 0.0
    action: Literal["restart", "report"] = "restart"

    @field_validator("http_status", "http_body", "http_redirects", "http_verify")
    @classmethod
    def _of_http(cls, value: T, info: ValidationInfo) -> T:
        assert info.field_name is not None
        usual = cls.model_fields[info.field_name].default
        if value != usual and info.data.get("http", "") is None:
            raise ValueError("is for a check by http")
        return value

    @field_validator("tcp")
    @classmethod
    def _one_way(cls, tcp: str | None, info: ValidationInfo) -> str | None:
        if not {"watchdog", "command", "http"} <= info.data.keys():
            return tcp
        ways = [info.data["command"], info.data["http"], tcp]
        count = sum(way is not None for way in ways)
        if count > 1 or (count == 0 and info.data["watchdog"] is None):
            raise ValueError(
                "one of command, http and tcp is required, unless there is a watchdog, "
                "and no more than one"
            )
        return tcp

    @property
    def checks(self) -> bool:
        """Whether there is something to ask; otherwise the application itself must speak."""
        return (self.command, self.http, self.tcp) != (None, None, None)


class Ownership(Model):
    """[apps.NAME.manager]: what follows when the owning manager is not heard."""

    on_lost: Literal["keep", "stop"] = "keep"
    lease: Duration = 30.0

    @field_validator("lease")
    @classmethod
    def _renewable(cls, lease: float) -> float:
        if lease < 5:
            raise ValueError('must be at least "5s"')
        return lease


class Resources(Model):
    """[apps.NAME.resources]: of all its processes together, ``cpu`` in processors."""

    memory: Annotated[Size, Field(ge=1024**2)] | None = None
    cpu: Processors | None = None
    processes: int | None = Field(default=None, ge=1, le=4_194_304)


class Log(Model):
    """[apps.NAME.log]. ``path`` None is the program's default.

    All but ``destination`` is for files. The output as it comes is ``format`` "raw".
    """

    destination: Literal["file", "journal", "syslog", "none"] = "file"
    path: Path | None = None
    max_size: Size = 50 * 1024**2
    backups: int = Field(default=5, ge=0, le=1000)
    format: Literal["raw", "timestamps", "json"] = "raw"

    @field_validator("path", "max_size", "backups", "format")
    @classmethod
    def _of_a_file(cls, value: T, info: ValidationInfo) -> T:
        assert info.field_name is not None
        usual = cls.model_fields[info.field_name].default
        if value != usual and info.data.get("destination", "file") != "file":
            raise ValueError('is for destination = "file"')
        return value


Table = TypeVar("Table", bound=Model)


@lru_cache(maxsize=256)
def _one_of_equal(table: Model) -> Model:
    """The first of equal tables: 1,000 applications seldom have 1,000 ways to stop."""
    return table


Shared = Annotated[Table, AfterValidator(_one_of_equal)]


class Application(Model):
    """[apps.NAME]. Tables left out are one default instance for all applications."""

    description: Description = ""
    command: Command
    user: Word | None = None
    group: Word | None = None
    supplementary_groups: Words | None = None
    directory: Path | None = None
    environment: dict[Variable, Text] = {}
    environment_file: Path | None = None
    umask: Mask | None = None
    limits: dict[LimitName, Limit] = {}
    nice: int | None = Field(default=None, ge=-20, le=19)
    no_new_privileges: bool = False
    type: Literal["simple", "forking", "oneshot"] = "simple"
    pid_file: Path | None = Field(default=None, validate_default=True)
    requires: Names = ()
    autostart: bool = False
    reload: Literal["pending", "restart"] = "pending"
    start: Shared[Start] = Start()
    stop: Shared[Stop] = Stop()
    restart: Shared[Restart] = Restart()
    health: Health | None = Field(default=None, validate_default=True)
    manager: Shared[Ownership] = Ownership()
    resources: Shared[Resources] = Resources()
    log: Log = Log()

    @field_validator("pid_file")
    @classmethod
    def _of_a_daemon(cls, pid_file: str | None, info: ValidationInfo) -> str | None:
        if pid_file is not None and info.data.get("type", "forking") != "forking":
            raise ValueError('is for type = "forking"')
        return pid_file

    @field_validator("start", mode="before")
    @classmethod
    def _ready_with_success(cls, start: object, info: ValidationInfo) -> object:
        if info.data.get("type") != "oneshot" or not isinstance(start, dict):
            return start
        if "ready" in start and info.context is not None:  # it may come from a record
            raise ValueError(
                "must not have ready: a oneshot is ready when its command has succeeded"
            )
        return {**start, "ready": 0.0}  # which is not to be held against its timeout

    @property
    def watchdog(self) -> float | None:
        """The longest time between two pings, if any are awaited."""
        return self.health.watchdog if self.health is not None else None

    @property
    def notifies(self) -> bool:
        """Whether it is to say something of itself by sd_notify(3)."""
        return self.start.ready == "notify" or self.watchdog is not None

    @property
    def commands(self) -> dict[str, tuple[str, ...]]:
        """All commands that it has, by their keys."""
        health = self.health.command if self.health is not None else None
        found = {
            "start.command": self.start.command,
            "command": self.command,
            "stop.command": self.stop.command,
            "stop.after": self.stop.after,
            "health.command": health,
        }
        return {key: command for key, command in found.items() if command is not None}

    def __hash__(self) -> int:
        return hash(self.command)  # equal ones agree in it; the environment has no hash

    @field_validator("health")
    @classmethod
    def _there_if_needed(cls, health: Health | None, info: ValidationInfo) -> Health | None:
        start = info.data.get("start")
        checks = health is not None and health.checks
        if not checks and isinstance(start, Start) and start.ready == "health":
            raise ValueError('is required, with a check: start.ready is "health"')
        return health

    @field_validator("health")
    @classmethod
    def _speaks(cls, health: Health | None, info: ValidationInfo) -> Health | None:
        watched = health is not None and health.watchdog is not None
        if watched and info.data.get("type") == "oneshot":
            raise ValueError("must not have watchdog: a oneshot has ended when it is up")
        return health
