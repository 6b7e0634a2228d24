"""Why a program cannot be executed: told after the kernel has said so, or foreseen.

Foreseen where another program stands before the command: the errors of its exec come too
late for Popen. And execvp(3), which such programs use, has /bin/sh read whatever the kernel
does not know. Only what is certain is foreseen, for to refuse what would run is worse than
a message in the application's log.
"""

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_HEAD = 256  # bytes; the kernel tells the format of a program from these (linux/binfmts.h)
_TABLE = 65536  # bytes; the kernel takes no larger table of program headers (fs/binfmt_elf.c)
_PATH_MAX = 4096  # bytes (linux/limits.h)
_PT_INTERP = 3  # elf(5)
_BINFMT_MISC = "/proc/sys/fs/binfmt_misc"
_BINFMT_ENTRY = 8192  # bytes; a path and some hexadecimal digits
# linux/magic.h: ext, xfs, btrfs, tmpfs, overlayfs. Others may judge by more than these bits.
_JUDGED_BY_BITS = {0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0x794C7630}
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Attempt:
    """An exec: of which program, in which directory and PATH, and as whom."""

    program: str
    directory: str | None
    path: str
    uid: int
    gid: int
    groups: tuple[int, ...]

    @property
    def candidates(self) -> Iterator[str]:
        """The files that are tried, in this order."""
        folders = [""] if "/" in self.program else self.path.split(":")
        return (self.beside(os.path.join(folder, self.program)) for folder in folders)

    def beside(self, path: str) -> str:
        """A path as it is understood in the directory."""
        return os.path.join(self.directory or "", path)


def why(attempt: Attempt, code: int) -> str:
    """What stands behind the errno of a failed exec."""
    program = next((one for one in attempt.candidates if os.path.exists(one)), None)
    if program is None and code != errno.EACCES:
        if "/" in attempt.program:
            return "there is no such file"
        return f"it is not in PATH ({attempt.path})"
    interpreter = _interpreter(_head(program)) if program else None
    match code:
        case errno.ENOENT if interpreter:
            return f"its interpreter {interpreter!r}, named in its #! line, does not exist"
        case errno.ENOENT:
            return "the dynamic loader that it was built for does not exist"
        case errno.EACCES if program and os.path.isdir(program):
            return "it is a directory"
        case errno.EACCES if program and not os.stat(program).st_mode & 0o111:
            return "it is not executable (chmod +x)"
        case errno.EACCES if interpreter and not os.access(attempt.beside(interpreter), os.X_OK):
            return f"its interpreter {interpreter!r}, named in its #! line, is not executable"
        case errno.EACCES:
            return (
                f"uid {attempt.uid} has no permission to execute it, "
                "or to enter a directory above it"
            )
        case errno.ENOEXEC:
            return "it is neither a program for this machine nor a script with a #! line"
    return os.strerror(code)


def foresee(attempt: Attempt) -> int | None:
    """The errno that execve(2) is going to fail with; None if it will not, or may not.

    It is assumed that the directory can be entered.
    """
    codes = [_refusal(one, attempt) for one in attempt.candidates]
    if None in codes:
        return None
    return next((code for code in codes if code != errno.ENOENT), errno.ENOENT)


def _refusal(path: str, attempt: Attempt) -> int | None:
    code = _unusable(path, attempt)
    if code is not None:
        return code
    head = _head(path)
    if head is None:
        return None
    if _is_foreign(path, head):
        return errno.ENOEXEC
    needed = _interpreter(head) or _loader(path, head)
    return _unusable(attempt.beside(needed), attempt) if needed else None


def _unusable(path: str, attempt: Attempt) -> int | None:
    """Whether the file is not there, or may not be executed."""
    try:
        mode = os.stat(path).st_mode
        usable = stat.S_ISREG(mode) and mode & 0o111 and not _denied(path, attempt)
    except (FileNotFoundError, NotADirectoryError):
        return errno.ENOENT
    except PermissionError:
        usable = attempt.uid != os.geteuid()  # root may be shut out where a user is not: FUSE
    except OSError:
        return None
    return None if usable else errno.EACCES


# Permission --------------------------------------------------------------------------


def _denied(path: str, attempt: Attempt) -> bool:
    if attempt.uid == os.geteuid():
        return not os.access(path, os.X_OK)
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return True
    checked = {path}
    if os.path.isabs(attempt.program):  # else what is above the directory does not matter
        checked |= _folders(path) | _folders(os.path.realpath(path))
    return any(_bits_deny(one, attempt) for one in checked)


def _folders(path: str) -> set[str]:
    folders = set()
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        folders.add(path)
    return folders


def _bits_deny(path: str, attempt: Attempt) -> bool:
    """Whether the permission bits forbid another user, and nothing else has a say."""
    info = os.stat(path)
    if attempt.uid == 0:
        return False
    if attempt.uid == info.st_uid:
        bits = info.st_mode >> 6
    elif info.st_gid in (attempt.gid, *attempt.groups):
        bits = info.st_mode >> 3
    else:
        bits = info.st_mode
    return not bits & 1 and _file_system(path) in _JUDGED_BY_BITS and not _has_acl(path)


def _file_system(path: str) -> int:
    """Its magic number, the first member of what statfs(2) fills in."""
    answer = (ctypes.c_ulong * 64)()
    _LIBC.statfs(os.fsencode(path), ctypes.byref(answer))
    return answer[0]


def _has_acl(path: str) -> bool:
    return any("acl" in name for name in os.listxattr(path))


# Format ------------------------------------------------------------------------------


def _head(path: str) -> bytes | None:
    """What a program begins with; None where that may not be read."""
    return _part(path, 0, _HEAD)


def _part(path: str, offset: int, size: int) -> bytes | None:
    try:
        # Never to wait for a FIFO that has taken the place of the file.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.pread(file, size, offset)
    except (OSError, OverflowError):
        return None
    finally:
        os.close(file)


def _interpreter(head: bytes | None) -> str | None:
    """The interpreter in a script's #! line, empty if there is none; None for anything else."""
    if head is None or not head.startswith(b"#!"):
        return None
    line = head[2:].split(b"\n")[0].split(b"\0")[0]
    return os.fsdecode(line.strip(b" \t").replace(b"\t", b" ").split(b" ")[0])


def _loader(path: str, head: bytes) -> str | None:
    """The dynamic loader that a 64-bit ELF program names (elf(5)); None if it needs none."""
    if not _is_elf64(head):
        return None
    order = "<" if head[5] == 1 else ">"
    start, size, count = struct.unpack_from(f"{order}32xQ14xHH", head)
    if size < struct.calcsize("=I4xQ16xQ"):
        return None
    table = _part(path, start, min(size * count, _TABLE)) or b""
    for at in range(0, len(table) - size + 1, size):
        kind, offset, length = struct.unpack_from(f"{order}I4xQ16xQ", table, at)
        if kind == _PT_INTERP:
            name = _part(path, offset, min(length, _PATH_MAX)) or b""
            return os.fsdecode(name.split(b"\0")[0])
    return None


def _is_elf64(head: bytes) -> bool:
    return len(head) >= 64 and head.startswith(b"\x7fELF\x02")


def _is_foreign(path: str, head: bytes) -> bool:
    """Whether the kernel knows no way to execute this format."""
    if head.startswith(b"\x7fELF"):
        own = _head("/proc/self/exe") or b""
        # A 32-bit program may run on a 64-bit kernel: that is for the kernel to say.
        known = not (_is_elf64(head) and _is_elf64(own)) or _machine(head) == _machine(own)
    else:
        known = bool(_interpreter(head))
    return not known and not _is_handled(path, head)


def _machine(head: bytes) -> bytes:
    """Byte order and instruction set."""
    return head[5:6] + head[18:20]


def _is_handled(path: str, head: bytes) -> bool:
    """Whether somebody has registered for it with binfmt_misc (admin-guide/binfmt-misc.rst)."""
    with contextlib.suppress(OSError):  # not mounted
        for name in os.listdir(_BINFMT_MISC):
            entry = _part(os.path.join(_BINFMT_MISC, name), 0, _BINFMT_ENTRY) or b""
            lines = os.fsdecode(entry).split("\n")
            fields = dict(line.partition(" ")[::2] for line in lines)
            if "enabled" in fields and _matches(fields, path, head):
                return True
    return False


def _matches(fields: dict[str, str], path: str, head: bytes) -> bool:
    if "extension" in fields:
        return path.endswith(fields["extension"])
    magic = bytes.fromhex(fields.get("magic", ""))
    mask = bytes.fromhex(fields.get("mask", "ff" * len(magic)))
    part = head[int(fields.get("offset", 0)) :]
    pairs = zip(part, magic, mask, strict=False)
    return 0 < len(magic) <= len(part) and all((a ^ b) & m == 0 for a, b, m in pairs)
