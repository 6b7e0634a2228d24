"""Every way in which configuration changes on a disk, with real files and real inotify."""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from cmappd.system import watch
from cmappd.system.watch import Watcher

DEADLINE = 15.0
TIMES = 20


class Turns:
    """Counts what a watcher tells."""

    def __init__(self, *paths: Path) -> None:
        self.reports: list[str] = []
        self.watcher = Watcher(map(str, paths), self.reports.append)
        self.count = 0
        self._task = asyncio.create_task(self._consume())

    async def _consume(self) -> None:
        async for _ in self.watcher.changes():
            self.count += 1

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while self.count < count:
                await asyncio.sleep(0.005)

    async def quiet(self) -> None:
        """Wait until everything that was done so far has been told."""
        seen = -1
        while seen != self.count:
            seen = self.count
            await asyncio.sleep(4 * watch.SETTLE)

    async def close(self) -> None:
        await self.watcher.close()
        await self._task


Make = Callable[[Path], list[Path]]
Act = Callable[[Path], None]


def plain(at: Path) -> list[Path]:
    (at / "apps.d").mkdir()
    (at / "main.toml").write_text("a = 1\n")
    (at / "apps.d/one.toml").write_text("b = 1\n")
    return [at / "main.toml", at / "apps.d"]


def without_include(at: Path) -> list[Path]:
    (at / "main.toml").write_text("a = 1\n")
    return [at / "main.toml", at / "conf/apps.d"]


def kubernetes(at: Path) -> list[Path]:
    mount = at / "mount"
    (mount / "..1").mkdir(parents=True)
    (mount / "..1/one.toml").write_text("b = 1\n")
    (mount / "..data").symlink_to("..1")
    (mount / "one.toml").symlink_to("..data/one.toml")
    return [mount]


def linked(at: Path) -> list[Path]:
    (at / "real").mkdir()
    (at / "real/one.toml").write_text("b = 1\n")
    (at / "apps.d").mkdir()
    (at / "apps.d/one.toml").symlink_to("../real/one.toml")
    return [at / "apps.d"]


def edit_in_place(at: Path) -> None:
    (at / "main.toml").write_text("a = 2\n")


def write_aside_and_rename(at: Path) -> None:
    (at / ".main.toml.swp").write_text("a = 2\n")
    os.rename(at / ".main.toml.swp", at / "main.toml")


def rename_away_and_create(at: Path) -> None:
    os.rename(at / "main.toml", at / "main.toml~")
    (at / "main.toml").write_text("a = 2\n")


def delete_and_recreate(at: Path) -> None:
    (at / "main.toml").unlink()
    (at / "main.toml").write_text("a = 2\n")


def touch(at: Path) -> None:
    os.utime(at / "main.toml")


def add(at: Path) -> None:
    (at / "apps.d/two.toml").write_text("c = 1\n")


def remove(at: Path) -> None:
    (at / "apps.d/one.toml").unlink()


def chmod(at: Path) -> None:
    (at / "apps.d/one.toml").chmod(0o600)


def replace_directory(at: Path) -> None:
    shutil.copytree(at / "apps.d", at / "new")
    os.rename(at / "apps.d", at / "old")
    os.rename(at / "new", at / "apps.d")


def remove_directory(at: Path) -> None:
    shutil.rmtree(at / "apps.d")


def appear(at: Path) -> None:
    (at / "conf/apps.d").mkdir(parents=True)
    (at / "conf/apps.d/one.toml").write_text("b = 1\n")


def swap_data(at: Path) -> None:
    mount = at / "mount"
    (mount / "..2").mkdir()
    (mount / "..2/one.toml").write_text("b = 2\n")
    (mount / "..tmp").symlink_to("..2")
    os.rename(mount / "..tmp", mount / "..data")


def edit_behind_link(at: Path) -> None:
    (at / "real/fresh").write_text("b = 2\n")
    os.rename(at / "real/fresh", at / "real/one.toml")


def swap_link(at: Path) -> None:
    (at / "real/two.toml").write_text("b = 2\n")
    (at / "apps.d/.fresh").symlink_to("../real/two.toml")
    os.rename(at / "apps.d/.fresh", at / "apps.d/one.toml")


BEHAVIOURS: list[tuple[Make, Act]] = [
    (plain, edit_in_place),
    (plain, write_aside_and_rename),
    (plain, rename_away_and_create),
    (plain, delete_and_recreate),
    (plain, touch),
    (plain, add),
    (plain, remove),
    (plain, chmod),
    (plain, replace_directory),
    (plain, remove_directory),
    (without_include, appear),
    (kubernetes, swap_data),
    (linked, edit_behind_link),
    (linked, swap_link),
]


async def notice(at: Path, make: Make, act: Act) -> None:
    """The change is told, and so is the next one, wherever the files are by then."""
    at.mkdir()
    paths = make(at)
    turns = Turns(*paths)
    await turns.quiet()
    assert turns.count == 0
    act(at)
    await turns.reach(1)
    await turns.quiet()
    after = turns.count
    if paths[-1].is_dir():
        target = next(iter(paths[-1].glob("*.toml")), paths[-1] / "new.toml")
        target.write_text("z = 1\n")
        await turns.reach(after + 1)
    await turns.close()
    assert turns.reports == []


async def many(scenarios: list[Coroutine[None, None, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for scenario in scenarios:
            group.create_task(scenario)


@pytest.mark.parametrize(("make", "act"), BEHAVIOURS, ids=lambda f: f.__name__)
def test_a_change_is_noticed_however_it_is_made(tmp_path: Path, make: Make, act: Act) -> None:
    asyncio.run(many([notice(tmp_path / str(n), make, act) for n in range(TIMES)]))
    assert threading.active_count() == 1


def test_what_does_not_concern_us_is_not_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        turns = Turns(*plain(tmp_path))
        (tmp_path / "other.toml").write_text("x")
        (tmp_path / "main.toml").read_text()
        list(tmp_path.iterdir())
        await turns.quiet()
        assert turns.count == 0
        write_aside_and_rename(tmp_path)
        await turns.reach(1)
        await turns.quiet()
        assert turns.count == 1
        await turns.close()

    asyncio.run(scenario())


def test_a_burst_is_told_once_or_a_few_times(tmp_path: Path) -> None:
    async def scenario() -> None:
        turns = Turns(*plain(tmp_path))
        for n in range(500):
            (tmp_path / f"apps.d/{n}.toml").write_text("x = 1\n")
        await turns.reach(1)
        await turns.quiet()
        assert turns.count <= 5
        await turns.close()

    asyncio.run(scenario())


def test_a_file_is_not_told_while_it_is_being_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        turns = Turns(*plain(tmp_path))
        with (tmp_path / "main.toml").open("w") as file:
            end = time.monotonic() + 0.4
            writes = 0
            while time.monotonic() < end:
                file.write("a = 1\n")
                file.flush()
                writes += 1
                await asyncio.sleep(0.01)
        await turns.reach(1)
        await turns.quiet()
        assert turns.count < writes / 4
        await turns.close()

    asyncio.run(scenario())


def test_a_steady_stream_of_writes_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        turns = Turns(*plain(tmp_path))

        async def stream() -> None:
            n = 0
            while True:
                n += 1
                (tmp_path / "main.toml").write_text(f"a = {n}\n")
                (tmp_path / f"apps.d/{n % 100}.toml").write_text(f"a = {n}\n")
                await asyncio.sleep(0.01)

        writer = asyncio.create_task(stream())
        await turns.reach(3)
        assert not writer.done()
        writer.cancel()
        await turns.close()

    asyncio.run(scenario())


def test_updated_paths_are_watched_and_the_old_ones_are_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        paths = plain(tmp_path)
        (tmp_path / "pki").mkdir()
        turns = Turns(*paths)
        turns.watcher.update([str(tmp_path / "pki")])
        await turns.reach(1)  # What changed in between is not known.
        await turns.quiet()
        before = turns.count
        turns.watcher.update([str(tmp_path / "pki")])
        edit_in_place(tmp_path)
        add(tmp_path)
        await turns.quiet()
        assert turns.count == before
        (tmp_path / "pki/ca.pem").write_text("x")
        await turns.reach(before + 1)
        await turns.close()

    asyncio.run(scenario())


def test_a_name_that_is_not_utf8_does_not_end_the_watch(tmp_path: Path) -> None:
    async def scenario() -> None:
        turns = Turns(*plain(tmp_path))
        Path(os.fsdecode(bytes(tmp_path / "apps.d") + b"/\xff.toml")).write_text("x")
        await turns.reach(1)
        await turns.quiet()
        before = turns.count
        edit_in_place(tmp_path)
        await turns.reach(before + 1)
        async with asyncio.timeout(DEADLINE):
            while turns.watcher.polling:
                await asyncio.sleep(0.05)
        await turns.close()
        # Whoever was told that inotify failed was told that it works again.
        assert len(turns.reports) in (0, 2)

    asyncio.run(scenario())


def test_close_is_prompt_and_leaves_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    async def scenario() -> None:
        paths = plain(tmp_path)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(TIMES):
            turns = Turns(*paths)
            turns.watcher.update(map(str, paths[:1]))
            await turns.close()
            assert threading.active_count() == 1
        async with asyncio.timeout(DEADLINE):
            # The thread of inotify itself ends on its own, soon after.
            while len(os.listdir("/proc/self/fd")) > before:
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


EXHAUSTED = """
import asyncio, sys
from cmappd.system.watch import Watcher

def allow(value):
    with open("/proc/sys/user/" + sys.argv[1], "w") as file:
        file.write(value)

async def main():
    allow("0")
    watcher = Watcher([sys.argv[2]], lambda text: print("report", text, flush=True))
    print("ready", watcher.polling, flush=True)
    turns = 0
    async for _ in watcher.changes():
        turns += 1
        print("changed", watcher.polling, flush=True)
        if turns == 2:
            allow("100")
        if not watcher.polling:
            break
    await watcher.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_exhausted_inotify_is_replaced_by_comparing_files(tmp_path: Path, limit: str) -> None:
    # The limits are those of a user namespace: nobody else's inotify is touched.
    inside = ["unshare", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    child = subprocess.Popen(
        [*inside, sys.executable, "-c", EXHAUSTED, limit, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    with child, child.stdout:
        try:
            assert child.stdout.readline().startswith("report cannot use inotify")
            assert child.stdout.readline() == "ready True\n"
            for n in range(2):
                (tmp_path / "one.toml").write_text(str(n))
                assert child.stdout.readline() == "changed True\n"
            # The limit is gone: inotify is taken up again by itself.
            assert child.stdout.readline() == "report inotify works again\n"
            (tmp_path / "one.toml").write_text("last")
            assert child.stdout.readline() == "changed False\n"
            assert child.wait(DEADLINE) == 0
        finally:
            child.kill()
