"""What peers do wrong, in a log that stays short."""

import logging

from cmappd.server.complaints import MAX_KINDS, OTHERS, Complaints


def collected() -> tuple[Complaints, list[str]]:
    lines: list[str] = []
    logger = logging.Logger("test")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    return Complaints(logger), lines


def test_the_first_of_a_kind_is_told_and_of_the_others_how_many_there_were() -> None:
    complaints, lines = collected()
    for _ in range(5):
        complaints.add("connections refused", "1.2.3.4:5: disconnected")
    complaints.add("denials of vmhost1", "vmhost1 at 1.2.3.4:6: denied")
    assert lines == ["1.2.3.4:5: disconnected", "vmhost1 at 1.2.3.4:6: denied"]
    lines.clear()
    complaints.sweep()
    assert lines == ["4 more connections refused"]
    lines.clear()
    complaints.sweep()
    assert lines == []
    complaints.add("connections refused", "again")
    assert lines == ["again"]


def test_there_is_a_bound_for_the_kinds() -> None:
    complaints, lines = collected()
    for number in range(3 * MAX_KINDS):
        complaints.add(f"denials of vmhost{number}", "denied")
    assert len(lines) == MAX_KINDS + 1
    lines.clear()
    complaints.sweep()
    assert lines == [f"{2 * MAX_KINDS - 1} more {OTHERS}"]
