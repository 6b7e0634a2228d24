"""What is foreseen of an exec is what the kernel then says, or nothing."""

import errno
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmappd.system import executable
from cmappd.system.executable import Attempt, foresee, why

USER = 65534  # of root's making, so nobody's in particular
TRUE = Path("/bin/true").read_bytes()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that all users can enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def written(path: Path, content: str | bytes, mode: int = 0o755) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def attempt(program: str | Path, directory: str | None = None, path: str = "/bin") -> Attempt:
    groups = tuple(os.getgroups())
    return Attempt(str(program), directory, path, os.geteuid(), os.getegid(), groups)


def as_user(program: str | Path, *groups: int) -> Attempt:
    return Attempt(str(program), None, "/bin", USER, USER, groups)


def answer(tried: Attempt) -> int | None:
    """What the kernel says: the errno of an exec, or None for success."""
    options = {}
    if tried.uid != os.geteuid():
        options = {"user": tried.uid, "group": tried.gid, "extra_groups": tried.groups}
    try:
        process = subprocess.Popen(
            [tried.program],
            cwd=tried.directory,
            env={"PATH": tried.path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **options,  # type: ignore[call-overload]
        )
    except OSError as error:
        # Popen tells in which directory a program was not; both mean that there is none.
        return errno.ENOENT if error.errno == errno.ENOTDIR else error.errno
    process.wait()
    return None


def elf_with(**changes: bytes | int) -> bytes:
    """The program true, for another machine, or with another dynamic loader."""
    image = bytearray(TRUE)
    if "machine" in changes:
        image[18:20] = struct.pack("<H", changes["machine"])
    if "loader" in changes:
        name = executable._loader("/bin/true", TRUE[:256])
        assert name is not None
        at = image.index(name.encode())
        image[at : at + len(name)] = bytes(changes["loader"]).ljust(len(name), b"\0")
    return bytes(image)


FILES: dict[str, tuple[str | bytes, int]] = {
    "script": ("#!/bin/sh\n", 0o755),
    "script-with-argument": ("#! /bin/sh -e\n", 0o755),
    "program": (TRUE, 0o755),
    "only-executable": (TRUE, 0o711),
    "not-executable": ("#!/bin/sh\n", 0o644),
    "empty": ("", 0o755),
    "no-line": ("true\n", 0o755),
    "binary": (b"\x00\x01\x02", 0o755),
    "no-interpreter": ("#!\n", 0o755),
    "blank-interpreter": ("#! \t\n", 0o755),
    "interpreter-missing": ("#!/no/sh\n", 0o755),
    "interpreter-in-dos": ("#!/bin/sh\r\n", 0o755),
    "interpreter-below-a-file": ("#!/etc/passwd/sh\n", 0o755),
    "interpreter-not-executable": ("#!/etc/passwd\n", 0o755),
    "interpreter-a-directory": ("#!/usr\n", 0o755),
    "interpreter-with-nul": (b"#!/bin/sh\0x\n", 0o755),
    "interpreter-relative": ("#!script\n", 0o755),
    "loader-missing": (elf_with(loader=b"/no/ld.so"), 0o755),
    "loader-not-executable": (elf_with(loader=b"/etc/passwd"), 0o755),
    "other-machine": (elf_with(machine=0xF00), 0o755),
    "other-machine-and-loader": (elf_with(machine=0xF00, loader=b"/no/ld.so"), 0o755),
}


@pytest.mark.parametrize("name", FILES)
def test_what_the_file_says(folder: Path, name: str) -> None:
    written(folder / "script", "#!/bin/sh\n")
    tried = attempt(f"./{name}", directory=str(folder))
    written(folder / name, *FILES[name])
    assert foresee(tried) == answer(tried)
    absolute = attempt(folder / name, directory=str(folder))
    assert foresee(absolute) == answer(absolute)


@pytest.mark.parametrize("program", ["/no/such", "/etc/passwd/x", "/usr", "/dev/null", "/bin/true"])
def test_what_the_path_says(program: str) -> None:
    assert foresee(attempt(program)) == answer(attempt(program))


def test_what_stands_in_the_path_variable(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
    path = f"{folder}/one:{folder}/two"
    tried = attempt("x", path=path)
    assert foresee(tried) == answer(tried) == errno.ENOENT
    written(folder / "one/x", "#!/bin/sh\n", 0o644)
    assert foresee(tried) == answer(tried) == errno.EACCES
    written(folder / "two/x", "#!/bin/sh\n")
    assert foresee(tried) is answer(tried) is None


@pytest.mark.parametrize(
    "content",
    [
        b"\x7fELF",
        TRUE[:64],
        TRUE[:52] + b"\0" * 12,
        TRUE[:32] + b"\xff" * 32,
        TRUE[:56] + b"\xff\xff" + TRUE[58:],
    ],
)
def test_damaged_programs_are_left_to_the_kernel(folder: Path, content: bytes) -> None:
    assert foresee(attempt(written(folder / "damaged", content))) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([b"", b"#!", b"\x7fELF", TRUE[:16], TRUE[:64]]),
    st.binary(max_size=400),
    st.integers(0, 63),
    st.integers(0, 255),
)
def test_no_file_upsets_it(folder: Path, begin: bytes, rest: bytes, at: int, value: int) -> None:
    image = bytearray(begin + rest)
    if at < len(image):
        image[at] = value
    path = written(folder / "any", bytes(image))
    assert foresee(attempt(path)) in (None, errno.ENOENT, errno.EACCES, errno.ENOEXEC)


def test_a_fifo_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "fifo", 0o755)
    assert foresee(attempt(folder / "fifo")) == answer(attempt(folder / "fifo")) == errno.EACCES
    assert executable._head(str(folder / "fifo")) is None


AS_ORDINARY_USER = """
import os, sys
from cmappd.system.executable import Attempt, foresee, why
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({user}); os.setuid({user})
tried = Attempt({program!r}, None, "/bin", os.geteuid(), os.getegid(), ())
code = foresee(tried)
print(code, code and why(tried, code))
try:
    os.execv({program!r}, ["x"])
except OSError as error:
    print(error.errno)
"""


def test_a_closed_directory_of_an_ordinary_user(folder: Path) -> None:
    program = written(folder / "x", "#!/bin/sh\n")
    folder.chmod(0)
    code = AS_ORDINARY_USER.format(user=USER, program=str(program))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    folder.chmod(0o755)
    uid = os.geteuid() or USER
    assert done.stdout.splitlines() == [
        f"{errno.EACCES} uid {uid} has no permission to execute it, "
        "or to enter a directory above it",
        str(errno.EACCES),
    ]


# Another user ------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("owner", [0, USER])
@pytest.mark.parametrize("group", [0, USER, 1])
@pytest.mark.parametrize("mode", [0o700, 0o070, 0o007, 0o770, 0o755, 0o677, 0o767, 0o776, 0o666])
def test_permission_bits(folder: Path, owner: int, group: int, mode: int) -> None:
    above = folder / "above"
    above.mkdir()
    program = written(above / "x", TRUE)
    for restricted in (program, above):
        os.chown(restricted, owner, group)
        restricted.chmod(mode)
        for tried in (as_user(program), as_user(program, 1)):
            assert foresee(tried) == answer(tried)
        restricted.chmod(0o755)


@pytest.mark.root
def test_permission_for_an_interpreter(folder: Path) -> None:
    interpreter = written(folder / "interpreter", TRUE, 0o700)
    tried = as_user(written(folder / "x", f"#!{interpreter}\n"))
    assert foresee(tried) == answer(tried) == errno.EACCES
    assert why(tried, errno.EACCES).startswith(f"uid {USER} has no permission to execute it")


@pytest.mark.root
def test_permission_behind_a_symbolic_link(folder: Path) -> None:
    for closed, other in (("one", "two"), ("two", "one")):
        for name in (closed, other):
            (folder / name).mkdir()
        written(folder / "two/x", TRUE)
        (folder / "one/link").symlink_to(folder / "two/x")
        tried = as_user(folder / "one/link")
        assert foresee(tried) is answer(tried) is None
        (folder / closed).chmod(0o700)
        assert foresee(tried) == answer(tried) == errno.EACCES
        shutil.rmtree(folder / "one")
        shutil.rmtree(folder / "two")


@pytest.mark.root
def test_what_is_above_the_directory_does_not_matter(folder: Path) -> None:
    inner = folder / "closed" / "inner"
    inner.mkdir(parents=True)
    (folder / "closed").chmod(0o700)
    written(inner / "x", TRUE)
    tried = replace(as_user("./x"), directory=str(inner))
    assert foresee(tried) is answer(tried) is None


@pytest.mark.root
def test_an_access_control_list_may_permit_more(folder: Path) -> None:
    program = written(folder / "x", TRUE, 0o750)
    entries = [(0x01, 7, -1), (0x02, 5, USER), (0x04, 5, -1), (0x10, 5, -1), (0x20, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(program, "system.posix_acl_access", acl)
    tried = as_user(program)
    assert foresee(tried) is answer(tried) is None


@pytest.mark.root
def test_a_file_system_without_execution(folder: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "noexec,mode=755", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        program = written(folder / "x", TRUE)
        for tried in (attempt(program), as_user(program)):
            assert foresee(tried) == answer(tried) == errno.EACCES
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# What somebody else executes -----------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "head", "name", "handled"),
    [
        ("enabled\ninterpreter /q\nflags: \noffset 0\nmagic 4d5a\n", b"MZ\x90", "x", True),
        ("enabled\ninterpreter /q\nflags: \noffset 0\nmagic 4d5a\n", b"MX\x90", "x", False),
        ("disabled\ninterpreter /q\nflags: \noffset 0\nmagic 4d5a\n", b"MZ\x90", "x", False),
        (
            "enabled\ninterpreter /q\nflags: \noffset 2\nmagic ff01\nmask 00ff\n",
            b"ab\7\1",
            "x",
            True,
        ),
        (
            "enabled\ninterpreter /q\nflags: \noffset 2\nmagic ff01\nmask 00ff\n",
            b"ab\7\2",
            "x",
            False,
        ),
        ("enabled\ninterpreter /q\nflags: \noffset 2\nmagic ff01\n", b"ab\xff", "x", False),
        ("enabled\ninterpreter /q\nflags: \nextension .jar\n", b"PK", "x.jar", True),
        ("enabled\ninterpreter /q\nflags: \nextension .jar\n", b"PK", "xjar", False),
        ("enabled\n", b"", "x", False),
    ],
)
def test_registered_formats_are_left_to_the_kernel(
    folder: Path, monkeypatch: pytest.MonkeyPatch, entry: str, head: bytes, name: str, handled: bool
) -> None:
    registered = folder / "binfmt_misc"
    registered.mkdir()
    written(registered / "entry", entry, 0o644)
    monkeypatch.setattr(executable, "_BINFMT_MISC", str(registered))
    tried = attempt(written(folder / name, head))
    assert foresee(tried) == (None if handled else errno.ENOEXEC)


def test_without_binfmt_misc(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executable, "_BINFMT_MISC", str(folder / "none"))
    assert foresee(attempt(written(folder / "x", "true\n"))) == errno.ENOEXEC
