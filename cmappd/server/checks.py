"""One health check of an application, in whichever way its definition says."""

from cmappd.core.config import Application
from cmappd.core.config.values import Address
from cmappd.core.url import parse_url
from cmappd.errors import CmappdError
from cmappd.server.launches import launch_of
from cmappd.server.world import World
from cmappd.system.netprobe import HttpCheck, http_probe, tcp_probe
from cmappd.system.probe import ProbeResult, probe


async def check(world: World, app: str, run: str, definition: Application) -> ProbeResult:
    """Check the health of a run; never raises for what comes of it."""
    health = definition.health
    assert health is not None, "the lifecycle asks for what is defined"
    if health.http is not None:
        status = (range(200, 400),) if health.http_status is None else health.http_status
        asked = HttpCheck(
            parse_url(health.http), status, health.http_redirects, health.http_body,
            health.http_verify,
        )  # fmt: skip
        return await http_probe(asked, health.timeout)
    if health.tcp is not None:
        address = Address.parse(health.tcp)
        return await tcp_probe(address.host, address.port, health.timeout)
    assert health.command is not None, "one of the three is there"
    mark = f"{run}/health"
    try:
        spec = launch_of(app, mark, definition, health.command, output=-1)
    except CmappdError as error:
        return ProbeResult(False, f"could not start: {error}", "")
    return await probe(spec, mark, health.timeout, reaper=world.reaper, forest=world.forest)
