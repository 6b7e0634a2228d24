"""Numbered lines for logs, so that a lost or doubled one is seen."""

from pathlib import Path


def line(n: int) -> bytes:
    return b"%08d %s\n" % (n, b"x" * (n % 190))


def lines(first: int, last: int) -> bytes:
    return b"".join(line(n) for n in range(first, last))


def whole(path: Path) -> bytes:
    """The log with its backups, the oldest first."""
    backups = sorted(path.parent.glob(f"{path.name}.[0-9]*"), key=lambda p: -int(p.suffix[1:]))
    return b"".join(p.read_bytes() for p in [*backups, path])
