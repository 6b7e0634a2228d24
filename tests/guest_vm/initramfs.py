"""Writes an initramfs: a cpio archive in the form "newc" (initramfs-buffer-format of Linux)."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

_ALIGN = 4


def pack(root: Path, file: BinaryIO) -> None:
    """Write all that is below a folder, as root's own."""
    number = 0
    for folder, folders, names in os.walk(root):
        for name in sorted(folders + names):
            path = Path(folder, name)
            number += 1
            _member(file, str(path.relative_to(root)), path, number)
    _entry(file, "TRAILER!!!", b"", 0, 0, 0)


def _member(file: BinaryIO, name: str, path: Path, number: int) -> None:
    status = path.lstat()
    data = b""
    if stat.S_ISLNK(status.st_mode):
        data = os.fsencode(os.readlink(path))
    elif stat.S_ISREG(status.st_mode):
        data = path.read_bytes()
    # The time tells whether a module's bytecode is of this source.
    _entry(file, name, data, number, status.st_mode, int(status.st_mtime))


def _entry(file: BinaryIO, name: str, data: bytes, number: int, mode: int, time: int) -> None:
    encoded = os.fsencode(name) + b"\0"
    # ino, mode, uid, gid, nlink, mtime, size, device and its minor, those of a node, name, check
    fields = (number, mode, 0, 0, 1, time, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    for part in (header + encoded, data):
        file.write(part + b"\0" * (-len(part) % _ALIGN))
