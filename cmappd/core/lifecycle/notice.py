"""What an application says of itself, by sd_notify(3), and what follows from it in each phase.

As in systemd: its readiness, an extension of the time it has, and its pings count. That it stops is
no request: the end that follows is an end by itself. Until then it has ``stop.timeout`` in which
nothing is held against it, because what stops answers no checks.
"""

from msgspec.structs import replace

from cmappd.core.events import Notified
from cmappd.core.lifecycle import watchdog
from cmappd.core.lifecycle.app import App, Run, Step, enter, live_run, readiness
from cmappd.core.sd_notify import Notification
from cmappd.core.state import Announced, Part, Phase

# Seconds. It may ask for more again and again, but must speak so often: nothing waits for ever.
LONGEST_EXTENSION = 3600.0


def notified_starting(app: App, event: Notified, now: float) -> Step:
    app = _note(app, event.word)
    if isinstance(readiness(app), str) or live_run(app).pid is None:
        app = _extend(app, event.word, now)
    return ready_if_said(app, now), ()


def notified_running(app: App, event: Notified, now: float) -> Step:
    word, announced = event.word, live_run(app).announced
    app = _note(app, word)
    run = live_run(app)
    if run.announced is Announced.STOPPING and announced is not Announced.STOPPING:
        run = _excused(run, now + app.definition.stop.timeout)
    if word.extend_timeout is not None:
        asked = _asked_until(word, now)
        run = _excused(run, asked) if run.excused is not None else _patient(run, asked)
    app = replace(app, run=run)
    if word.watchdog == "trigger":
        return watchdog.fail(app, "it said so itself, by WATCHDOG=trigger", now)
    if word.watchdog == "ping":
        return watchdog.pinged(app, now), ()
    if word.watchdog_timeout is not None:
        app = replace(app, run=watchdog.wound(app, run, now))
    return app, ()


def notified_stopping(app: App, event: Notified, now: float) -> Step:
    app = _note(app, event.word)
    if live_run(app).part is Part.AFTER:  # nothing of it is left that could need more time
        return app, ()
    if app.definition.manager.on_lost == "stop":  # by then another guest may have started it
        return app, ()
    return _extend(app, event.word, now), ()


def ready_if_said(app: App, now: float) -> App:
    """RUNNING, when that is what was awaited, and it has said so; before, too."""
    run = live_run(app)
    said = run.announced is Announced.READY and run.pid is not None
    return watchdog.ready(app, run, now) if said and readiness(app) == "notify" else app


def _note(app: App, word: Notification) -> App:
    run = live_run(app)
    if word.status is not None:
        run = replace(run, status_text=word.status)
    if word.watchdog_timeout is not None:
        run = replace(run, chosen=word.watchdog_timeout)
    return replace(app, run=replace(run, announced=_announced(run.announced, word)))


def _announced(before: Announced, word: Notification) -> Announced:
    if before is Announced.STOPPING or word.stopping:
        return Announced.STOPPING
    if word.ready:  # with RELOADING=1, the end of that
        return Announced.READY
    return Announced.RELOADING if word.reloading else before


def _extend(app: App, word: Notification, now: float) -> App:
    if word.extend_timeout is None or app.deadline is None:
        return app
    run, asked = live_run(app), _asked_until(word, now)
    if run.limit is not None and app.phase is Phase.STARTING:
        run = replace(run, limit=max(run.limit, asked))
    return enter(app, app.phase, max(app.deadline, asked), run)


def _asked_until(word: Notification, now: float) -> float:
    return now + min(word.extend_timeout or 0.0, LONGEST_EXTENSION)


def _excused(run: Run, until: float) -> Run:
    return _patient(replace(run, excused=max(run.excused or until, until)), until)


def _patient(run: Run, until: float) -> Run:
    """Await no ping before then."""
    return run if run.ping_due is None else replace(run, ping_due=max(run.ping_due, until))
