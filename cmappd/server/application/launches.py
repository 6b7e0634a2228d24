"""From the definition of an application to the launch of one of its commands."""

from cmappd.core.config import Application
from cmappd.server.application.environment import environment_of
from cmappd.system import users
from cmappd.system.process import Launch


def account_of(definition: Application) -> users.Account | None:
    """Whom it runs as; None where that is who cmappserver runs as. Raises LaunchError."""
    return users.account(definition.user, definition.group, definition.supplementary_groups)


def launch_of(
    app: str, mark: str, definition: Application, command: tuple[str, ...], output: int
) -> Launch:
    """A command of an application, to be launched with this run mark. Raises CmappdError."""
    account = account_of(definition)
    return Launch(
        command=command,
        directory=definition.directory,
        environment=environment_of(app, mark, definition, account),
        uid=account.uid if account else None,
        gid=account.gid if account else None,
        groups=account.groups if account else None,
        umask=definition.umask,
        output=output,
        limits=definition.limits,
        nice=definition.nice,
        no_new_privileges=definition.no_new_privileges,
    )
