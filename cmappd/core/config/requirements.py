"""Whether applications can have what they require: a question to all of them together.

A stanza that did not change can become wrong, or right, because another one changed. So this
is asked at each reload, of what would be in force.
"""

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from cmappd.core.config.problems import Problem, dotted
from cmappd.core.config.schema import Application
from cmappd.core.config.stanzas import Stanza


def quarantine(
    apps: dict[str, Application],
    last: Mapping[str, Application],
    stanzas: Mapping[str, Stanza],
) -> list[Problem]:
    """Put back, in ``apps``, the last good definitions of those that cannot have what they require.

    ``stanzas`` are those of the definitions that require others, and are none of the last good
    ones. What has no last good definition leaves ``apps``; that may leave others without it, and
    a definition that is put back may require other things. So it is asked until all is well,
    which it becomes, because each time there are fewer that are new.
    """
    fresh = {name: stanza for name, stanza in stanzas.items() if name in apps}
    problems = []
    while wrong := {name: text for name, text in _wrong(apps) if name in fresh}:
        for name, text in wrong.items():
            path = ("apps", name, "requires")
            stanza = fresh.pop(name)
            problems.append(Problem(stanza.file, stanza.line(path), dotted(path), text, name))
            del apps[name]
            if name in last:
                apps[name] = last[name]
    return problems


def _wrong(apps: Mapping[str, Application]) -> Iterator[tuple[str, str]]:
    """The applications that ask for what cannot be, and what is wrong with that."""
    for name, app in apps.items():
        missing = [f"'{one}'" for one in app.requires if one not in apps]
        if missing:
            yield name, f"there is no good definition of {', '.join(missing)}"
    for name, circle in _circle(apps):
        yield name, f"it requires itself: {' requires '.join(circle)}"


def _circle(apps: Mapping[str, Application]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """One circle of requirements, if there is any: as each of its members has to see it."""
    try:
        TopologicalSorter({name: app.requires for name, app in apps.items()}).prepare()
    except CycleError as error:
        members = error.args[1][:0:-1]  # the first is there twice, and requires the last
        for at, name in enumerate(members):
            yield name, (*members[at:], *members[:at], name)
