"""Where the cgroups of the runs are made, and whether they can be.

    BASE/               the cgroup that we were started in, or the one delegated to us
        cmappd-NAME/    one for each state directory
            app-RUN/    one for each run, and app-RUN:KIND/ for what runs beside it
            server/     this process, while limits are used: see `Hierarchy.enable`

Cgroups are optional: `open_hierarchy` says in a sentence why they cannot be used.

Sources: cgroups(7); Documentation/admin-guide/cgroup-v2.rst of Linux, "Delegation" and "No
Internal Process Constraint"; CGROUP_DELEGATION of systemd, systemd.resource-control(5).
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

from cmappd.errors import CmappdError, ConfigError
from cmappd.system.cgroup import KEYS, Cgroup, Resources, pids, read, write
from cmappd.system.cgroupfs import own_cgroup, top
from cmappd.system.marks import HIERARCHY, RUN, folder_of
from cmappd.system.proc import read_stat

_SERVER = "server"
_UNITS = (".service", ".scope", ".slice")
_PASSES = 64  # over processes that may fork meanwhile
_DELEGATE = "a systemd service needs Delegate=yes and ProtectControlGroups=no for it"


# The cgroup of all runs ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The cgroup ``path`` of this server's applications, in the cgroup ``base``."""

    base: str
    path: str
    legacy: frozenset[str]  # the controllers that cgroup v1 has

    def create(self, run: str) -> Cgroup:
        """The cgroup of a run that has none yet. Raises CmappdError."""
        path = self.find(run).path
        try:
            os.mkdir(path)
        except OSError as error:
            raise CmappdError(f"cannot make the cgroup {path}: {error.strerror}") from error
        return Cgroup(path)

    def ensure(self, run: str) -> Cgroup:
        """The cgroup of a tree that may have one already. Raises CmappdError."""
        found = self.find(run)
        return found if os.path.isdir(found.path) else self.create(run)

    def find(self, run: str) -> Cgroup:
        """The cgroup of a run, or of a tree beside it; it need not be there."""
        return Cgroup(f"{self.path}/{folder_of(run)}")

    def leftovers(self) -> list[Cgroup]:
        """The cgroups in use, before the first `create` those that earlier servers have left.

        Empty ones are removed. Raises OSError.
        """
        names = sorted(name for name in os.listdir(self.path) if name.startswith(RUN))
        found = [Cgroup(f"{self.path}/{name}") for name in names]
        return [cgroup for cgroup in found if not cgroup.remove() and not cgroup.empty()]

    def remove(self) -> None:
        """Remove what is empty of it, for the end; what is in use stays."""
        with contextlib.suppress(OSError, CmappdError):
            if not self.leftovers():
                self._return()
        for folder in (self._leaf, self.path):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    @property
    def _leaf(self) -> str:
        return f"{self.path}/{_SERVER}"

    def _return(self) -> None:
        """Back to the base, which may have processes again when it has no controllers."""
        left = pids(self._leaf)
        if left:
            self.disable()
        for pid in left:
            Cgroup(self.base).add(pid)

    def missing(self, resources: Resources) -> str:
        """Why these limits cannot be set here, a line for each reason; empty if they can."""
        try:
            reasons = _absent(resources, self.base, self.legacy)
            strangers = self._strangers(resources)
        except OSError as error:
            return f"cannot limit {_keys(resources.controllers())}: {error}"
        if strangers:
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
        """Take the controllers back, and all limits with them; see `in_the_way`. Raises OSError."""
        for folder in (self.path,) if self._is_root() else (self.path, self.base):
            control = f"{folder}/cgroup.subtree_control"
            write(control, " ".join(f"-{name}" for name in read(control).split()))

    def in_the_way(self) -> bool:
        """Whether the controllers that are enabled keep systemd from starting the next server.

        It starts a service in the cgroup of the service, and fails (status 219/CGROUP) as long
        as that has controllers enabled; unless DelegateSubgroup=, from version 254 on, puts it
        into one below. When this process is killed, ExecStopPost= of the service has to
        `disable` them. Raises OSError.
        """
        return self.base.endswith(".service") and os.getpid() in pids(self._leaf)

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
        leaf = Cgroup(self._leaf)
        os.makedirs(leaf.path, exist_ok=True)
        for _ in range(_PASSES):
            left = pids(self.base)
            for pid in left:
                leaf.add(pid)
            if not left:
                break


def lacking(resources: Resources) -> str:
    """Why these limits cannot be had on this machine, a line for each reason; empty if they may.

    Whether a cmappserver gets them depends on the cgroup that it is started in. Raises
    ConfigError where cgroups cannot be used at all.
    """
    return "\n".join(_absent(resources, *top()))


def _absent(resources: Resources, folder: str, legacy: frozenset[str]) -> list[str]:
    """Why controllers are not to be had in a cgroup."""
    there = read(f"{folder}/cgroup.controllers").split()
    absent = [name for name in resources.controllers() if name not in there]
    taken = [name for name in absent if name in legacy]
    others = [name for name in absent if name not in legacy]
    reasons = []
    if taken:
        names = ",".join(taken)
        reasons.append(
            f"cannot limit {_keys(taken)}: the system has put it under cgroup v1; "
            f"boot with cgroup_no_v1={names}, or systemd.unified_cgroup_hierarchy=1"
        )
    if others:
        reasons.append(f"cannot limit {_keys(others)}: not to be had in {folder}; {_DELEGATE}")
    return reasons


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
    own, legacy = own_cgroup()
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
