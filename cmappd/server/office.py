"""What every peer is served with, and what a peer may drive."""

from collections.abc import Sequence

from cmappd.core.session import Identity
from cmappd.server.registry import Registry
from cmappd.server.reload import Reloader
from cmappd.server.shared.world import World
from cmappd.server.upgrade import Upgrader


class Office:
    """The server, as its peers need it."""

    __slots__ = ("registry", "reloader", "upgrader", "world")

    def __init__(
        self, world: World, registry: Registry, reloader: Reloader, upgrader: Upgrader
    ) -> None:
        self.world = world
        self.registry = registry
        self.reloader = reloader
        self.upgrader = upgrader

    def knows(self, identity: Identity) -> bool:
        """Whether anything at all is served to it."""
        return identity.administrator or identity.name in self.registry.config.managers

    def may_drive(self, identity: Identity, app: str) -> bool:
        """Whether it may drive the application, and see it; there need be none of that name."""
        if identity.administrator:
            return True
        manager = self.registry.config.managers.get(identity.name)
        return manager is not None and manager.allows(app)

    def denial(self, name: str, apps: Sequence[str]) -> str:
        """What is said to a manager that may not drive these, whether there are such or not."""
        what = ", ".join(f"'{app}'" for app in apps) or "anything"
        text = f"{name} may not drive {what} in this guest"
        if name in self.registry.config.managers:
            those = "it is" if len(apps) == 1 else "they are"
            return f"{text}: {those} not in apps of [managers.{name}]"
        text += f": there is no [managers.{name}]"
        if all(one.app for one in self.registry.config.problems):
            return text
        # A bad file may hide that it may.
        return f"{text}, but a configuration that has problems: see cmappctl status there"
