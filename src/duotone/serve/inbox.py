"""Frames from a connection to the model thread; whoever sends too many waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from duotone.serve.frames import Frame


class Inbox:
    """`put` is for one coroutine of `loop`, the rest for the model thread, which `wake` wakes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, room: int, wake: Callable[[], None]) -> None:
        self._loop, self._room, self._wake = loop, room, wake
        self._frames: deque[Frame] = deque()
        self._taken = asyncio.Event()

    def __len__(self) -> int:
        return len(self._frames)

    async def put(self, frame: Frame) -> None:
        """Hand a frame over, once there is room."""
        while len(self._frames) >= self._room:
            self._taken.clear()
            if len(self._frames) >= self._room:
                await self._taken.wait()
        self._frames.append(frame)
        self._wake()

    def take(self) -> Frame:
        """The next frame."""
        frame = self._frames.popleft()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._taken.set)
        return frame
