"""One guest while it runs: boot it, run commands in it, stop it."""

import shutil
import subprocess
from pathlib import Path
from types import TracebackType

from tests.guest_vm.image import CannotError, Image
from tests.guest_vm.shell import Shell
from tests.ports import free_port

QEMU = "qemu-system-x86_64"
PORT = 5315  # of cmappserver in the guest
_KERNEL = "console=ttyS0 panic=-1 random.trust_cpu=on mitigations=off"


def machine(image: Image, memory: int, *words: str) -> list[str]:
    """The command for a machine without devices; ``words`` are for the kernel. MiB."""
    return [
        *(QEMU, "-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", str(memory)),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
        *("-append", " ".join([_KERNEL, "rdinit=/init", *words])),
    ]


class Vm(Shell):
    """A guest. ``port`` on the loopback of the host leads to cmappserver's in the guest."""

    def __init__(self, folder: Path, image: Image, memory: int = 768) -> None:
        """``memory`` in MiB. Raises CannotError without QEMU."""
        if shutil.which(QEMU) is None:
            raise CannotError(f"cannot run a guest without {QEMU} (qemu-system-x86)")
        super().__init__(folder / "shell", folder / "console.log", self._runs)
        self.folder = folder
        self.port = free_port()
        self._process = subprocess.Popen(
            self._command(image, memory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )

    def _command(self, image: Image, memory: int) -> list[str]:
        network = f"user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:{PORT}"
        return [
            *machine(image, memory),
            "-no-reboot",
            *("-serial", f"file:{self.console}"),
            *("-serial", f"unix:{self._path},server=on,wait=off"),
            *("-netdev", network, "-device", "virtio-net-pci,netdev=n,romfile="),
        ]

    def __enter__(self) -> "Vm":
        try:
            self.connect()
            self.wait_booted()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """As pulling the plug."""
        self.hang_up()
        self._process.kill()
        self._process.wait()

    def _runs(self) -> bool:
        return self._process.poll() is None
