"""Whom files, keys and directories can be trusted to belong to, with real ones."""

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from cmappd.errors import ConfigError
from cmappd.system import trust

from .nobody import NOBODY, as_nobody, root, trusted

__all__ = ["trusted"]


@root
@pytest.mark.root
class TestTrustAsRoot:
    def refused(self, path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            trust.check_trusted(str(path))
        return str(caught.value)

    def mend(self, text: str) -> None:
        """Do what the message says."""
        for problem in text.splitlines():
            subprocess.run(shlex.split(problem.split("to mend it: ")[1]), check=True)

    @pytest.fixture
    def path(self, trusted: Path) -> Path:
        (trusted / "conf").mkdir(0o755)
        path = trusted / "conf/a b.toml"
        path.touch(0o644)
        return path

    def test_what_only_root_can_write_is_trusted(self, path: Path) -> None:
        trust.check_trusted(str(path))

    @pytest.mark.parametrize("mode", [0o666, 0o646, 0o602])
    def test_a_file_that_others_can_write(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        text = self.refused(path)
        assert f"has mode {mode:04o}" in text
        self.mend(text)
        trust.check_trusted(str(path))

    def test_a_file_that_its_group_can_write(self, path: Path) -> None:
        path.chmod(0o664)
        trust.check_trusted(str(path))
        os.chown(path, 0, NOBODY)
        path.chmod(0o664)
        self.mend(self.refused(path))
        trust.check_trusted(str(path))

    def test_a_file_and_a_directory_of_another_user(self, path: Path) -> None:
        os.chown(path, NOBODY, 0)
        os.chown(path.parent, NOBODY, 0)
        text = self.refused(path)
        assert len(text.splitlines()) == 2
        assert f"belongs to {NOBODY}" in text
        self.mend(text)
        trust.check_trusted(str(path))

    def test_a_directory_that_others_can_write(self, path: Path) -> None:
        path.parent.chmod(0o777)
        text = self.refused(path)
        assert f"{path.parent} has mode 0777" in text
        self.mend(text)
        trust.check_trusted(str(path))

    def test_a_sticky_directory_protects_what_is_roots(self, path: Path) -> None:
        path.parent.chmod(0o1777)
        trust.check_trusted(str(path))
        os.chown(path, NOBODY, 0)
        assert "belongs to" in self.refused(path)

    def test_links_are_followed_through_every_directory(self, path: Path, trusted: Path) -> None:
        (trusted / "links").mkdir(0o755)
        link = trusted / "links/a.toml"
        link.symlink_to("../hop/a b.toml")
        (trusted / "hop").symlink_to(path.parent)
        trust.check_trusted(str(link))
        path.parent.chmod(0o777)
        assert f"{path.parent} has mode 0777" in self.refused(link)
        path.parent.chmod(0o755)
        (trusted / "links").chmod(0o1777)
        trust.check_trusted(str(link))
        os.lchown(link, NOBODY, 0)
        text = self.refused(link)
        self.mend(text)
        trust.check_trusted(str(link))

    def test_dots_after_a_link_are_the_targets(self, path: Path, trusted: Path) -> None:
        (trusted / "elsewhere/deep").mkdir(0o755, parents=True)
        (trusted / "link").symlink_to("elsewhere/deep")
        (trusted / "elsewhere/b.toml").touch(0o666)
        (trusted / "elsewhere/b.toml").chmod(0o666)
        assert "elsewhere/b.toml has mode" in self.refused(Path(f"{trusted}/link/../b.toml"))

    def test_a_loop_and_a_missing_file(self, trusted: Path) -> None:
        (trusted / "loop").symlink_to("loop")
        assert "too many symbolic links" in self.refused(trusted / "loop")
        assert "No such file" in self.refused(trusted / "no")


class TestPrivate:
    def test_a_key_of_our_own(self, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.touch(0o600)
        trust.check_private(str(key))
        key.chmod(0o644)
        with pytest.raises(ConfigError, match=r"to mend it: chmod 06[04]0"):
            trust.check_private(str(key))

    @root
    @pytest.mark.root
    def test_group_may_read_a_key_of_root_only(self, trusted: Path) -> None:
        key = trusted / "key"
        key.touch(0o640)
        trust.check_private(str(key))
        os.chown(key, NOBODY, NOBODY)
        with pytest.raises(ConfigError, match="belongs to"):
            trust.check_private(str(key))

    @root
    @pytest.mark.root
    def test_rules_of_an_ordinary_user(self, trusted: Path) -> None:
        path = trusted / "key"
        path.touch()
        path.chmod(0o666)
        check_trusted = "check_trusted(sys.argv[1])"
        check_private = "check_private(sys.argv[1])"
        assert as_nobody("cmappd.system.trust", check_trusted, str(path)) == ""
        assert "has mode 0666" in as_nobody("cmappd.system.trust", check_private, str(path))
        os.chown(path, NOBODY, NOBODY)
        assert as_nobody("cmappd.system.trust", check_trusted, str(path)) == ""
        path.chmod(0o640)
        assert "at most 0600" in as_nobody("cmappd.system.trust", check_private, str(path))
        path.chmod(0o600)
        assert as_nobody("cmappd.system.trust", check_private, str(path)) == ""
        os.chown(path, NOBODY + 1, NOBODY)
        assert "belongs to 12346" in as_nobody("cmappd.system.trust", check_trusted, str(path))
        assert "belongs to 12346" in as_nobody("cmappd.system.trust", check_private, str(path))


class TestDirectories:
    def test_a_private_directory_is_made_and_taken_again(self, tmp_path: Path) -> None:
        path = tmp_path / "deep/down"
        for _ in range(2):
            trust.private_directory(str(path))
            assert stat.S_IMODE(path.stat().st_mode) == 0o700

    def test_others_may_pass_where_that_is_wanted_whatever_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0o077)
        try:
            trust.private_directory(str(tmp_path / "sockets"), 0o711)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "sockets").stat().st_mode) == 0o711

    def test_what_is_not_ours_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir(0o700)
        (tmp_path / "link").symlink_to("real")
        (tmp_path / "file").touch()
        for name in ("link", "file"):
            with pytest.raises(ConfigError, match="not a directory"):
                trust.private_directory(str(tmp_path / name))
        (tmp_path / "real").chmod(0o770)
        with pytest.raises(ConfigError, match="to mend it: chmod go-w"):
            trust.private_directory(str(tmp_path / "real"))

    @root
    @pytest.mark.root
    def test_a_directory_of_another_user_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "theirs").mkdir(0o700)
        os.chown(tmp_path / "theirs", NOBODY, NOBODY)
        with pytest.raises(ConfigError, match=f"belongs to {NOBODY}"):
            trust.private_directory(str(tmp_path / "theirs"))
