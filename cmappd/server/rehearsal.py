"""What a cmappserver on disk is asked before it takes the place of one that runs: can it?

It imports everything, reads the configuration and the records, and says what it has found.
"""

import sys

import msgspec

from cmappd import __version__
from cmappd.core.config import Config
from cmappd.errors import ConfigError
from cmappd.server.shared.store import Store


class Rehearsed(msgspec.Struct, frozen=True):
    """The answer: a line of JSON on standard output."""

    software: str
    state_directory: str


def rehearse(state_directory: str, boot_id: str, config: Config) -> None:
    """Print the answer. Raises ConfigError where it cannot take over.

    A bad stanza is no hindrance: its last good definition is in the record. What a file declares
    that cannot be read, and has no record, would be forgotten.
    """
    general = [str(problem) for problem in config.problems if problem.app is None]
    refused = Store(state_directory, boot_id).unreadable(config.apps)
    problems = general + [f"{app}: its record: {why}" for app, why in refused.items()]
    if problems:
        raise ConfigError("\n".join(problems))
    answer = msgspec.json.encode(Rehearsed(__version__, state_directory))
    sys.stdout.write(answer.decode() + "\n")


def answer_of(output: str) -> Rehearsed | None:
    """The answer in what was printed; None where there is none."""
    try:
        return msgspec.json.decode(output.strip().rpartition("\n")[2], type=Rehearsed)
    except msgspec.MsgspecError:
        return None
