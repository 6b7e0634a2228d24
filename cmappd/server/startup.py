"""What a start goes by: the configuration, or what was last good of it, and where everything is."""

import os

from cmappd.core.config import Config
from cmappd.errors import ConfigError
from cmappd.server.load import Loader
from cmappd.server.shared import general
from cmappd.server.shared.store import Store
from cmappd.system.paths import Paths, default_paths


def load(loader: Loader) -> Config:
    """The configuration; or with what was last good of its main file, while applications run.

    Raises ConfigError where there is nothing to supervise: then the file must be mended first.
    """
    try:
        return loader.load()
    except ConfigError:
        usual, boot = _usual_paths().state_directory, boot_id()
        for state in (loader.named_state_directory() or usual, usual):
            last = general.load(state, boot, loader.path)
            here = last is not None and paths(last).state_directory == state
            if last is not None and here and Store(state, boot).matters():
                loader.resume(last)
                return loader.load()
        raise


def paths(config: Config) -> Paths:
    """Where everything is that this configuration does not say otherwise."""
    usual = _usual_paths()
    state = config.server.state_directory or usual.state_directory
    lasting = config.server.state_directory or usual.lasting_directory
    control = config.server.control or os.path.join(state, "control.sock")
    return usual._replace(state_directory=state, lasting_directory=lasting, control=control)


def _usual_paths() -> Paths:
    return default_paths(os.geteuid() == 0, os.environ)


def boot_id() -> str:
    """What tells this boot of the machine from all others."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
