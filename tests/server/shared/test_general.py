"""What is kept of the main file: it comes back as it was, and nothing is guessed from another."""

from pathlib import Path

import pytest

from cmappd.core.config import Config, Source, parse, settle
from cmappd.server.shared import general
from tests.system.nobody import root

MAIN = "/etc/cmappd/cmappserver.toml"
FULL = """
[server]
listen = ["0.0.0.0:5315", "[::]:5315"]
include = ["apps.d/*.toml"]
on_shutdown = "keep"
control = "/c"
state_directory = "state"
log_format = "json"
[tls]
certificate = "a"
key = "b"
ca = "c"
crl = "d"
[managers.host]
apps = ["*"]
[managers.other]
apps = ["db", "web"]
[apps.db]
command = ["/db"]
"""


@pytest.mark.parametrize("text", ["", FULL])
def test_what_is_kept_comes_back_without_the_applications(tmp_path: Path, text: str) -> None:
    config = settle(None, parse(MAIN, [Source(MAIN, text)]), "/var/log/cmappd")
    assert config.problems == ()
    general.save(str(tmp_path), "boot", MAIN, config)
    bare = Config(config.server, config.tls, config.managers, {}, {}, (), config.manager_origins)
    assert general.load(str(tmp_path), "boot", MAIN) == bare


def test_what_is_of_no_use_is_not_used(tmp_path: Path) -> None:
    assert general.load(str(tmp_path), "boot", MAIN) is None
    config = settle(None, parse(MAIN, [Source(MAIN, FULL)]), "/var/log/cmappd")
    general.save(str(tmp_path), "boot", MAIN, config)
    assert general.load(str(tmp_path), "another boot", MAIN) is None
    assert general.load(str(tmp_path), "boot", "/etc/another.toml") is None
    file = tmp_path / general.NAME
    good = file.read_text()
    for bad in ("", "{", good.replace('"keep"', '"kept"'), good.replace('"tls"', '"tsl"')):
        file.write_text(bad)
        assert general.load(str(tmp_path), "boot", MAIN) is None
    file.write_text(good)
    assert general.load(str(tmp_path), "boot", MAIN) is not None


@root
@pytest.mark.root
def test_what_others_could_write_is_not_used(tmp_path: Path) -> None:
    config = settle(None, parse(MAIN, [Source(MAIN, FULL)]), "/var/log/cmappd")
    general.save(str(tmp_path), "boot", MAIN, config)
    (tmp_path / general.NAME).chmod(0o666)
    assert general.load(str(tmp_path), "boot", MAIN) is None
