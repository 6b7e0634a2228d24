"""The guest's configuration: what the files may say, what they mean, and what a reload changes."""

from cmappd.core.config.parse import DEFAULT_LISTEN, Parsed, includes, parse, state_directory
from cmappd.core.config.plan import Change, Config, Plan, compare, settle
from cmappd.core.config.problems import Problem
from cmappd.core.config.schema import (
    Application,
    Health,
    Log,
    Manager,
    Ownership,
    Resources,
    Restart,
    Server,
    Start,
    Stop,
    Tls,
)
from cmappd.core.config.stanzas import Source
from cmappd.core.config.values import Address

__all__ = [
    "DEFAULT_LISTEN",
    "Address",
    "Application",
    "Change",
    "Config",
    "Health",
    "Log",
    "Manager",
    "Ownership",
    "Parsed",
    "Plan",
    "Problem",
    "Resources",
    "Restart",
    "Server",
    "Source",
    "Start",
    "Stop",
    "Tls",
    "compare",
    "includes",
    "parse",
    "settle",
    "state_directory",
]
