"""Prepare batches in advance in threads, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from duotone.train.task import Batch, Examples


def read_ahead(examples: Examples, first: int, last: int, positions: range) -> Generator[Batch, None, None]:
    """Yield the examples at `positions` of steps first..last-1, one batch per step; threads prepare the next ones.

    A step's positions are divided among the threads, so that all of them work on the first batch too.
    """
    count = max(1, min(examples.workers, len(positions)))
    parts = [part for i in range(count) if (part := _part(positions, i, count))]
    ahead = 2 + 2 * examples.workers // len(parts)
    with ThreadPoolExecutor(examples.workers) as pool:

        def order(step: int) -> list[Future[Batch]]:
            return [pool.submit(examples.batch, step, part) for part in parts]

        try:
            waiting = deque(order(step) for step in range(first, min(first + ahead, last)))
            for step in range(first, last):
                ready = [future.result() for future in waiting.popleft()]
                if step + ahead < last:
                    waiting.append(order(step + ahead))
                yield {name: torch.cat([part[name] for part in ready]) for name in ready[0]}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _part(positions: range, i: int, count: int) -> range:
    """Part `i` of `count` parts of nearly equal length."""
    return positions[len(positions) * i // count : len(positions) * (i + 1) // count]
