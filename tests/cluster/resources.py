"""Resources and constraints, as Pacemaker's XML."""

from collections.abc import Sequence

ASKED_EVERY = 2  # seconds: the interval of the monitor that asks the guest
OTHER = {"node1": "node2", "node2": "node1"}


def vm(name: str, **meta: str) -> str:
    """A VM of the hypervisor of the tests."""
    operations = [
        _operation(name, "monitor", "1s", "20s"),
        *(_operation(name, action, "0s", "60s") for action in ("start", "stop", "migrate_to")),
    ]
    return _primitive(name, "test", "vm", {"name": name}, "".join(operations), meta)


def app(
    name: str,
    guest: str,
    *,
    timeouts: tuple[str, str] = ("60s", "60s"),
    meta: dict[str, str] | None = None,
    **parameters: str,
) -> str:
    """An application in a guest; ``timeouts`` are of start and of stop.

    The guest is asked so often that a monitor always waits behind the one that waits for an end.
    """
    start, stop = timeouts
    operations = [
        _operation(name, "monitor", "1s", "20s"),
        _asking(name, f"{ASKED_EVERY}s", "15s"),
        _operation(name, "start", "0s", start),
        _operation(name, "stop", "0s", stop),
        *(_operation(name, action, "0s", "60s") for action in ("migrate_to", "migrate_from")),
    ]
    given = {
        "app": name,
        "guest": guest,
        "answer_timeout": "2",
        **parameters,
    }
    return _primitive(name, "cmappd", "app", given, "".join(operations), meta or {})


def roaming(name: str, guests: dict[str, str], **parameters: str) -> str:
    """An application that runs in another guest at each node."""
    rules = "".join(
        f'<instance_attributes id="{name}-{node}" score="10">'
        f'<rule id="{name}-{node}-rule" score="0">'
        f'<expression id="{name}-{node}-is" attribute="#uname" operation="eq" value="{node}"/>'
        f'</rule><nvpair id="{name}-{node}-guest" name="guest" value="{guest}"/>'
        f"</instance_attributes>"
        for node, guest in guests.items()
    )
    primitive = app(
        name, "", timeouts=("30s", "30s"), meta={"migration_threshold": "1"}, **parameters
    )
    return primitive.replace("<operations>", f"{rules}<operations>", 1)


def in_order(first: str, then: str) -> str:
    """Where both are started, or both stopped; either may be there without the other."""
    return f'<rsc_order id="{first}-and-{then}" first="{first}" then="{then}" kind="Optional"/>'


def stays(resource: str, node: str) -> str:
    """It runs there or nowhere."""
    location = '<rsc_location id="{0}-at-{1}" rsc="{0}" node="{1}" score="{2}"/>'
    return location.format(resource, node, "INFINITY") + location.format(
        resource, OTHER[node], "-INFINITY"
    )


def group(name: str, *members: str, **meta: str) -> str:
    """Members that start in order, and are together."""
    return f'<group id="{name}">{"".join(members)}{_meta(name, meta)}</group>'


def prefers(resource: str, node: str) -> str:
    """A mild preference."""
    return f'<rsc_location id="{resource}-at" rsc="{resource}" node="{node}" score="10"/>'


def package(
    vm_name: str, apps: Sequence[str], node: str, timeouts: tuple[str, str], **meta: str
) -> tuple[str, str]:
    """A VM with applications as a group, which prefers a node; and the constraint."""
    name = f"package-{vm_name}"
    movable = {key: value for key, value in meta.items() if key == "allow_migrate"}
    members = [
        vm(vm_name, **movable),
        *(app(each, vm_name, timeouts=timeouts, meta=meta) for each in apps),
    ]
    return group(name, *members), prefers(name, node)


def _primitive(
    name: str,
    provider: str,
    kind: str,
    parameters: dict[str, str],
    operations: str,
    meta: dict[str, str],
) -> str:
    given = "".join(
        f'<nvpair id="{name}-{key}" name="{key}" value="{value}"/>'
        for key, value in parameters.items()
        if value
    )
    return (
        f'<primitive id="{name}" class="ocf" provider="{provider}" type="{kind}">'
        f'<instance_attributes id="{name}-parameters">{given}</instance_attributes>'
        f"<operations>{operations}</operations>{_meta(name, meta)}</primitive>"
    )


def _operation(name: str, action: str, interval: str, timeout: str) -> str:
    return f'<op id="{name}-{action}" name="{action}" interval="{interval}" timeout="{timeout}"/>'


def _asking(name: str, interval: str, timeout: str) -> str:
    level = f'<nvpair id="{name}-level" name="OCF_CHECK_LEVEL" value="10"/>'
    return (
        f'<op id="{name}-ask" name="monitor" interval="{interval}" timeout="{timeout}">'
        f'<instance_attributes id="{name}-ask-parameters">{level}</instance_attributes></op>'
    )


def _meta(name: str, meta: dict[str, str]) -> str:
    if not meta:
        return ""
    pairs = "".join(
        f'<nvpair id="{name}-meta-{key}" name="{key.replace("_", "-")}" value="{value}"/>'
        for key, value in meta.items()
    )
    return f'<meta_attributes id="{name}-meta">{pairs}</meta_attributes>'
