"""The inbox of one task."""

import asyncio

from cmappd.server.application.inbox import Inbox


def test_items_are_taken_in_the_order_in_which_they_were_posted() -> None:
    async def take() -> list[int | None]:
        inbox: Inbox[int] = Inbox()
        for number in range(5):
            inbox.post(number)
        return [await inbox.take(0.0) for _ in range(6)]

    assert asyncio.run(take()) == [0, 1, 2, 3, 4, None]


def test_an_item_that_is_there_is_taken_although_the_deadline_has_passed() -> None:
    async def take() -> int | None:
        inbox: Inbox[int] = Inbox()
        inbox.post(7)
        return await inbox.take(asyncio.get_running_loop().time() - 100)

    assert asyncio.run(take()) == 7


def test_the_deadline_ends_the_wait() -> None:
    async def take() -> tuple[int | None, float]:
        inbox: Inbox[int] = Inbox()
        deadline = asyncio.get_running_loop().time() + 0.02
        item = await asyncio.wait_for(inbox.take(deadline), 10)
        return item, asyncio.get_running_loop().time() - deadline

    item, late = asyncio.run(take())
    assert item is None
    # asyncio runs timers up to the resolution of its clock early.
    assert late > -0.001


def test_a_post_wakes_the_task_that_waits_for_ever() -> None:
    async def take() -> int | None:
        inbox: Inbox[int] = Inbox()
        taking = asyncio.create_task(inbox.take(None))
        await asyncio.sleep(0)
        assert not taking.done()
        inbox.post(1)
        inbox.post(2)
        first = await asyncio.wait_for(taking, 10)
        assert await inbox.take(None) == 2
        return first

    assert asyncio.run(take()) == 1


def test_a_cancelled_wait_leaves_the_inbox_usable_and_its_timer_cancelled() -> None:
    async def take() -> int | None:
        inbox: Inbox[int] = Inbox()
        loop = asyncio.get_running_loop()
        taking = asyncio.create_task(inbox.take(loop.time() + 0.01))
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        waiting = asyncio.create_task(inbox.take(None))
        await asyncio.sleep(0.03)  # past the first deadline, which must not wake the second wait
        assert not waiting.done()
        inbox.post(3)
        return await asyncio.wait_for(waiting, 10)

    assert asyncio.run(take()) == 3
