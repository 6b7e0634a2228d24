"""Files in the directories of others, where real links lie on the way."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmappd.system import directory

STRANGER = 12345


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        (Path(name) / "real/deep").mkdir(parents=True)
        (Path(name) / "real/file").write_text("content")
        yield Path(name)


def read(path: Path | str) -> str:
    with directory.fixed(str(path)) as held, open(held) as file:
        return file.read()


def open_now() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("unused", "real/file"),
        ("unused", "real//deep/./../file"),
        ("{place}/real", "link/file"),
        ("real", "link/file"),
        ("real/deep/", "link/../file"),
        ("./other/../real", "link/file"),
    ],
)
def test_it_goes_where_the_kernel_goes(place: Path, target: str, path: str) -> None:
    (place / "other").symlink_to("real/deep")
    (place / "link").symlink_to(target.format(place=place))
    (place / "real/real").symlink_to(".")  # "other/../real" begins at what "other" leads to
    before = open_now()
    assert read(f"{place}/{path}") == "content"
    assert open_now() == before


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("no/file", "No such file"),
        ("real/file/file", "Not a directory"),
        ("circle/file", "Too many levels"),
    ],
)
def test_what_cannot_be_reached(place: Path, path: str, why: str) -> None:
    (place / "circle").symlink_to("circle")
    before = open_now()
    with pytest.raises(OSError, match=why):
        read(place / path)
    assert open_now() == before


def test_the_last_name_is_left_to_who_opens_it(place: Path) -> None:
    (place / "real/link").symlink_to("file")
    with directory.fixed(f"{place}/real/link") as held:
        assert os.readlink(held) == "file"


def test_what_is_put_in_the_way_meanwhile_leads_nowhere(place: Path) -> None:
    (place / "other").mkdir()
    with directory.fixed(f"{place}/real/new") as held:
        (place / "real").rename(place / "moved")
        (place / "real").symlink_to("other")
        Path(held).write_text("here")
    assert (place / "moved/new").read_text() == "here"
    assert list((place / "other").iterdir()) == []


@pytest.mark.root
@pytest.mark.parametrize(("uid", "trusted"), [(0, True), (1000, True), (STRANGER, False)])
def test_an_ordinary_user_follows_links_of_its_own_and_of_root(
    place: Path, uid: int, trusted: bool
) -> None:
    (place / "link").symlink_to("real")
    os.chown(place / "link", uid, uid, follow_symlinks=False)
    before = open_now()
    os.seteuid(1000)
    try:
        if trusted:
            assert read(place / "link/file") == "content"
        else:
            with pytest.raises(OSError, match="belongs to uid 12345"):
                read(place / "link/file")
    finally:
        os.seteuid(0)
    assert open_now() == before


@pytest.mark.root
def test_root_is_not_led_by_a_stranger_and_says_what_to_do(place: Path) -> None:
    (place / "far").symlink_to("a link")
    (place / "a link").symlink_to("real")
    os.chown(place / "a link", STRANGER, STRANGER, follow_symlinks=False)
    command = f"chown -h 0 '{place}/a link'"
    text = f"the symbolic link {place}/a link belongs to uid {STRANGER}, .*: {command}"
    with pytest.raises(OSError, match=text) as raised:
        read(place / "far/file")
    assert re.search(text, raised.value.strerror or "")
    assert os.system(command) == 0
    assert read(place / "far/file") == "content"
