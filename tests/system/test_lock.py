"""The lock of a state directory, with real processes."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmappd.errors import ConfigError, TransientError
from cmappd.system.lock import hold


def test_a_second_server_is_told_who_holds_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    script = (
        "import sys, time; from cmappd.system.lock import hold\n"
        "fds = hold(sys.argv[1]); print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ConfigError, match=rf"pid {holder.pid}\)"):
            hold(path)
        assert os.listdir("/proc/self/fd") == before
        holder.kill()
    fds = hold(path)
    assert Path(path).read_text() == f"{os.getpid()}\n"
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("earlier", [False, True])
def test_it_holds_when_its_file_is_gone(earlier: bool, tmp_path: Path) -> None:
    """Also where an earlier version, which locked the file alone, has passed that on."""
    path = str(tmp_path / "lock")
    fds = hold(path)
    if earlier:
        os.close(fds.pop())
        fds = hold(path, fds)
    os.unlink(path)
    with pytest.raises(TransientError, match=f"another process holds a lock on {tmp_path}, "):
        hold(path)
    os.close(fds.pop())
    again = hold(path)
    for fd in (*fds, *again):
        os.close(fd)


def test_who_holds_the_directory_alone_is_not_taken_for_a_server(tmp_path: Path) -> None:
    """As what tidies up does for a moment; the file is of a server that has ended."""
    path = str(tmp_path / "lock")
    for fd in hold(path):
        os.close(fd)
    tidier = os.open(tmp_path, os.O_DIRECTORY)
    fcntl.flock(tidier, fcntl.LOCK_EX)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(TransientError) as caught:
        hold(path)
    assert os.listdir("/proc/self/fd") == before
    assert str(caught.value) == (
        f"cannot lock {path}: another process holds a lock on {tmp_path}, perhaps a cmappserver "
        "whose lock file is gone; end it, or configure another state directory"
    )
    os.close(tidier)
    for fd in hold(path):
        os.close(fd)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot lock"):
        hold(str(tmp_path / "no/lock"))
