"""The usual places of what nobody configured otherwise.

Nothing here imports more than the standard library's small modules: `cmappctl` uses it too.
"""

import os
import pwd
from collections.abc import Mapping
from typing import NamedTuple

from cmappd.errors import ConfigError

DEFAULT_CONFIG = "/etc/cmappd/cmappserver.toml"


class Paths(NamedTuple):
    """Where a server keeps what nobody configured otherwise."""

    control: str
    state_directory: str  # for this boot
    lasting_directory: str  # for what a reboot must not end
    log_directory: str


def default_paths(root: bool, environ: Mapping[str, str]) -> Paths:
    """The places the Filesystem Hierarchy Standard gives root, and XDG Base Directory a user.

    Raises ConfigError for a user without a home directory.
    """
    if root:
        return Paths(
            "/run/cmappd/control.sock", "/run/cmappd", "/var/lib/cmappd", "/var/log/cmappd"
        )
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    # The XDG specification: relative paths are to be ignored.
    if runtime.startswith("/"):
        state = os.path.join(runtime, "cmappd")
    else:
        state = f"/tmp/cmappd-{os.getuid()}"  # noqa: S108  trust.private_directory() checks it
    xdg_state = environ.get("XDG_STATE_HOME", "")
    base = xdg_state if xdg_state.startswith("/") else os.path.join(_home(environ), ".local/state")
    lasting = os.path.join(base, "cmappd")
    return Paths(os.path.join(state, "control.sock"), state, lasting, os.path.join(lasting, "log"))


def _home(environ: Mapping[str, str]) -> str:
    try:
        return environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    except KeyError as error:
        raise ConfigError(
            f"cannot choose a log directory: user {os.getuid()} has no home directory; set HOME"
        ) from error
