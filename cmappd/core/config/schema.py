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
    Mask,
    Path,
    Paths,
    Ready,
    Signal,
    Size,
    Statuses,
    Text,
    Timeout,
    Variable,
    Word,
    Words,
)


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
    """[apps.NAME.start]. ``ready`` is "health", or the seconds to survive."""

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
    """[apps.NAME.stop]. The signal goes to the main process, with ``tree`` to all."""

    signal: Signal = "SIGTERM"
    tree: bool = False
    timeout: Timeout = 30.0


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
    """[apps.NAME.health]. ``failures`` and ``successes`` are consecutive ones."""

    command: Command
    interval: Timeout = 10.0
    timeout: Timeout = 5.0
    failures: Count = 3
    successes: Count = 1
    start_period: Duration = 0.0
    action: Literal["restart", "report"] = "restart"


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


class Log(Model):
    """[apps.NAME.log]. ``path`` None is the program's default."""

    destination: Literal["file"] = "file"
    path: Path | None = None
    max_size: Size = 50 * 1024**2
    backups: int = Field(default=5, ge=0, le=1000)


T = TypeVar("T", bound=Model)


@lru_cache(maxsize=256)
def _one_of_equal(table: Model) -> Model:
    """The first of equal tables: 1,000 applications seldom have 1,000 ways to stop."""
    return table


Shared = Annotated[T, AfterValidator(_one_of_equal)]


class Application(Model):
    """[apps.NAME]. Tables left out are one default instance for all applications."""

    description: Description = ""
    command: Command
    user: Word | None = None
    group: Word | None = None
    supplementary_groups: Words | None = None
    directory: Path | None = None
    environment: dict[Variable, Text] = {}
    umask: Mask | None = None
    type: Literal["simple"] = "simple"
    autostart: bool = False
    reload: Literal["pending", "restart"] = "pending"
    start: Shared[Start] = Start()
    stop: Shared[Stop] = Stop()
    restart: Shared[Restart] = Restart()
    health: Health | None = Field(default=None, validate_default=True)
    manager: Shared[Ownership] = Ownership()
    log: Log = Log()

    def __hash__(self) -> int:
        return hash(self.command)  # equal ones agree in it; the environment has no hash

    @field_validator("health")
    @classmethod
    def _there_if_needed(cls, health: Health | None, info: ValidationInfo) -> Health | None:
        start = info.data.get("start")
        if health is None and isinstance(start, Start) and start.ready == "health":
            raise ValueError('is required: start.ready is "health"')
        return health


# Keys and values of the design that this version refuses: nobody is to be told "unknown" of them.
PLANNED_KEYS: dict[type[BaseModel], frozenset[str]] = {
    Application: frozenset(
        {
            "environment_file",
            "limits",
            "nice",
            "no_new_privileges",
            "pid_file",
            "requires",
            "resources",
        }
    ),
    Start: frozenset({"command"}),
    Stop: frozenset({"command", "after"}),
    Health: frozenset({"http", "tcp"}),
}
PLANNED_VALUES: dict[tuple[type[BaseModel], str], frozenset[str]] = {
    (Application, "type"): frozenset({"forking", "oneshot"}),
    (Start, "ready"): frozenset({"notify"}),
    (Log, "destination"): frozenset({"journal", "syslog", "none"}),
}
