"""Makes what a `Vm` boots: a kernel of Debian's, and an initramfs with cmappd in it.

Both are kept below the directory for temporary files: the kernel for good, the initramfs until
anything in it changes. What is needed of the host: Debian's packages busybox-static (or another
static busybox) and util-linux, and for the kernel apt-get.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from tests.guest_vm import initramfs

PROJECT = Path(__file__).parents[2]
CACHE = Path(tempfile.gettempdir(), f"cmappd-guest-vm-{os.geteuid()}")
META_PACKAGE = "linux-image-cloud-amd64"
# busybox's insmod resolves nothing: in this order.
MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"),
    *("failover", "net_failover", "virtio_net", "virtio_blk", "pvpanic", "pvpanic-pci"),
)
TOOLS = ("setpriv", "prlimit", "nice", "flock")
PYTHON, SITE = "/opt/python", "/opt/site"
_UNUSED = re.compile(
    "test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|site-packages|config-.*"
)
_DOWNLOAD = 300.0  # seconds


class Image(NamedTuple):
    """What is booted."""

    kernel: Path
    initramfs: Path


class CannotError(Exception):
    """Something that the image needs is not to be had here."""


def image(folder: Path) -> Image:
    """The image with this version of cmappd, in a folder of one's own. Raises CannotError.

    What is in the cache goes as soon as somebody makes the image of another version.
    """
    CACHE.mkdir(mode=0o700, exist_ok=True)
    if CACHE.stat().st_uid != os.geteuid():
        raise CannotError(f"{CACHE} is somebody else's")
    with open(CACHE / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two runs of the tests, one makes it
        release, kernel = _kernel()
        made = CACHE / f"{_digest(release)}.initramfs"
        if not made.exists():
            for old in CACHE.glob("*.initramfs"):
                old.unlink()
            _make(made, kernel)
        (vmlinuz,) = (kernel / "boot").glob("vmlinuz-*")
        return Image(*(Path(shutil.copy(file, folder)) for file in (vmlinuz, made)))


def _make(made: Path, kernel: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        _populate(Path(folder), kernel)
        fresh = made.with_suffix(".new")
        with open(fresh, "wb") as file:
            initramfs.pack(Path(folder), file)
        fresh.rename(made)


def _digest(release: str) -> str:
    """Names all that goes into an image."""
    content = hashlib.blake2b(digest_size=8)
    content.update(f"{release}\n{sys.version}\n{INIT}".encode())
    for path in sorted([*PROJECT.glob("cmappd/**/*.py"), *Path(__file__).parent.glob("*.py")]):
        content.update(path.read_bytes())
    return content.hexdigest()


# The kernel --------------------------------------------------------------------------


def _kernel() -> tuple[str, Path]:
    """The name of a kernel, and the folder with its files; the one that is there, or else new."""
    for found in CACHE.glob("linux-image-*"):
        if (found / "boot").exists():
            return found.name, found
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        package = _download(Path(folder))
        unpacked = Path(folder, "unpacked")
        _call("dpkg-deb", "--extract", str(package), str(unpacked))
        kept = CACHE / package.name.partition("_")[0]
        unpacked.rename(kept)
    return kept.name, kept


def _download(folder: Path) -> Path:
    for again in (True, False):
        try:
            depends = _call("apt-cache", "depends", META_PACKAGE)
            (package,) = re.findall(r"Depends: (linux-image-\S+)", depends)
            _call("apt-get", "download", package, cwd=folder)
            return next(folder.glob("*.deb"))
        except (CannotError, ValueError):
            if not again or os.geteuid() != 0:
                raise CannotError(f"cannot get {META_PACKAGE} by apt-get") from None
            _call("apt-get", "update", "--quiet=2")
    raise AssertionError


def _call(*words: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            words, cwd=cwd, capture_output=True, text=True, timeout=_DOWNLOAD, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotError(f"cannot {' '.join(words)}: {error}") from error
    return done.stdout


# The root ----------------------------------------------------------------------------

INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir /dev/pts /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
hostname guest1
ip link set lo up
# From the kernel's command line, where it is there.
ip address add "${ADDRESS:-10.0.2.15/24}" dev eth0
ip link set eth0 up
[ -n "$ADDRESS" ] || ip route add default via 10.0.2.2
# A disk is what lasts, and says what is to be run.
if [ -b /dev/vda ]; then
    mkdir /disk
    mount -t ext4 -o sync /dev/vda /disk
    sh /disk/boot &
fi
while :; do
    setsid sh -c 'stty -F /dev/ttyS1 raw -echo; exec sh /dev/ttyS1 >/dev/ttyS1 2>/dev/null'
done
"""
_PROGRAM = """#!/bin/sh
PYTHONPATH={site} exec {python}/bin/python3 -c 'from cmappd.{module} import main; main()' "$@"
"""
_PROGRAMS = {
    "cmappserver": "server.main",
    "cmappctl": "client.control",
    "cmappmgr": "client.manager",
}


def _populate(root: Path, kernel: Path) -> None:
    for name in ("proc", "sys", "dev", "tmp", "run", "root", "etc", "bin", "sbin", "modules"):
        (root / name).mkdir()
    for name in ("usr/bin", "usr/sbin"):
        (root / name).mkdir(parents=True)
    _executable(root / "init", INIT)
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
    )
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    _modules(root / "modules", kernel)
    _busybox(root)
    for name, module in _PROGRAMS.items():
        text = _PROGRAM.format(site=SITE, python=PYTHON, module=module)
        _executable(root / "usr/sbin" / name, text)
    objects = [*_tools(root), *_python(root), *_site(root)]
    for library in _libraries(objects):
        target = root / str(library).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    # To compile takes the guest a minute at each start of a program.
    _call(sys.executable, "-m", "compileall", "-q", str(root / "opt"))


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _modules(folder: Path, kernel: Path) -> None:
    for name in MODULES:
        (found,) = kernel.glob(f"lib/modules/*/kernel/**/{name}.ko")
        shutil.copy(found, folder)
    (folder / "order").write_text("\n".join(MODULES))


def _busybox(root: Path) -> None:
    program = shutil.which("busybox")
    if program is None or b"statically linked" not in _describe(program):
        raise CannotError("cannot make a guest without a static busybox (busybox-static)")
    shutil.copy(program, root / "bin/busybox")
    for applet in _call(program, "--list").split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")


def _describe(program: str) -> bytes:
    done = subprocess.run(["ldd", program], capture_output=True, check=False)
    said = done.stdout + done.stderr
    return b"statically linked" if b"not a dynamic executable" in said else said


def _tools(root: Path) -> Iterator[Path]:
    for name in TOOLS:
        found = shutil.which(name)
        if found is None:
            raise CannotError(f"cannot make a guest without {name}(1)")
        (root / "bin" / name).unlink(missing_ok=True)  # of busybox
        shutil.copy(found, root / "usr/bin")
        yield Path(found)


def _python(root: Path) -> Iterator[Path]:
    """The interpreter with its library, which it finds from where it stands itself."""
    program = Path(sys.executable).resolve()
    target = root / PYTHON.lstrip("/")
    library = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    (target / "bin").mkdir(parents=True)
    shutil.copy(program, target / "bin/python3")
    shutil.copytree(
        sysconfig.get_path("stdlib"),
        target / library,
        ignore=lambda _folder, names: [name for name in names if _UNUSED.fullmatch(name)],
        symlinks=True,
    )
    yield program
    yield from (target / library).glob("lib-dynload/*.so")


def _site(root: Path) -> Iterator[Path]:
    """What cmappd needs beside it; and cmappd."""
    target = root / SITE.lstrip("/")
    for name in sorted(_needed("cmappd") - {"cmappd"}):
        for file in metadata.files(name) or ():
            if file.parts[0] == ".." or file.suffix == ".pyi":
                continue
            copy = target / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # bytecode that was never made
                shutil.copy2(file.locate(), copy)
    shutil.copytree(PROJECT / "cmappd", target / "cmappd")
    yield from target.rglob("*.so")


def _needed(name: str) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        with contextlib.suppress(metadata.PackageNotFoundError):  # only for other systems
            needs = metadata.requires(name) or []
            found.add(name)
            plain = [need for need in needs if "extra ==" not in need]
            waiting += [re.split(r"[^A-Za-z0-9._-]", need, maxsplit=1)[0] for need in plain]
    return found


def _libraries(objects: Iterable[Path]) -> set[Path]:
    said = subprocess.run(
        ["ldd", *map(str, objects)], capture_output=True, text=True, check=False
    ).stdout
    return {Path(path) for path in re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", said, re.MULTILINE)}
