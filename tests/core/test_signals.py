import signal

from cmappd.core import signals


def test_the_names_are_the_system_s() -> None:
    named = {one.value: one.name for one in signal.Signals if not one.name.startswith("SIGRT")}
    assert named == signals.NAMES


def test_signals_for_people() -> None:
    assert signals.text(9) == "SIGKILL (signal 9)"
    assert signals.text(40) == "signal 40"
