"""From the definition of an application to the launch of one of its commands."""

from dataclasses import replace

from cmappd.core.config import Application
from cmappd.server.application.environment import environment_of
from cmappd.system import users
from cmappd.system.marks import MARK
from cmappd.system.process import Launch


def account_of(definition: Application) -> users.Account | None:
    """Whom it runs as; None where that is who cmappserver runs as. Raises LaunchError."""
    return users.account(definition.user, definition.group, definition.supplementary_groups)


class Launches:
    """What the commands of one application are launched with.

    The account is looked up and the environment read when a run is launched, and both are kept for
    its health checks and for what ends it: a user database that does not answer, or a mistake in
    the environment_file, is of no consequence for what runs. A run that an earlier cmappserver has
    launched gets them at the first of these.
    """

    __slots__ = ("_app", "_basis", "_run")

    def __init__(self, app: str) -> None:
        self._app = app
        self._run = ""
        self._basis: Launch | None = None  # of that run, without a command and an output

    def renew(self, run: str, definition: Application) -> None:
        """Find out anew what this run is launched with. Raises CmappdError."""
        self._basis = None
        account = account_of(definition)
        self._run, self._basis = (
            run,
            Launch(
                command=(),
                directory=definition.directory,
                environment=environment_of(self._app, run, definition, account),
                uid=account.uid if account else None,
                gid=account.gid if account else None,
                groups=account.groups if account else None,
                umask=definition.umask,
                output=-1,
                limits=definition.limits,
                nice=definition.nice,
                no_new_privileges=definition.no_new_privileges,
            ),
        )

    def owner(self, run: str, definition: Application) -> tuple[int, int] | None:
        """The user and group of this run; None where those are ours. Raises CmappdError."""
        basis = self._basis_of(run, definition)
        return None if basis.uid is None or basis.gid is None else (basis.uid, basis.gid)

    def of(
        self,
        run: str,
        mark: str,
        definition: Application,
        command: tuple[str, ...],
        output: int = -1,
    ) -> Launch:
        """A command of this run, to be launched with this run mark. Raises CmappdError."""
        basis = self._basis_of(run, definition)
        environment = basis.environment | {MARK: mark}
        return replace(basis, command=command, environment=environment, output=output)

    def _basis_of(self, run: str, definition: Application) -> Launch:
        if self._basis is None or self._run != run:
            self.renew(run, definition)
        assert self._basis is not None
        return self._basis
