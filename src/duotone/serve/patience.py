"""Waiting, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(seconds: float, awaited: Awaitable[T]) -> T:
    """What is awaited. Raises `TimeoutError` if it does not come in time.

    `asyncio.wait_for` of Python 3.10 and 3.11 can lose a cancellation that comes together with the result.
    """
    job = asyncio.ensure_future(awaited)
    try:
        done, _ = await asyncio.wait([job], timeout=seconds)
    finally:
        job.cancel()
    if not done:
        raise TimeoutError
    return job.result()
