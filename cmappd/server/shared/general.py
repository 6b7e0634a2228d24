"""The last good of the main file, kept for a start while that file is wrong.

A broken edit changes nothing in a cmappserver that runs. If that is killed then, the supervision
must go on: the applications have their records, and this has the rest. It is for this boot only, as
they are, and for one main file, which may not be the only one of this machine.
"""

import os

import msgspec
from pydantic import ValidationError

from cmappd.core.config import Config, Manager, Server, Tls
from cmappd.errors import ConfigError
from cmappd.system import files
from cmappd.system.trust import check_trusted

VERSION = 1
NAME = "general.json"


class _General(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    boot_id: str
    path: str
    server: msgspec.Raw
    tls: msgspec.Raw
    managers: dict[str, msgspec.Raw]
    manager_origins: dict[str, str]


def save(directory: str, boot_id: str, path: str, config: Config) -> None:
    """Keep what is in force of the main file at a path. Raises OSError."""
    general = _General(
        version=VERSION,
        boot_id=boot_id,
        path=path,
        server=_text(config.server),
        tls=_text(config.tls),
        managers={name: _text(manager) for name, manager in config.managers.items()},
        manager_origins=config.manager_origins,
    )
    files.write_atomic(os.path.join(directory, NAME), msgspec.json.encode(general))


def load(directory: str, boot_id: str, path: str) -> Config | None:
    """What was kept, without any applications; None where there is nothing of use."""
    file = os.path.join(directory, NAME)
    try:
        check_trusted(file)
        kept = msgspec.json.decode(files.read_text(file), type=_General)
        if (kept.version, kept.boot_id, kept.path) != (VERSION, boot_id, path):
            return None
        tls = msgspec.json.decode(kept.tls)
        return Config(
            server=Server.model_validate(msgspec.json.decode(kept.server)),
            tls=Tls.model_validate(tls) if tls is not None else None,
            managers={
                name: Manager.model_validate(msgspec.json.decode(text))
                for name, text in kept.managers.items()
            },
            apps={},
            origins={},
            problems=(),
            manager_origins=kept.manager_origins,
        )
    except (ConfigError, msgspec.MsgspecError, ValidationError):
        return None


def _text(table: Server | Tls | Manager | None) -> msgspec.Raw:
    text = table.model_dump_json(exclude_defaults=True) if table is not None else "null"
    return msgspec.Raw(text.encode())
