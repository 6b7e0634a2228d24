"""The environment of an application: clean, the same from every start of cmappserver."""

import os
from collections.abc import Mapping

from cmappd.system.users import Account

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What describes the machine rather than whoever started cmappserver.
PASSED_ON = ("LANG", "TZ")


def environment_of(
    app: str, run: str, configured: Mapping[str, str], account: Account | None
) -> dict[str, str]:
    """All variables of one launch; ``configured`` wins over what the account gives.

    CMAPPD_APP and CMAPPD_RUN mark the processes of a run, also across a crash of cmappserver.
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
    return environment | dict(configured) | {"CMAPPD_APP": app, "CMAPPD_RUN": run}
