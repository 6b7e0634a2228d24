import grp
import os
import pwd

import pytest

from cmappd.errors import LaunchError
from cmappd.system.users import account

OWN = pwd.getpwuid(os.geteuid())


def test_nothing_asked_for_is_no_account() -> None:
    assert account(None, None, None) is None


@pytest.mark.parametrize("user", [OWN.pw_name, str(OWN.pw_uid)])
def test_ones_own_user_by_name_and_by_number(user: str) -> None:
    found = account(user, None, None)
    assert found is not None
    assert (found.uid, found.gid) == (OWN.pw_uid, OWN.pw_gid)
    assert (found.name, found.home, found.shell) == (OWN.pw_name, OWN.pw_dir, OWN.pw_shell)


def test_ones_own_group_alone_keeps_the_user() -> None:
    found = account(None, str(os.getegid()), None)
    assert found is not None
    assert (found.uid, found.gid) == (os.geteuid(), os.getegid())


@pytest.mark.parametrize("user", ["no-such-user", "", "-1", "4294967295", "٣"])
def test_an_unknown_user_is_refused_by_name(user: str) -> None:
    with pytest.raises(LaunchError, match=f"^cannot run as user '{user}': there is no such user$"):
        account(user, None, None)


def test_an_unknown_group_is_refused_by_name() -> None:
    with pytest.raises(LaunchError, match=r"^cannot run as group 'nix': there is no such group$"):
        account(None, "nix", None)
    with pytest.raises(LaunchError, match=r"^cannot run as group 'nix': there is no such group$"):
        account(None, None, ["nix"])


def test_a_number_without_an_entry_needs_a_group() -> None:
    with pytest.raises(LaunchError, match=r"'3999999999': it is not in the passwd database.*group"):
        account("3999999999", None, None)


@pytest.mark.root
def test_root_may_ask_for_anybody() -> None:
    nobody = pwd.getpwnam("nobody")
    found = account("nobody", None, None)
    assert found is not None
    assert (found.uid, found.gid) == (nobody.pw_uid, nobody.pw_gid)
    assert found.groups == tuple(os.getgrouplist("nobody", nobody.pw_gid))


@pytest.mark.root
def test_root_chooses_group_and_supplementary_groups() -> None:
    daemon = grp.getgrnam("daemon").gr_gid
    found = account("nobody", "daemon", ["daemon", "7"])
    assert found is not None
    assert (found.gid, found.groups) == (daemon, (daemon, 7))
    plain = account("3999999999", "daemon", [])
    assert plain == (3999999999, daemon, (), "3999999999", "/", "/bin/sh")


@pytest.mark.parametrize(
    ("wish", "refused"),
    [
        (("root", None, None), "user 'root'"),
        ((None, "0", None), "group 0"),
        ((None, None, ["0", "1"]), "supplementary groups 0, 1"),
    ],
)
def test_without_root_only_oneself(
    wish: tuple[str | None, str | None, list[str] | None],
    refused: str,
) -> None:
    """Seen from an ordinary user's process, which root has to become first."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
        try:
            account(*wish)
            os.write(write_end, b"allowed")
        except LaunchError as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end) as answer:
        assert answer.read() == f"cannot run as {refused}: cmappserver must run as root for it"
    os.waitpid(pid, 0)
