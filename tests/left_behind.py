"""What tests could leave on the machine, beside processes: each function names what there is now.

Other runs of the tests may be at work at the same time, so it is only what this one has made, where
that can be told.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from cmappd.system import hierarchy

# Where the programs keep things that were not told to keep them elsewhere.
DEFAULTS = ("/run/cmappd", f"/tmp/cmappd-{os.getuid()}", "/var/lib/cmappd", "/var/log/cmappd")


def namespaces() -> set[str]:
    """Network namespaces that have a name, as ``ip netns list`` shows them."""
    folder = Path("/run/netns")
    return {str(path) for path in folder.iterdir()} if folder.is_dir() else set()


def mounts(folder: Path) -> set[str]:
    """Mounts below a folder, or of what is in it; those in other namespaces end with these."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mentions = re.compile(rf"{re.escape(str(folder))}(/|\s|$)")
    return {line for line in lines if mentions.search(line)}


def cgroups(folder: Path) -> set[str]:
    """Cgroups of version 2 of servers that keep their state below a folder, and of this process."""
    names = {f"cmappd-{hierarchy.name_of(path)}" for path, _, _ in os.walk(folder)}
    names.add(f"cmappd-test-{os.getpid()}")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    roots = [line.split()[4] for line in lines if " - cgroup2 " in line]
    return {
        f"{path}/{name}"
        for root in roots
        for path, inner, _ in os.walk(root)
        for name in inner
        if name in names
    }


def defaults() -> set[str]:
    """What is kept by programs that were not told where."""
    found = {path for path in DEFAULTS if os.path.exists(path)}
    return found | {str(inner) for path in found for inner in Path(path).rglob("*")}


class Folders:
    """The temporary folders and files that tests have outside of their own folders.

    Those that this process makes are noted; what it starts is given a place for its own.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._made: list[str] = []
        self._make = tempfile.mkdtemp
        self._of_others = Path(self._make(prefix="cmappd-tests-"))
        self._of_others.chmod(0o1777)
        monkeypatch.setattr(tempfile, "mkdtemp", self._note)
        monkeypatch.setenv("TMPDIR", str(self._of_others))

    def _note(self, *arguments: str | None, **options: str | None) -> str:
        made = self._make(*arguments, **options)
        self._made.append(made)
        return made

    def left(self) -> set[str]:
        """Those that are still there."""
        of_others = {str(path) for path in self._of_others.iterdir()}
        return of_others | {path for path in self._made if os.path.exists(path)}

    def close(self) -> None:
        """Take away the place of the others, with what they have left there."""
        shutil.rmtree(self._of_others)
