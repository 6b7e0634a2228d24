"""An inbox of one task: what is posted is taken in order, or the deadline comes first.

Lighter than ``asyncio.Queue`` with ``asyncio.timeout``: there is one for each application,
and most are idle.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """Items for the one task that takes them."""

    __slots__ = ("_items", "_waiter")

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._waiter: asyncio.Future[None] | None = None

    def post(self, item: Item) -> None:
        """Add an item; the task wakes up for it."""
        self._items.append(item)
        _wake(self._waiter)

    @property
    def empty(self) -> bool:
        """Whether the task would have to wait."""
        return not self._items

    def drain(self) -> list[Item]:
        """All items, when the task takes no more."""
        items, self._items = self._items, []
        return items

    async def take(self, deadline: float | None) -> Item | None:
        """The next item; None when the deadline (loop time, seconds) has come without one."""
        if not self._items:
            await self._wait(deadline)
        return self._items.pop(0) if self._items else None

    async def _wait(self, deadline: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer: Callable[[], None] | None = None
        if deadline is not None:
            timer = loop.call_at(deadline, _wake, self._waiter).cancel
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
