"""Files, permissions and locks, with real ones."""

import os
import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmappd.errors import ConfigError, TransientError
from cmappd.system import files

NOBODY = 12345
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


@pytest.fixture
def trusted() -> Iterator[Path]:
    """A directory that root trusts and everybody can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_nobody(code: str, *arguments: str) -> str:
    """What a piece of code prints when an ordinary user runs it; the text of a ConfigError."""
    script = (
        "import os, sys; from cmappd.system import files; from cmappd.errors import ConfigError\n"
        "os.setgroups([]); os.setgid(12345); os.setuid(12345)\n"
        f"try: {code}\n"
        "except ConfigError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


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
        said = as_nobody("files.read_text(sys.argv[1])", str(path))
        assert said == f"cannot read {path}: Permission denied\n"


class TestExpand:
    def test_files_are_sorted_unique_and_without_leftovers(self, tmp_path: Path) -> None:
        for name in (
            *("b.toml", "a.toml", ".hidden.toml", ".#a.toml", "#a.toml#", "a.toml~"),
            *("a.toml.swp", "a.toml.rpmsave", "a.toml.rpmnew", "a.toml.dpkg-old", "c.conf"),
        ):
            (tmp_path / name).touch()
        found = files.expand(f"{tmp_path}/*")
        assert found == [f"{tmp_path}/{name}" for name in ("a.toml", "b.toml", "c.conf")]
        assert files.expand(f"{tmp_path}/.*") == []

    def test_a_path_without_wildcards_is_itself(self, tmp_path: Path) -> None:
        assert files.expand(f"{tmp_path}/none/.a~") == [f"{tmp_path}/none/.a~"]

    def test_nothing_there_is_no_error_and_a_dangling_link_is_shown(self, tmp_path: Path) -> None:
        assert files.expand(f"{tmp_path}/apps.d/*.toml") == []
        (tmp_path / "lost.toml").symlink_to("nowhere")
        assert files.expand(f"{tmp_path}/*.toml") == [f"{tmp_path}/lost.toml"]

    @root
    @pytest.mark.root
    def test_a_directory_that_cannot_be_read_is_not_an_empty_one(self, trusted: Path) -> None:
        (trusted / "apps.d").mkdir(0o700)
        said = as_nobody("files.expand(sys.argv[1])", f"{trusted}/apps.d/*.toml")
        assert said == f"cannot list {trusted}/apps.d: Permission denied\n"


@root
@pytest.mark.root
class TestTrustAsRoot:
    def refused(self, path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            files.check_trusted(str(path))
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
        files.check_trusted(str(path))

    @pytest.mark.parametrize("mode", [0o666, 0o646, 0o602])
    def test_a_file_that_others_can_write(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        text = self.refused(path)
        assert f"has mode {mode:04o}" in text
        self.mend(text)
        files.check_trusted(str(path))

    def test_a_file_that_its_group_can_write(self, path: Path) -> None:
        path.chmod(0o664)
        files.check_trusted(str(path))
        os.chown(path, 0, NOBODY)
        path.chmod(0o664)
        self.mend(self.refused(path))
        files.check_trusted(str(path))

    def test_a_file_and_a_directory_of_another_user(self, path: Path) -> None:
        os.chown(path, NOBODY, 0)
        os.chown(path.parent, NOBODY, 0)
        text = self.refused(path)
        assert len(text.splitlines()) == 2
        assert f"belongs to {NOBODY}" in text
        self.mend(text)
        files.check_trusted(str(path))

    def test_a_directory_that_others_can_write(self, path: Path) -> None:
        path.parent.chmod(0o777)
        text = self.refused(path)
        assert f"{path.parent} has mode 0777" in text
        self.mend(text)
        files.check_trusted(str(path))

    def test_a_sticky_directory_protects_what_is_roots(self, path: Path) -> None:
        path.parent.chmod(0o1777)
        files.check_trusted(str(path))
        os.chown(path, NOBODY, 0)
        assert "belongs to" in self.refused(path)

    def test_links_are_followed_through_every_directory(self, path: Path, trusted: Path) -> None:
        (trusted / "links").mkdir(0o755)
        link = trusted / "links/a.toml"
        link.symlink_to("../hop/a b.toml")
        (trusted / "hop").symlink_to(path.parent)
        files.check_trusted(str(link))
        path.parent.chmod(0o777)
        assert f"{path.parent} has mode 0777" in self.refused(link)
        path.parent.chmod(0o755)
        (trusted / "links").chmod(0o1777)
        files.check_trusted(str(link))
        os.lchown(link, NOBODY, 0)
        text = self.refused(link)
        self.mend(text)
        files.check_trusted(str(link))

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
        files.check_private(str(key))
        key.chmod(0o644)
        with pytest.raises(ConfigError, match=r"to mend it: chmod 06[04]0"):
            files.check_private(str(key))

    @root
    @pytest.mark.root
    def test_group_may_read_a_key_of_root_only(self, trusted: Path) -> None:
        key = trusted / "key"
        key.touch(0o640)
        files.check_private(str(key))
        os.chown(key, NOBODY, NOBODY)
        with pytest.raises(ConfigError, match="belongs to"):
            files.check_private(str(key))

    @root
    @pytest.mark.root
    def test_rules_of_an_ordinary_user(self, trusted: Path) -> None:
        path = trusted / "key"
        path.touch()
        path.chmod(0o666)
        check_trusted = "files.check_trusted(sys.argv[1])"
        check_private = "files.check_private(sys.argv[1])"
        assert as_nobody(check_trusted, str(path)) == ""
        assert "has mode 0666" in as_nobody(check_private, str(path))
        os.chown(path, NOBODY, NOBODY)
        assert as_nobody(check_trusted, str(path)) == ""
        path.chmod(0o640)
        assert "at most 0600" in as_nobody(check_private, str(path))
        path.chmod(0o600)
        assert as_nobody(check_private, str(path)) == ""
        os.chown(path, NOBODY + 1, NOBODY)
        assert "belongs to 12346" in as_nobody(check_trusted, str(path))
        assert "belongs to 12346" in as_nobody(check_private, str(path))


class TestDirectories:
    def test_defaults(self) -> None:
        assert files.default_paths(True, {"XDG_RUNTIME_DIR": "/x"}) == files.Paths(
            "/run/cmappd/control.sock", "/run/cmappd", "/var/lib/cmappd", "/var/log/cmappd"
        )
        environ = {"XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/home/u"}
        assert files.default_paths(False, environ) == files.Paths(
            "/run/user/7/cmappd/control.sock",
            "/run/user/7/cmappd",
            "/home/u/.local/state/cmappd",
            "/home/u/.local/state/cmappd/log",
        )
        found = files.default_paths(False, {"XDG_RUNTIME_DIR": "odd", "XDG_STATE_HOME": "/s"})
        assert found.state_directory == f"/tmp/cmappd-{os.getuid()}"
        assert found.log_directory == "/s/cmappd/log"

    def test_a_private_directory_is_made_and_taken_again(self, tmp_path: Path) -> None:
        path = tmp_path / "deep/down"
        for _ in range(2):
            files.private_directory(str(path))
            assert stat.S_IMODE(path.stat().st_mode) == 0o700

    def test_others_may_pass_where_that_is_wanted_whatever_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0o077)
        try:
            files.private_directory(str(tmp_path / "sockets"), 0o711)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "sockets").stat().st_mode) == 0o711

    def test_what_is_not_ours_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir(0o700)
        (tmp_path / "link").symlink_to("real")
        (tmp_path / "file").touch()
        for name in ("link", "file"):
            with pytest.raises(ConfigError, match="not a directory"):
                files.private_directory(str(tmp_path / name))
        (tmp_path / "real").chmod(0o770)
        with pytest.raises(ConfigError, match="to mend it: chmod go-w"):
            files.private_directory(str(tmp_path / "real"))

    @root
    @pytest.mark.root
    def test_a_directory_of_another_user_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "theirs").mkdir(0o700)
        os.chown(tmp_path / "theirs", NOBODY, NOBODY)
        with pytest.raises(ConfigError, match=f"belongs to {NOBODY}"):
            files.private_directory(str(tmp_path / "theirs"))


class TestLock:
    def test_a_second_server_is_told_who_holds_it(self, tmp_path: Path) -> None:
        path = str(tmp_path / "lock")
        script = (
            "import sys, time; from cmappd.system import files\n"
            "fds = files.lock(sys.argv[1]); print('held', flush=True); time.sleep(60)\n"
        )
        command = [sys.executable, "-c", script, path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            before = os.listdir("/proc/self/fd")
            with pytest.raises(ConfigError, match=rf"pid {holder.pid}\)"):
                files.lock(path)
            assert os.listdir("/proc/self/fd") == before
            holder.kill()
        fds = files.lock(path)
        assert Path(path).read_text() == f"{os.getpid()}\n"
        for fd in fds:
            os.close(fd)

    @pytest.mark.parametrize("earlier", [False, True])
    def test_it_holds_when_its_file_is_gone(self, earlier: bool, tmp_path: Path) -> None:
        """Also where an earlier version, which locked the file alone, has passed that on."""
        path = str(tmp_path / "lock")
        fds = files.lock(path)
        if earlier:
            os.close(fds.pop())
            fds = files.lock(path, fds)
        os.unlink(path)
        with pytest.raises(ConfigError, match="uses this state directory"):
            files.lock(path)
        os.close(fds.pop())
        again = files.lock(path)
        for fd in (*fds, *again):
            os.close(fd)

    def test_no_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot lock"):
            files.lock(str(tmp_path / "no/lock"))
