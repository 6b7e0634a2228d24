"""Machines that are namespaces: each has its network card, processes, mounts and host name.

They are children of this process, and die with it however it dies; nothing of them has a name
outside of itself. The death signal follows the thread that has booted a machine.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

PATIENCE = 60.0  # seconds in which what must happen happens, on a busy machine too
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "unshare")
REAPER = Path(__file__).with_name("reaper.py")

Found = TypeVar("Found")


def wait_for(
    condition: Callable[[], Found],
    what: str,
    seconds: float = PATIENCE,
    every: float = 0.02,
) -> Found:
    """The first true value of the condition; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(every)
    return found


def children(pid: int) -> list[int]:
    """The children of a process of one thread."""
    with contextlib.suppress(OSError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def mac(address: str) -> str:
    """The hardware address of the card that has this one."""
    return f"02:00:00:00:00:{int(address.rpartition('.')[2]):02x}"


class Switch:
    """An Ethernet switch: a network namespace with nothing but a bridge."""

    def __init__(self) -> None:
        self._ports = 0
        script = (
            "ip link add bridge type bridge mcast_snooping 0 && ip link set bridge up &&"
            " echo up && exec sleep infinity"
        )
        self._process = subprocess.Popen(
            [*DIES_WITH_US, "--net", "sh", "-c", script], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"up\n"

    def plug(self, pid: int, mac: str) -> str:
        """Give the network namespace of a process a card ``eth0``; the port's name."""
        self._ports += 1  # what a dead machine had may take a moment to go
        port = f"port{self._ports}"
        self._ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "address", mac,
                 "netns", str(pid))  # fmt: skip
        self._ip("link", "set", port, "master", "bridge", "up")
        return port

    def cut(self, port: str) -> None:
        """Pull the cable out."""
        self._ip("link", "set", port, "down")

    def deafen(self, port: str) -> None:
        """Carry nothing to there any more, but all that comes from there."""
        self._carry_to(port, "off")
        self._ip("link", "set", port, "type", "bridge_slave", "fdb_flush")

    def mend(self, port: str) -> None:
        """Put the cable back, and carry everything."""
        self._carry_to(port, "on")
        self._ip("link", "set", port, "up")

    def _carry_to(self, port: str, value: str) -> None:
        kinds = ("learning", "flood", "mcast_flood", "bcast_flood")
        words = [word for kind in kinds for word in (kind, value)]
        self._ip("link", "set", port, "type", "bridge_slave", *words)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _ip(self, *words: str) -> None:
        enter = ("nsenter", "--target", str(self._process.pid), "--net", "ip")
        subprocess.run([*enter, *words], check=True, timeout=PATIENCE)


class Machine:
    """One machine, from its boot to its end."""

    def __init__(self, switch: Switch, address: str, folder: Path, script: str) -> None:
        """Boot it. ``script`` is for /bin/sh, and comes after the host name and the address.

        ``folder`` is kept; its name is the host's, and in it is what the script writes.
        """
        self.address = address
        self.is_cut = False
        self._switch = switch
        boot = folder / "boot"
        boot.write_text(f"{_network(address, folder.name)}\n{script}\n")
        namespaces = ("--net", "--mount", "--ipc", "--uts", "--pid", "--fork", "--kill-child=KILL")
        with open(folder / "console.log", "ab") as console:
            self._process = subprocess.Popen(
                [*DIES_WITH_US, *namespaces, sys.executable, "-I", "-S", REAPER, boot],
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=console,
                cwd="/",
            )
        (self._init,) = wait_for(lambda: children(self._process.pid), "the first process")
        self._namespace = os.readlink(f"/proc/{self._init}/ns/pid")
        self._port = switch.plug(self._init, mac(address))
        assert self._process.stdin is not None
        self._process.stdin.close()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def run(
        self, *words: str | Path, check: bool = True, timeout: float = PATIENCE
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in it to its end."""
        return subprocess.run(
            [*self.entered(), *map(str, words)],
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def entered(self) -> Sequence[str]:
        """The words before a command that runs in it."""
        names = ("--net", "--mount", "--ipc", "--uts", "--pid")
        return ("nsenter", "--target", str(self._init), *names, "--")

    def pids(self) -> Iterator[int]:
        """All its processes, as they are called outside."""
        if not self.running:
            return  # another machine may have the number of its namespace by now
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.readlink(f"/proc/{name}/ns/pid") == self._namespace:
                    yield int(name)

    def freeze(self) -> None:
        """Stop all its processes, also those that come into being meanwhile."""
        self._signal_all(signal.SIGSTOP)
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let all go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def cut(self) -> None:
        """Cut its link."""
        self.is_cut = True
        self._switch.cut(self._port)

    def deafen(self) -> None:
        """Let it hear nobody; it is heard."""
        self._switch.deafen(self._port)

    def mute(self, address: str) -> None:
        """Let it not be heard by somebody, whom it hears."""
        self.run("ip", "route", "add", "blackhole", address)

    def mend(self) -> None:
        """Mend its link, whatever was done to it."""
        self.is_cut = False
        self._switch.mend(self._port)
        self.run("ip", "route", "flush", "type", "blackhole")

    def kill(self) -> None:
        """Cut the power; nothing is left of it when this returns."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init, signal.SIGKILL)
        self._process.wait(PATIENCE)  # the first process of a namespace is the last one to end


def _network(address: str, name: str) -> str:
    return (
        f"hostname {name}\n"
        "ip link set lo up\n"
        f"ip address add {address}/24 dev eth0\n"
        "ip link set eth0 up"
    )
