"""The output of one application, between its FIFO and whatever log it has."""

import asyncio
import os
from pathlib import Path

from cmappd.core.config import Application
from cmappd.core.config.schema import Log
from cmappd.server.application.output import Output
from tests.server.application.test_starved import descriptors
from tests.server.ground import ground, until


def definition(**log: object) -> Application:
    return Application(command=("/bin/true",), log=Log(**log))  # type: ignore[arg-type]


def test_what_was_written_before_a_change_is_in_the_old_log(tmp_path: Path) -> None:
    """Opened anew, or another one: what is in the FIFO at that moment belongs to the old one."""

    async def play() -> None:
        async with ground(tmp_path, "") as found:
            output = Output(found.world, "db")
            first, second = str(tmp_path / "first"), str(tmp_path / "second")
            fd = output.writer(definition(path=first))
            os.write(fd, b"one\n")
            os.rename(first, tmp_path / "moved")
            assert output.reopen() == ""
            os.write(fd, b"two\n")
            output.redefine(definition(path=second))
            os.write(fd, b"three\n")
            output.redefine(definition(path=second, format="json"))
            os.write(fd, b"four\n")
            output.redefine(definition(destination="none"))
            os.write(fd, b"five\n")
            assert output.tail(5) == "five\n"
            os.close(fd)
            output.close(remove=True)

    asyncio.run(play())
    read = {name: (tmp_path / name).read_text() for name in ("moved", "first", "second")}
    assert (read["moved"], read["first"]) == ("one\n", "two\n")
    third, fourth = read["second"].splitlines()
    assert third == "three"
    assert '"message":"four"' in fourth
    assert not list((tmp_path / "state").glob("db.*"))


def test_what_an_earlier_server_has_not_written_as_lines_goes_to_the_new_log(
    tmp_path: Path,
) -> None:
    """The destination was changed while no server was there."""

    async def play() -> None:
        async with ground(tmp_path, "") as found:
            path = str(tmp_path / "db.log")
            before = Output(found.world, "db")
            fd = before.writer(definition(path=path, format="timestamps"))
            os.write(fd, b"half ")
            before.tail()
            before.close(remove=False)
            after = Output(found.world, "db")
            os.close(after.writer(definition(path=path)))
            os.write(fd, b"a line\n")
            assert after.tail(1) == "half a line\n"
            os.close(fd)
            after.close(remove=True)

    asyncio.run(play())
    assert (tmp_path / "db.log").read_text() == "half a line\n"
    assert not list((tmp_path / "state").glob("db.*"))


def test_what_an_earlier_server_has_left_is_read_on_though_its_user_is_not_known_now(
    tmp_path: Path,
) -> None:
    """A directory service may be away; and the user in the definition may be another by now."""

    async def play() -> None:
        async with ground(tmp_path, "") as found:
            before = Output(found.world, "db")
            fd = before.writer(definition(path=str(tmp_path / "db.log")))
            before.close(remove=False)
            after = Output(found.world, "db")
            left = definition(path=str(tmp_path / "db.log"))
            after.resume(left.model_copy(update={"user": "nobody-knows"}))
            os.write(fd, b"one\n")
            await until(lambda: (tmp_path / "db.log").read_text() == "one\n")
            assert after.problem == ""
            os.close(fd)
            after.close(remove=True)

    asyncio.run(play())


def test_without_a_descriptor_it_is_read_on_later(tmp_path: Path) -> None:
    async def play() -> None:
        async with ground(tmp_path, "") as found:
            before = Output(found.world, "db")
            fd = before.writer(definition(path=str(tmp_path / "db.log")))
            before.close(remove=False)
            after = Output(found.world, "db")
            with descriptors(0):
                after.resume(definition(path=str(tmp_path / "db.log")))
                after.look()
            why = f"cannot open FIFO {after.fifo}: Too many open files"
            assert after.problem == why
            assert found.lines == [f"WARNING db: its log cannot be written: {why}"]

            def is_read() -> bool:
                after.look()
                return after.problem == ""

            await until(is_read)
            os.write(fd, b"one\n")
            await until(lambda: (tmp_path / "db.log").read_text() == "one\n")
            assert "its log is written again" in found.lines[1]
            os.close(fd)
            after.close(remove=True)

    asyncio.run(play())


def test_what_no_log_could_tell_is_told_at_the_end(tmp_path: Path) -> None:
    """By the log of cmappserver: nobody counts it any more."""

    async def play() -> list[str]:
        async with ground(tmp_path, "") as found:
            output = Output(found.world, "db")
            fd = output.writer(definition(path="/dev/full"))
            os.write(fd, b"one\ntwo\n")
            assert output.tail() == ""
            assert output.dropped == 2
            os.close(fd)
            output.close(remove=False)
            return found.lines

    told = "2 lines (8 bytes) were dropped: No space left on device"
    assert f"WARNING db: its log could not tell that {told}" in asyncio.run(play())


def test_that_a_log_cannot_be_written_is_told_once_and_so_is_its_end(tmp_path: Path) -> None:
    async def play() -> list[str]:
        async with ground(tmp_path, "") as found:
            output, path = Output(found.world, "db"), tmp_path / "away" / "db.log"
            fd = output.writer(definition(path=str(path)))
            os.write(fd, b"one\n")
            for _ in range(3):
                output.look()
            told = list(found.lines)
            path.parent.mkdir()

            def is_written() -> bool:
                output.look()
                return path.exists()

            await until(is_written)
            output.look()
            os.close(fd)
            output.close(remove=True)
        return told + found.lines

    first, again, end = asyncio.run(play())
    assert first == again
    assert f"its log cannot be written: cannot open {tmp_path}/away/db.log" in first
    assert "its log is written again" in end
