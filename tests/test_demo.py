"""The demo tells its story to the end, and leaves nothing behind, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

DEMO = Path(__file__).parents[1] / "demo" / "demo.py"
PATIENCE = 50.0


def _environment(folder: Path) -> dict[str, str]:
    """As of an ordinary user's shell, with the demo's folder made in ours."""
    return {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}


def _left(folder: Path) -> list[object]:
    """The files in the folder, and the processes that work in it."""
    found: list[object] = list(folder.iterdir())
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(folder)):
                found.append(process)
        except psutil.Error:
            pass  # it has ended meanwhile, or belongs to somebody else
    return found


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its name is short, because it is in the path of the demo's control socket."""
    return tmp_path_factory.mktemp("demo")


def test_the_story(folder: Path) -> None:
    result = subprocess.run(
        [sys.executable, DEMO],
        env=_environment(folder),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (result.returncode, result.stderr) == (0, "")
    story = iter(result.stdout.splitlines())
    for expected in (
        "$ cmappctl pki init --dir pki",
        "$ cmappserver --config cmappserver.toml &",
        "$ cmappmgr --app web --config cmappmgr.toml &",
        "web   running  healthy",
        "$ kill -KILL ",
        "last health output: 200",
        "last log: 127.0.0.1 - - ",
        "exit 137, app",
        "cmappmgr has ended with exit code 137",
        "restart pending",
        "did you mean 'interval'?",
        "cmappmgr has ended with exit code 0",
        "web   stopped",
        "cmappserver has ended with exit code 0",
    ):
        assert any(expected in line for line in story), f"not told, or out of order: {expected}"
    assert _left(folder) == []


@pytest.mark.parametrize(
    ("moment", "signum"),
    [
        ("$ cmappctl pki", signal.SIGINT),
        ("$ cmappserver", signal.SIGINT),
        ("$ cmappmgr", signal.SIGTERM),
        ("web: running", signal.SIGINT),
        ("$ cmappctl --socket", signal.SIGHUP),
    ],
)
def test_an_interruption_leaves_nothing(folder: Path, moment: str, signum: signal.Signals) -> None:
    """The signal goes to the group, as a terminal sends it at Ctrl-C and when it is closed."""
    with subprocess.Popen(
        [sys.executable, DEMO],
        env=_environment(folder),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        told = ""
        for line in demo.stdout:
            told += line
            if moment in line:
                os.killpg(demo.pid, signum)
                break
        told += demo.stdout.read()
        assert demo.wait(PATIENCE) == 130, told
    assert 'demo.py"' not in told, told  # in a traceback of the demo itself
    assert _left(folder) == []
