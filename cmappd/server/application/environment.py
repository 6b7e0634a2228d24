"""The environment of an application: clean, the same from every start of cmappserver."""

import os

from cmappd.core import environment_file
from cmappd.core.config import Application
from cmappd.errors import LaunchError
from cmappd.system import files
from cmappd.system.trust import check_trusted
from cmappd.system.users import Account

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What describes the machine rather than whoever started cmappserver.
PASSED_ON = ("LANG", "TZ")
LARGEST_FILE = 1024 * 1024  # bytes; more fits into no environment (execve(2))


def environment_of(
    app: str, mark: str, definition: Application, account: Account | None
) -> dict[str, str]:
    """All variables of one launch: the account's, the definition's, and those of its file.

    CMAPPD_APP and CMAPPD_RUN mark the processes of a run, also across a crash of cmappserver.
    Raises CmappdError where the file cannot be used.
    """
    environment = {"PATH": DEFAULT_PATH}
    environment |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if account is not None:
        environment |= {
            "HOME": account.home,
            "LOGNAME": account.name,
            "SHELL": account.shell,
            "USER": account.name,
        }
    environment |= definition.environment
    if definition.environment_file is not None:
        environment |= _from_file(definition.environment_file)
    return environment | {"CMAPPD_APP": app, "CMAPPD_RUN": mark}


def _from_file(path: str) -> dict[str, str]:
    """The variables in a file, which root reads, whoever they are for: so it must be root's."""
    check_trusted(path)
    try:
        variables = environment_file.parse(files.read_text(path, LARGEST_FILE))
    except ValueError as error:
        raise LaunchError(f"cannot use {path}: {error}") from None
    for name in variables:
        if name.startswith("CMAPPD_"):
            raise LaunchError(f"cannot use {path}: {name} is set by cmappserver")
    return variables
