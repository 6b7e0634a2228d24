"""The image of one run of the tests, while another run makes that of another version."""

from pathlib import Path

import pytest

from tests.guest_vm import image as images


def test_what_is_given_stays_when_another_version_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    (cache / "linux-image-1/boot").mkdir(parents=True)
    (cache / "linux-image-1/boot/vmlinuz-1").write_text("kernel")
    monkeypatch.setattr(images, "CACHE", cache)
    monkeypatch.setattr(images, "_make", lambda made, _kernel: made.write_text(made.name))
    given = []
    for version in ("1", "2"):
        monkeypatch.setattr(images, "INIT", version)
        folder = tmp_path / version
        folder.mkdir()
        given.append(images.image(folder))
    assert [one.kernel.read_text() for one in given] == ["kernel", "kernel"]
    assert len({one.initramfs.read_text() for one in given}) == 2
    assert len(list(cache.glob("*.initramfs"))) == 1, "no more than one is kept"
