"""The life of one application: pure, with the time as an argument. The rules are in `table`."""

from cmappd.core.lifecycle.app import App, Run, concerns
from cmappd.core.lifecycle.definition import untold
from cmappd.core.lifecycle.starting import found
from cmappd.core.lifecycle.table import due, pending, resume, step, wake

__all__ = [
    "App",
    "Run",
    "concerns",
    "due",
    "found",
    "pending",
    "resume",
    "step",
    "untold",
    "wake",
]
