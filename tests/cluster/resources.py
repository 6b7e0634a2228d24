"""Resources and constraints, as Pacemaker's XML."""

from collections.abc import Sequence


def vm(name: str, **meta: str) -> str:
    """A VM of the hypervisor of the tests."""
    return _primitive(
        name, "test", "vm", {"name": name}, _operation(name, "monitor", "1s", "20s"), meta
    )


def app(
    name: str,
    guest: str,
    *,
    timeouts: tuple[str, str] = ("60s", "60s"),
    level: str = "",
    meta: dict[str, str] | None = None,
    **parameters: str,
) -> str:
    """An application in a guest; ``timeouts`` are of start and of stop.

    With ``level`` a second monitor of level 10 comes at this interval.
    """
    start, stop = timeouts
    operations = [
        _operation(name, "monitor", "1s", "20s"),
        _operation(name, "start", "0s", start),
        _operation(name, "stop", "0s", stop),
    ]
    if level:
        operations.append(_operation(name, "monitor", level, "20s", level=10))
    given = {
        "app": name,
        "guest": guest,
        "answer_timeout": "2",
        **parameters,
    }
    return _primitive(name, "cmappd", "app", given, "".join(operations), meta or {})


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
    members = [vm(vm_name), *(app(each, vm_name, timeouts=timeouts, meta=meta) for each in apps)]
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
    )
    return (
        f'<primitive id="{name}" class="ocf" provider="{provider}" type="{kind}">'
        f'<instance_attributes id="{name}-parameters">{given}</instance_attributes>'
        f"<operations>{operations}</operations>{_meta(name, meta)}</primitive>"
    )


def _operation(name: str, action: str, interval: str, timeout: str, level: int = 0) -> str:
    begin = (
        f'<op id="{name}-{action}-{interval}" name="{action}" interval="{interval}"'
        f' timeout="{timeout}"'
    )
    if not level:
        return f"{begin}/>"
    attributes = (
        f'<instance_attributes id="{name}-level"><nvpair id="{name}-level-value"'
        f' name="OCF_CHECK_LEVEL" value="{level}"/></instance_attributes>'
    )
    return f"{begin}>{attributes}</op>"


def _meta(name: str, meta: dict[str, str]) -> str:
    if not meta:
        return ""
    pairs = "".join(
        f'<nvpair id="{name}-meta-{key}" name="{key.replace("_", "-")}" value="{value}"/>'
        for key, value in meta.items()
    )
    return f'<meta_attributes id="{name}-meta">{pairs}</meta_attributes>'
