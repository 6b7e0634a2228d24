"""Where the cgroups of the runs are made, and whether they can be.

    BASE/               the cgroup that we were started in, or the one delegated to us
        cmappd-NAME/    one for each state directory
            app-RUN/    one for each run
            server/     this process, from when limits are used: see `Hierarchy.enable`

Cgroups are optional: `open_hierarchy` says in a sentence why they cannot be used.

Sources: cgroups(7); Documentation/admin-guide/cgroup-v2.rst of Linux, "Delegation" and "No
Internal Process Constraint"; CGROUP_DELEGATION of systemd, systemd.resource-control(5).
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from cmappd.errors import CmappdError, ConfigError
from cmappd.system.cgroup import KEYS, Cgroup, Resources, pids, read, write
from cmappd.system.marks import HIERARCHY, RUN
from cmappd.system.proc import read_stat

_SERVER = "server"
_UNITS = (".service", ".scope", ".slice")
_PASSES = 64  # over processes that may fork meanwhile
_DELEGATE = "a systemd service needs Delegate=yes and ProtectControlGroups=no for it"


# What /proc says ----------------------------------------------------------------------


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


# The cgroup of all runs ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The cgroup ``path`` of this server's applications, in the cgroup ``base``."""

    base: str
    path: str
    legacy: frozenset[str]  # the controllers that cgroup v1 has

    def create(self, run: str) -> Cgroup:
        """The cgroup of a run that has none yet. Raises CmappdError."""
        path = f"{self.path}/{RUN}{run}"
        try:
            os.mkdir(path)
        except OSError as error:
            raise CmappdError(f"cannot make the cgroup {path}: {error.strerror}") from error
        return Cgroup(path)

    def leftovers(self) -> list[Cgroup]:
        """The cgroups in use, before the first `create` those that earlier servers have left.

        Empty ones are removed. Raises OSError.
        """
        names = sorted(name for name in os.listdir(self.path) if name.startswith(RUN))
        found = [Cgroup(f"{self.path}/{name}") for name in names]
        return [cgroup for cgroup in found if not cgroup.remove() and not cgroup.empty()]

    def remove(self) -> None:
        """Remove what is empty of it, for the end; what is in use stays."""
        with contextlib.suppress(OSError):
            self.leftovers()
        for folder in (f"{self.path}/{_SERVER}", self.path):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def missing(self, resources: Resources) -> str:
        """Why these limits cannot be set here, a line for each reason; empty if they can."""
        there = read(f"{self.base}/cgroup.controllers").split()
        absent = [name for name in resources.controllers() if name not in there]
        legacy = [name for name in absent if name in self.legacy]
        others = [name for name in absent if name not in self.legacy]
        reasons = []
        if legacy:
            names = ",".join(legacy)
            reasons.append(
                f"cannot limit {_keys(legacy)}: the system has put it under cgroup v1; "
                f"boot with cgroup_no_v1={names}, or systemd.unified_cgroup_hierarchy=1"
            )
        if others:
            reasons.append(
                f"cannot limit {_keys(others)}: not to be had in {self.base}; {_DELEGATE}"
            )
        if strangers := self._strangers(resources):
            reasons.append(
                f"cannot limit {_keys(resources.controllers())}: others are in the cgroup "
                f"{self.base} (pid {' '.join(map(str, strangers))}); "
                "start cmappserver in one of its own"
            )
        return "\n".join(reasons)

    def enable(self, resources: Resources) -> None:
        """Make these limits possible for the cgroups here, those in use included.

        The kernel lets no cgroup but the root have both processes and controllers for what is
        below it. So this process moves to the cgroup ``server``, for good, with those of its
        children that are in the base. Raises CmappdError.
        """
        reasons = self.missing(resources)
        if reasons:
            raise ConfigError(reasons)
        words = " ".join(f"+{name}" for name in resources.controllers())
        try:
            if self._must_leave(resources):
                self._leave()
            for folder in (self.base, self.path):
                write(f"{folder}/cgroup.subtree_control", words)
        except OSError as error:
            raise ConfigError(
                f"cannot limit {_keys(resources.controllers())}: cannot enable the controllers in "
                f"{self.base}: {error.strerror}"
            ) from error

    def disable(self) -> None:
        """Take the controllers back, and all limits with them; for when applications stay behind.

        systemd starts a service in the cgroup of the service, and fails (status 219/CGROUP) as
        long as that has controllers enabled. When this process is killed, ExecStopPost= of the
        service has to do it instead. Raises OSError.
        """
        for folder in (self.path,) if self._is_root() else (self.path, self.base):
            control = f"{folder}/cgroup.subtree_control"
            write(control, " ".join(f"-{name}" for name in read(control).split()))

    def _is_root(self) -> bool:
        """Whether the base is the root of all cgroups, which is others' as well."""
        return not os.path.exists(f"{self.base}/cgroup.type")

    def _must_leave(self, resources: Resources) -> bool:
        """Whether processes in the base are in the way of the controllers."""
        enabled = read(f"{self.base}/cgroup.subtree_control").split()
        return not self._is_root() and not set(resources.controllers()) <= set(enabled)

    def _strangers(self, resources: Resources) -> list[int]:
        """Processes that are in the way, and not ours to be moved."""
        if not self._must_leave(resources):
            return []
        return [pid for pid in pids(self.base) if _is_stranger(pid)]

    def _leave(self) -> None:
        """Raises CmappdError, and OSError."""
        leaf = Cgroup(f"{self.path}/{_SERVER}")
        os.makedirs(leaf.path, exist_ok=True)
        for _ in range(_PASSES):
            left = pids(self.base)
            for pid in left:
                leaf.add(pid)
            if not left:
                break


def _keys(controllers: Iterable[str]) -> str:
    return ", ".join(KEYS[name] for name in controllers)


def _is_stranger(pid: int) -> bool:
    """Whether it is neither this process nor a descendant of it; False if it has ended."""
    while pid != os.getpid():
        if pid == 0:  # above the first process, or in a pid namespace that we do not see
            return True
        stat = read_stat(pid)
        if stat is None:
            return False
        pid = stat.ppid
    return False


# To find and to make it ---------------------------------------------------------------


def name_of(state_directory: str) -> str:
    """A name that a server finds again by its state directory, whatever session it is in."""
    path = os.path.realpath(state_directory)
    return hashlib.blake2b(os.fsencode(path), digest_size=4).hexdigest()


def open_hierarchy(name: str) -> Hierarchy:
    """The cgroup for the applications of the state directory that ``name`` stands for.

    It is made if it is not there. Raises ConfigError, which says why cgroups cannot be used.
    """
    own, legacy = _own_cgroup()
    base = _base(own, name)
    path = f"{base}/{HIERARCHY}{name}"
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        problem = _problem(base, path)
    except OSError as error:
        problem = f"cannot make {path}: {error.strerror}; {_DELEGATE}"
    if problem:
        with contextlib.suppress(OSError):
            os.rmdir(path)
        raise ConfigError(f"cannot use cgroups: {problem}")
    return Hierarchy(base, path, legacy)


def _own_cgroup() -> tuple[str, frozenset[str]]:
    """The directory of our own cgroup, and the controllers that cgroup v1 has."""
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


def _base(own: str, name: str) -> str:
    """The cgroup below which ours are made, given our own."""
    parent = os.path.dirname(own)
    if own.endswith(f"/{HIERARCHY}{name}/{_SERVER}"):  # where an earlier `enable` has put us
        return os.path.dirname(parent)
    # systemd's DelegateSubgroup=: we are below what was delegated, so as to be in nobody's way.
    if not own.endswith(_UNITS) and _is_delegated(parent) and not _is_delegated(own):
        return parent
    return own


def _is_delegated(folder: str) -> bool:
    """Whether systemd says so, from version 251 on."""
    try:
        return os.getxattr(folder, "user.delegate") == b"1"
    except OSError:
        return False


def _problem(base: str, path: str) -> str:
    """Why the cgroup at hand is of no use; empty if it is. Raises OSError."""
    if read(f"{path}/cgroup.type").strip() != "domain":
        return f"{base} is in threaded mode"
    # To move a process takes the right to write here in what both cgroups are below.
    for file in (f"{base}/cgroup.procs", path):
        if not os.access(file, os.W_OK):
            return f"user {os.geteuid()} may not write {file}; {_DELEGATE}"
    return ""
