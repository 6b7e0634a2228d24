"""Whether this guest's runs can have cgroups and limits, and why not, in sentences."""

from cmappd.errors import ConfigError
from cmappd.server.shared.world import World
from cmappd.system.cgroup import Resources
from cmappd.system.hierarchy import Hierarchy, lacking, name_of, open_hierarchy

FALLBACK = "processes are known by parents, session, run mark and output"
_ANY = Resources(memory=1, cpu=1, processes=1)
_ALL = "memory, cpu and processes can be limited"
_WHERE = ", where cmappserver's cgroup has the controllers"


def open_cgroups(state_directory: str) -> tuple[Hierarchy | None, str]:
    """The cgroups of this server, which it finds again by its state directory; or why none."""
    try:
        return open_hierarchy(name_of(state_directory)), ""
    except ConfigError as error:
        return None, str(error)


def about(world: World) -> str:
    """How this server knows its processes, and what it can limit: lines for people."""
    if world.hierarchy is None:
        return f"cgroups: none: {world.no_cgroups}; {FALLBACK}\nresources: none can be limited"
    return (
        f"cgroups: one for each run, below {world.hierarchy.path}\n"
        f"resources: {_or_all(world.hierarchy.missing(_ANY))}"
    )


def about_machine() -> str:
    """What can be said without the server: it may be another user's, and in another cgroup."""
    try:
        lacks = lacking(_ANY)
    except ConfigError as error:
        return f"cgroups: none: {error}; {FALLBACK}\nresources: none can be limited"
    return (
        "cgroups: one for each run, where cmappserver may write to its own\n"
        f"resources: {_or_all(lacks, _WHERE)}"
    )


def _or_all(reasons: str, where: str = "") -> str:
    return "; ".join(reasons.splitlines()) or _ALL + where
