"""Where cgroup v2 is to be found, and which cgroup this process is in.

Sources: cgroups(7), cgroup_namespaces(7), proc_pid_mountinfo(5).
"""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from cmappd.errors import ConfigError
from cmappd.system.cgroup import read


class Mount(NamedTuple):
    """A mount of cgroup v2: ``root`` is the cgroup that is to be found at ``point``."""

    point: str
    root: str


class Membership(NamedTuple):
    """The cgroup of a process in v2, None without v2; and the controllers that are v1's."""

    path: str | None
    legacy: frozenset[str]


def parse_mounts(mountinfo: str) -> list[Mount]:
    """The mounts of cgroup v2 in the text of /proc/PID/mountinfo (proc_pid_mountinfo(5))."""
    found = []
    for line in mountinfo.split("\n"):
        mount, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            root, point = map(_unescape, mount.split(" ")[3:5])
            found.append(Mount(point, root))
    return found


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def parse_membership(text: str) -> Membership:
    """What the text of /proc/PID/cgroup says (cgroups(7), "/proc files")."""
    path, legacy = None, set[str]()
    for line in text.split("\n"):
        hierarchy, _, rest = line.partition(":")
        controllers, _, cgroup = rest.partition(":")
        if hierarchy == "0":
            path = cgroup
        elif controllers and not controllers.startswith("name="):
            legacy.update(controllers.split(","))
    return Membership(path, frozenset(legacy))


def folders(mounts: Iterable[Mount], path: str) -> list[str]:
    """Where a cgroup is in the file system, under each mount that shows it.

    Its path and the roots of the mounts are as our cgroup namespace has them, where ``/..`` is
    outside (cgroup_namespaces(7)); what lies between has no name that we could know.
    """
    found = []
    for mount in mounts:
        root, inside = (f"{name.rstrip('/')}/" for name in (mount.root, path))
        rest = inside.removeprefix(root).rstrip("/")
        if inside.startswith(root) and ".." not in rest.split("/"):
            found.append(f"{mount.point.rstrip('/')}/{rest}".rstrip("/"))
    return found


def own_cgroup() -> tuple[str, frozenset[str]]:
    """The directory of our own cgroup, and the controllers that cgroup v1 has.

    Raises ConfigError where it is not to be seen.
    """
    mounts = parse_mounts(read("/proc/self/mountinfo"))
    path, legacy = parse_membership(read("/proc/self/cgroup"))
    if not mounts or path is None:
        raise ConfigError("cannot use cgroups: cgroup v2 is not mounted")
    found = [one for one in folders(mounts, path) if os.path.exists(f"{one}/cgroup.procs")]
    if not found:
        raise ConfigError(
            f"cannot use cgroups: no mount of cgroup v2 shows {path}, the cgroup of this process; "
            "mount cgroup v2 anew in this cgroup namespace"
        )
    return found[0], legacy


def top() -> tuple[str, frozenset[str]]:
    """The uppermost cgroup that is to be seen, and the controllers that cgroup v1 has.

    Raises ConfigError where there is none.
    """
    mounts = parse_mounts(read("/proc/self/mountinfo"))
    _, legacy = parse_membership(read("/proc/self/cgroup"))
    found = [one.point for one in mounts if os.path.exists(f"{one.point}/cgroup.controllers")]
    if not found:
        raise ConfigError("cannot use cgroups: cgroup v2 is not mounted")
    return found[0], legacy
