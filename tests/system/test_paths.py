import os

from cmappd.system.paths import Paths, default_paths


def test_defaults() -> None:
    assert default_paths(True, {"XDG_RUNTIME_DIR": "/x"}) == Paths(
        "/run/cmappd/control.sock", "/run/cmappd", "/var/lib/cmappd", "/var/log/cmappd"
    )
    environ = {"XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/home/u"}
    assert default_paths(False, environ) == Paths(
        "/run/user/7/cmappd/control.sock",
        "/run/user/7/cmappd",
        "/home/u/.local/state/cmappd",
        "/home/u/.local/state/cmappd/log",
    )
    found = default_paths(False, {"XDG_RUNTIME_DIR": "odd", "XDG_STATE_HOME": "/s"})
    assert found.state_directory == f"/tmp/cmappd-{os.getuid()}"
    assert found.log_directory == "/s/cmappd/log"
