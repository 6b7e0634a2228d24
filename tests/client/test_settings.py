"""cmappmgr.toml: what is read from it, and what is said of mistakes."""

from pathlib import Path

import pytest

from cmappd.client.settings import Guest, Intervals, load, parse_address
from cmappd.errors import ConfigError, UsageError

TLS = '[tls]\ncertificate = "c"\nkey = "k"\nca = "a"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "cka":
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, text: str) -> str:
    path = folder / "cmappmgr.toml"
    path.write_text(text)
    return str(path)


def problems(folder: Path, text: str) -> list[str]:
    path = write(folder, text)
    with pytest.raises(ConfigError) as raised:
        load(path)
    return str(raised.value).replace(path, "FILE").splitlines()


def test_everything(folder: Path) -> None:
    settings = load(
        write(
            folder,
            'guest = "g1"\n[guests.g1]\naddress = "192.0.2.1"\n'
            '[guests.g2]\naddress = "[2001:db8::1]:99"\nserver_name = "other"\n'
            + TLS
            + '[manager]\npoll_interval = "1s"\nlost_after = "1m30s"\n',
        )
    )
    assert settings.guest(None) == Guest("g1", "192.0.2.1", 5315, "g1")
    assert settings.guest("g2") == Guest("g2", "2001:db8::1", 99, "other")
    hint = f"'host:1' is none of the guests in {settings.file} (g1, g2)"
    assert settings.guest("host:1") == Guest("host:1", "host", 1, "host", hint)
    assert settings.tls.certificate == str(folder / "c")
    assert settings.intervals == Intervals(poll_interval=1.0, lost_after=90.0)


def test_one_guest_needs_no_default(folder: Path) -> None:
    settings = load(write(folder, '[guests.g1]\naddress = "h"\n' + TLS))
    assert settings.guest(None).name == "g1"


def test_which_guest_is_meant_must_be_known(folder: Path) -> None:
    settings = load(write(folder, '[guests.g1]\naddress = "h"\n[guests.g2]\naddress = "i"\n' + TLS))
    with pytest.raises(UsageError, match="one of g1, g2"):
        settings.guest(None)
    with pytest.raises(UsageError, match="cannot use --guest"):
        settings.guest("a:b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h", ("h", 5315)),
        ("h:1", ("h", 1)),
        ("::1", ("::1", 5315)),
        ("[::1]", ("::1", 5315)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":1", "h:", "h:0", "h:65536", "h:x", "[::1", "[::1]x", "a b", "a/b", "h:²"]
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError, match='must be "HOST"'):
        parse_address(text)


def test_each_problem_has_file_line_and_key(folder: Path) -> None:
    assert problems(
        folder,
        '[guests.g1]\nadress = "h"\n[manager]\npoll_interval = "31s"\nlost_after = 30\n'
        '[tls]\ncertificate = "c"\nkey = "missing"\nca = ""\n[colour]\n',
    ) == [
        "FILE:10: colour: unknown key",
        "FILE:2: guests.g1.adress: unknown key: did you mean 'address'?",
        "FILE:1: guests.g1: address is required",
        f"FILE:8: tls.key: cannot read {folder}/missing: No such file or directory",
        "FILE:9: tls.ca: must be a string that is not empty",
        'FILE:4: manager.poll_interval: must be from "500ms" to "30s"',
        'FILE:5: manager.lost_after: must be a duration such as "10s", "1m30s" or "500ms"',
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "FILE: the table [tls] is required, with certificate, key and ca"),
        ("[tls]\n", "FILE:1: tls: certificate is required"),
        (TLS + '[manager]\nguest = "g"', "FILE:6: manager.guest: unknown key"),
        ('guest = "g1"\n' + TLS, "FILE:1: guest: there is no [guests.g1]"),
        ("guests = 3\n" + TLS, "FILE:1: guests: must be a table"),
        ("guests.g1 = 3\n" + TLS, "FILE:1: guests.g1: must be a table"),
    ],
)
def test_other_problems(folder: Path, text: str, said: str) -> None:
    assert said in problems(folder, text)


def test_what_cannot_be_read_at_all(folder: Path) -> None:
    assert "cannot read FILE: " in problems(folder, "= 3")[0]
    (folder / "latin").write_bytes(b'guest = "\xe9"')
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(str(folder / "latin"))
    with pytest.raises(ConfigError, match="No such file"):
        load(str(folder / "nothing"))
