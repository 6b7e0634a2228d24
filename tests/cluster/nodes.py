"""A node of the cluster: a machine that runs Corosync and Pacemaker."""

import shutil
from pathlib import Path

from tests.cluster.guests import PROGRAMS
from tests.cluster.machines import Machine, Switch, mac

HERE = Path(__file__).parent
AGENT = HERE.parents[1] / "cluster" / "pacemaker" / "app"
NODES = {"node1": "10.77.0.1", "node2": "10.77.0.2"}
PRIVATE = ("var/lib/corosync", "var/lib/pacemaker", "var/log")

COROSYNC = """\
totem {{
    version: 2
    cluster_name: tests
    transport: knet
    crypto_cipher: none
    crypto_hash: none
    token: 1000
}}
quorum {{
    provider: corosync_votequorum
    two_node: 1
}}
logging {{
    to_logfile: yes
    to_stderr: no
    to_syslog: no
    logfile: /var/log/corosync/corosync.log
}}
system {{
    sched_rr: no
    move_to_root_cgroup: no
}}
nodelist {{
{}
}}
"""

# What there is always. All else may be stopped by default.
RESOURCES = """\
<resources>
  <primitive id="switch" class="stonith" type="fence_switch">
    <instance_attributes id="switch-attributes">
      <nvpair id="switch-check" name="pcmk_host_check" value="static-list"/>
      <nvpair id="switch-list" name="pcmk_host_list" value="node1 node2"/>
    </instance_attributes>
    <meta_attributes id="switch-meta">
      <nvpair id="switch-role" name="target-role" value="Started"/>
    </meta_attributes>
  </primitive>
</resources>"""

# What is asked of the cluster's information base must not be newer than the installed version.
CIB = """\
<cib crm_feature_set="3.0.0" validate-with="pacemaker-3.0" admin_epoch="0" epoch="1"
     num_updates="0">
  <configuration>
    <crm_config>
      <cluster_property_set id="options">
        <nvpair id="options-fencing" name="stonith-enabled" value="true"/>
        <nvpair id="options-action" name="stonith-action" value="off"/>
        <nvpair id="options-quorum" name="no-quorum-policy" value="stop"/>
        <nvpair id="options-load" name="load-threshold" value="10000%"/>
        <nvpair id="options-dc" name="dc-deadtime" value="2s"/>
      </cluster_property_set>
    </crm_config>
    <nodes/>
    {resources}
    <constraints/>
  </configuration>
  <status/>
</cib>
"""

START = """\
exec </dev/null >/dev/null 2>&1
corosync -f &
until corosync-cfgtool -s >/dev/null 2>&1; do sleep 0.1; done
export PCMK_logfacility=none PCMK_logfile=/var/log/pacemaker/pacemaker.log
pacemakerd &
"""

# A node's card is in a bridge, into which those of its VMs are plugged.
BOOT = """\
exec </dev/null
ip link add br0 address {mac} type bridge mcast_snooping 0
ip address flush dev eth0
ip link set eth0 master br0
ip address add {address}/24 dev br0
ip link set br0 up
mount -n -t tmpfs -o mode=755 tmpfs /run
mount -n -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir -p /run/harness /run/lock /run/resource-agents
mount -n --bind {folder}/harness /run/harness
for each in {private}; do mount -n --bind {folder}/{name}/$each /$each; done
cover() {{ mount -n -t overlay overlay -o "lowerdir=$1:$2" "$2"; }}
cover {folder}/ocf /usr/lib/ocf/resource.d
cover {folder}/sbin /usr/sbin
cover {folder}/{name}/etc /etc
mount -n -t proc proc /proc
{start}
"""


def prepare(folder: Path) -> None:
    """Write what all nodes share, and for each node what is its own."""
    _install(folder / "ocf/cmappd/app", AGENT)
    _install(folder / "ocf/test/vm", HERE / "agents/vm")
    _install(folder / "sbin/fence_switch", HERE / "agents/fence_switch")
    (folder / "sbin/cmappmgr").symlink_to(PROGRAMS / "cmappmgr")
    (folder / "harness").mkdir()
    members = "\n".join(
        f"node {{\n name: {name}\n nodeid: {number}\n ring0_addr: {address}\n}}"
        for number, (name, address) in enumerate(NODES.items(), 1)
    )
    for name in NODES:
        for private in PRIVATE:
            (folder / name / private).mkdir(parents=True)
        for part in ("corosync", "cmappd"):
            (folder / name / "etc" / part).mkdir(parents=True)
        (folder / name / "etc/corosync/corosync.conf").write_text(COROSYNC.format(members))
        for part in ("corosync", "pacemaker"):
            (folder / name / "var/log" / part).mkdir()
        shutil.chown(folder / name / "var/log/pacemaker", "hacluster", "haclient")
        reset(folder / name)


def reset(folder: Path) -> None:
    """Let a node know of nothing but the switch."""
    state = folder / "var/lib/pacemaker"
    for part in ("blackbox", "cib", "cores", "pengine"):
        shutil.rmtree(state / part, ignore_errors=True)
        (state / part).mkdir(mode=0o750)
    cib = state / "cib/cib.xml"
    cib.write_text(CIB.format(resources=RESOURCES))
    cib.chmod(0o600)
    for path in state.rglob("*"):
        shutil.chown(path, "hacluster", "haclient")


def _install(target: Path, source: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    target.chmod(0o755)


def boot(name: str, switch: Switch, folder: Path) -> Machine:
    """Boot a node, which joins the cluster by and by."""
    script = BOOT.format(
        folder=folder,
        name=name,
        address=NODES[name],
        mac=mac(NODES[name]),
        private=" ".join(PRIVATE),
        start=START,
    )
    return Machine(switch, NODES[name], folder / name, script)


def logs(folder: Path) -> str:
    """What was said that is worth a look, for people who read of a failure."""
    parts = []
    for name in NODES:
        for path in sorted((folder / name / "var/log").rglob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            said = [line for line in lines if "\tinfo:" not in line][-150:]
            parts += [f"---- {name} {path.name}", *said]
    return "\n".join(parts)
