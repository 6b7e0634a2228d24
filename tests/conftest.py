"""What holds for every test: nothing is left behind, and what must run is not skipped."""

import contextlib
import gc
import os
import shutil
import signal
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

from tests import left_behind, ports

# Set by continuous integration, where a skipped test would pass for a test that passed.
MUST_RUN = os.environ.get("CMAPPD_TEST_MUST_RUN") == "1"
# Seconds in which what a test has told to end must have ended.
SETTLE = 5.0


def pytest_configure() -> None:
    """Hear SIGINT, which a shell has what it starts in the background ignore, and its children.

    No time is asserted: on a busy machine an example takes as long as it takes.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hypothesis.settings.register_profile("cmappd", deadline=None)
    hypothesis.settings.load_profile("cmappd")


# What cannot run, and what must -------------------------------------------------------


def find_postgres() -> Path | None:
    """The directory of initdb and postgres, which Debian keeps off the path."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(versions, key=lambda path: float(path.parts[-3]), default=None)
    found = shutil.which("initdb") or newest
    return None if found is None else Path(found).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs = {
        "root": (os.geteuid() == 0, "needs root"),
        "postgres": (find_postgres() is not None, "needs the PostgreSQL server programs"),
    }
    for item in items:
        for marker, (met, reason) in needs.items():
            if not met and item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if MUST_RUN and report.outcome == "skipped":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"CMAPPD_TEST_MUST_RUN is set, and this was not run: {reason}"


@pytest.fixture(scope="session")
def postgres_programs() -> Path:
    """The directory of initdb and postgres; for tests marked ``postgres``."""
    found = find_postgres()
    assert found is not None
    return found


# What is left behind ------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """After each test: no child process, thread or open file more than before it."""
    before = _held()
    yield
    ports.release()
    deadline = time.monotonic() + SETTLE
    while leaked := _held() - before:
        gc.collect()  # what nobody refers to any more is closed late, and that is no leak
        if time.monotonic() > deadline:
            pytest.fail(f"the test leaves behind: {', '.join(sorted(map(str, leaked)))}")
        time.sleep(0.02)


def _held() -> set[object]:
    return {*_children(os.getpid()), *threading.enumerate(), *_open_files()}


def _children(pid: int) -> Iterator[psutil.Process]:
    """All descendants; read from below, because psutil reads every process there is."""
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError, psutil.NoSuchProcess):  # it has ended meanwhile
            for child in map(int, listing.read_text().split()):
                yield psutil.Process(child)
                yield from _children(child)


def _open_files() -> Iterator[str]:
    directory = "/proc/self/fd"
    for number in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            yield f"fd {number} -> {os.readlink(f'{directory}/{number}')}"


@pytest.fixture(scope="session", autouse=True)
def no_orphans(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """At the end: no process is left that was started for a test, whoever its parent is."""
    yield
    folder = f"{tmp_path_factory.getbasetemp()}/"
    deadline = time.monotonic() + SETTLE
    while left := [process for process in psutil.process_iter() if _is_orphan(process, folder)]:
        if time.monotonic() > deadline:
            pytest.fail(f"processes of the tests are left: {left}")
        time.sleep(0.05)


@pytest.fixture(scope="session", autouse=True)
def no_litter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """At the end: no process, namespace, mount, cgroup or folder of the tests is left."""
    folder = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as monkeypatch:
        folders = left_behind.Folders(monkeypatch)

        def left() -> set[object]:
            return {
                *left_behind.namespaces(),
                *left_behind.mounts(folder),
                *left_behind.cgroups(folder),
                *left_behind.defaults(),
                *folders.left(),
                *_children(os.getpid()),
            }

        before = left()
        yield
        found, deadline = left() - before, time.monotonic() + SETTLE
        while found and time.monotonic() < deadline:
            time.sleep(0.05)
            found &= left()
        folders.close()
    if found:
        pytest.fail(f"the tests leave on the machine: {', '.join(sorted(map(str, found)))}")


def _is_orphan(process: psutil.Process, folder: str) -> bool:
    """Whether it is younger than this one, and speaks of the folder."""
    try:
        if process.create_time() <= psutil.Process().create_time():
            return False
        return folder in f"{process.cwd()} {process.cmdline()} {process.environ()}"
    except psutil.Error:
        return False  # it has ended meanwhile, or belongs to somebody else
