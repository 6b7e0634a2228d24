"""cmappserver in the guest, and its managers on the host."""

import re
from pathlib import Path

import tomli_w

from tests.certificates import Authority, Identity
from tests.end_to_end.programs import Manager
from tests.guest_vm.shell import PATIENCE
from tests.guest_vm.vm import PORT, Vm

UNIT = "/sys/fs/cgroup/system.slice/cmappserver.service"
CONFIG, APPS, LOG = "/etc/cmappd/cmappserver.toml", "/etc/cmappd/apps.d", "/run/server.log"


class Server:
    """cmappserver in the guest."""

    def __init__(self, vm: Vm, certificates: Identity, ca: str) -> None:
        self.vm = vm
        for name, path in {"pem": certificates[0], "key": certificates[1], "ca": ca}.items():
            vm.write(f"/etc/cmappd/{name}", Path(path).read_text())
        self.configure()
        vm.must(f"mkdir -p {UNIT} {APPS}")
        for folder in ("/sys/fs/cgroup", UNIT.rpartition("/")[0]):
            vm.must(f"echo +memory +cpu +pids >{folder}/cgroup.subtree_control")

    def configure(self, on_shutdown: str = "stop") -> None:
        server = {"listen": [f"0.0.0.0:{PORT}"], "include": ["apps.d/*.toml"]}
        tables = {
            "server": {**server, "on_shutdown": on_shutdown},
            "tls": {"certificate": "pem", "key": "key", "ca": "ca"},
            "managers": {"vmhost1": {"apps": ["*"]}},
        }
        self.vm.write(CONFIG, tomli_w.dumps(tables))

    def define(self, name: str, command: list[str], **keys: object) -> None:
        stanza = {"command": command, "autostart": True, "start": {"ready": "0s"}, **keys}
        self.vm.write(f"{APPS}/.{name}", tomli_w.dumps({"apps": {name: stanza}}))
        self.vm.must(f"mv {APPS}/.{name} {APPS}/{name}.toml")

    def start(self) -> None:
        self.vm.must(
            f"rm -f {LOG}; (echo 0 >{UNIT}/cgroup.procs && exec cmappserver >{LOG} 2>&1) &"
            " echo $! >/run/pid"
        )
        self.vm.until(f"grep ' is ready, ' {LOG} || ! cat {LOG}")

    def end(self, signal: str) -> None:
        self.vm.must(f"kill -{signal} $(cat /run/pid)")
        self.vm.until("! test -d /proc/$(cat /run/pid)")

    def cgroup(self, app: str) -> str:
        """The cgroup of its live run; that of its checks does not end with a number."""
        (path,) = self.vm.until(f"ls -d {UNIT}/cmappd-*/app-{app}.*[0-9]").split()
        return path

    def read(self, app: str, file: str) -> str:
        return self.vm.must(f"cat {self.cgroup(app)}/{file}").strip()

    def wait_status(self, text: str) -> str:
        """What ``status -v`` says, once that is in it."""
        return self.vm.until(f"cmappctl status -v >/run/status; grep -q '{text}' /run/status &&"
                             " cat /run/status || ! cat /run/status")  # fmt: skip

    def told_kills(self, app: str) -> int:
        """How many kills for memory are in its record."""
        record = self.vm.must(f"cat /run/cmappd/apps/{app}.json")
        return int((re.findall(r'"oom_kills":(\d+)', record) or ["0"])[0])

    def pid(self, app: str) -> str:
        return self.vm.until(f"head -n 1 {self.cgroup(app)}/cgroup.procs | grep .").strip()


def manager(folder: Path, authority: Authority, vm: Vm, app: str) -> Manager:
    certificate, key = authority.manager("vmhost1")
    tables = {
        "guests": {"guest1": {"address": f"127.0.0.1:{vm.port}", "server_name": "guest1"}},
        "tls": {"certificate": certificate, "key": key, "ca": authority.ca},
        "manager": {"connect_timeout": f"{PATIENCE:.0f}s", "lost_after": f"{PATIENCE:.0f}s"},
    }
    config = folder / "cmappmgr.toml"
    config.write_text(tomli_w.dumps(tables))
    words = ("--config", str(config), "--app", app)
    return Manager(folder / "report.json", *words, folder=folder, log=folder / "manager.log")
