"""Files, with real ones."""

import os
import stat
from pathlib import Path

import pytest

from cmappd.errors import ConfigError, TransientError
from cmappd.system import files

from .nobody import as_nobody, root, trusted

__all__ = ["trusted"]


class TestWriteAtomic:
    def test_the_file_is_replaced_with_the_mode_asked_for(self, tmp_path: Path) -> None:
        path = tmp_path / "state"
        files.write_atomic(str(path), b"one")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        inode = path.stat().st_ino
        old_umask = os.umask(0o077)
        try:
            files.write_atomic(str(path), b"two", 0o644)
        finally:
            os.umask(old_umask)
        assert path.read_bytes() == b"two"
        assert path.stat().st_ino != inode
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert list(tmp_path.iterdir()) == [path]

    def test_a_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        files.write_atomic("state", b"one")
        assert (tmp_path / "state").read_bytes() == b"one"

    def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "state"
        path.mkdir()
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError, match="directory"):
            files.write_atomic(str(path), b"two")
        assert list(tmp_path.iterdir()) == [path]
        assert os.listdir("/proc/self/fd") == before


class TestReadText:
    def test_text(self, tmp_path: Path) -> None:
        path = tmp_path / "a.toml"
        path.write_text("name = 'ä'\n")
        assert files.read_text(str(path)) == "name = 'ä'\n"

    def test_what_is_missing_or_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=f"cannot read {tmp_path}/no: No such file"):
            files.read_text(f"{tmp_path}/no")
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ConfigError, match="Is a directory"):
            files.read_text(str(tmp_path))
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(ConfigError, match="not a regular file"):
            files.read_text(str(tmp_path / "fifo"))
        assert os.listdir("/proc/self/fd") == before

    def test_what_may_pass_is_told_from_what_is_to_be_mended(self, tmp_path: Path) -> None:
        with pytest.raises(TransientError, match="Input/output error"):
            files.read_text("/proc/self/mem")
        with pytest.raises(ConfigError) as caught:
            files.read_text(str(tmp_path / "missing"))
        assert not isinstance(caught.value, TransientError)

    def test_what_is_too_large(self, tmp_path: Path) -> None:
        path = tmp_path / "a.toml"
        path.write_bytes(b"x" * 100)
        assert len(files.read_text(str(path), limit=100)) == 100
        with pytest.raises(ConfigError, match="larger than 99 bytes"):
            files.read_text(str(path), limit=99)

    def test_what_is_not_utf8_is_told_with_its_line(self, tmp_path: Path) -> None:
        path = tmp_path / "a.toml"
        path.write_bytes(b"one\ntwo\nthr\xe9e\n")
        with pytest.raises(ConfigError, match=r"a\.toml: line 3 \(byte 11\) is not UTF-8"):
            files.read_text(str(path))

    @root
    @pytest.mark.root
    def test_what_is_forbidden(self, trusted: Path) -> None:
        path = trusted / "a.toml"
        path.touch(0o600)
        said = as_nobody("cmappd.system.files", "read_text(sys.argv[1])", str(path))
        assert said == f"cannot read {path}: Permission denied\n"
