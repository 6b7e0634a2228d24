"""The answer to Status: the applications that a peer may see; for the administrator the rest."""

from cmappd.core.messages import Done, Message, Refused, State, Status
from cmappd.core.session import Identity
from cmappd.server.cgroups import about
from cmappd.server.office import Office

TEXT_SIZE = 8 * 1024  # characters; in JSON none takes more than six bytes


def overview(office: Office, identity: Identity, asked: Status) -> list[Message]:
    """What it is told of the applications that it asks for, all of which it may see."""
    wanted = set(asked.apps)

    def shows(app: str) -> bool:
        return app in wanted if wanted else office.may_drive(identity, app)

    # A status is much work: only what is asked for is looked at.
    found = [one.status() for one in office.registry.supervisors() if shows(one.app.name)]
    found += [one for one in office.registry.refused() if shows(one.app)]
    missing = sorted(wanted - {one.app for one in found})
    if missing:
        names = ", ".join(f"'{name}'" for name in missing)
        text = f"there is no application {names} in this guest"
        return [Refused(asked.seq, "unknown-app", text[:TEXT_SIZE])]
    found.sort(key=lambda status: status.app)
    world = office.world
    states = [State(asked.seq, one, world.boot_id, world.epoch) for one in found]
    if not identity.administrator:
        return [*states, Done(asked.seq)]
    return [*states, Done(asked.seq, _problems(office), about(world)[:TEXT_SIZE])]


def _problems(office: Office) -> str:
    """The problems of the configuration that belong to no application."""
    general = [str(one) for one in office.registry.config.problems if one.app is None]
    return "\n".join(general + office.reloader.service_problems)[:TEXT_SIZE]
