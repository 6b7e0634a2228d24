"""The figures, by name: each measures, and gives its rows of the table."""

from collections.abc import Callable

from bench.figures import (
    footprint,
    health,
    killed,
    logs,
    manager,
    readopt,
    reload,
    restart,
    start,
    status,
)
from bench.options import Options
from bench.series import Row

FIGURES: dict[str, Callable[[Options], list[Row]]] = {
    "killed": killed.measure,
    "manager": manager.measure,
    "start": start.measure,
    "footprint": footprint.measure,
    "health": health.measure,
    "restart": restart.measure,
    "status": status.measure,
    "logs": logs.measure,
    "destinations": logs.measure_destinations,
    "reload": reload.measure,
    "readopt": readopt.measure,
}
