"""What the service manager is told, and that nothing depends on it."""

import os
import resource
import socket
from pathlib import Path

import pytest

from cmappd.system.notify import notify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """Who asks to be told."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    asking.bind(str(tmp_path / "notify"))
    asking.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return asking


def test_it_is_told(manager: socket.socket) -> None:
    with manager:
        notify("RELOADING=1", "MONOTONIC_USEC=7")
        assert manager.recv(100) == b"RELOADING=1\nMONOTONIC_USEC=7"


def test_who_is_gone_is_told_in_vain(manager: socket.socket) -> None:
    manager.close()
    notify("READY=1")


def test_who_does_not_read_is_not_waited_for(manager: socket.socket) -> None:
    with manager:
        for _ in range(10_000):
            notify("WATCHDOG=1")
        assert manager.recv(100) == b"WATCHDOG=1"


def test_without_a_free_descriptor_nothing_is_told_and_nothing_breaks(
    manager: socket.socket,
) -> None:
    lowest = os.dup(0)
    os.close(lowest)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        notify("WATCHDOG=1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    with manager, pytest.raises(BlockingIOError):
        manager.recv(100)
