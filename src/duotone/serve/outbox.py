"""Pieces from the model thread to a coroutine, never more than there is room for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any


class Outbox:
    """`put` and `finish` are for the model thread; iterating is for one coroutine of `loop`. `wake` is called when room is made."""

    def __init__(self, loop: asyncio.AbstractEventLoop, room: int, wake: Callable[[], None]) -> None:
        self._loop, self.room, self._wake = loop, room, wake
        self._pieces: deque[Any] = deque()
        self._error: Exception | None = None
        self._over = False
        self._arrived = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether nothing more should be put now."""
        return len(self._pieces) >= self.room

    def put(self, piece: Any) -> None:
        """Hand a piece over."""
        self._pieces.append(piece)
        self._tell()

    def finish(self, error: Exception | None = None) -> None:
        """Nothing more comes; the first call counts."""
        if not self._over:
            self._error, self._over = error, True
            self._tell()

    def _tell(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def __aiter__(self) -> AsyncIterator[Any]:
        """The pieces; raises the error with which they ended."""
        while True:
            self._arrived.clear()
            while self._pieces:
                piece = self._pieces.popleft()
                self._wake()
                yield piece
            if self._over and not self._pieces:
                break
            await self._arrived.wait()
        if self._error is not None:
            raise self._error
