"""How long the device takes, measured: for the figures, and to know how many sessions it can hold."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Protocol

from duotone.serve.settings import Scheduling


class Figures(Protocol):
    """Who records figures."""

    def step(self, kind: str, rows: int, seconds: float) -> None:
        """A batch was computed."""
        ...

    def queue(self, kind: str, seconds: float) -> None:
        """An ask waited."""
        ...


def bucket(rows: int, most: int) -> int:
    """The size under which a batch is measured: 1, 2, 4, 8, ..., at most `most`."""
    return min(most, 1 << max(0, rows - 1).bit_length())


class Meter:
    """The last durations of each kind of ask, by the size of the batch."""

    def __init__(self, settings: Scheduling, figures: Figures | None = None) -> None:
        self.settings, self._figures = settings, figures
        self._seconds: dict[tuple[str, int], deque[float]] = defaultdict(lambda: deque(maxlen=settings.measured))

    def took(self, kind: str, rows: int, seconds: float) -> None:
        """A batch of so many rows took so long."""
        self._seconds[kind, bucket(rows, self.settings.batch)].append(seconds)
        if self._figures is not None:
            self._figures.step(kind, rows, seconds)

    def waited(self, kind: str, seconds: Sequence[float]) -> None:
        """Asks waited so long before they were computed."""
        if self._figures is not None:
            for each in seconds:
                self._figures.queue(kind, each)

    def p95(self, kind: str, size: int) -> float | None:
        """The time that 95% of batches of this size stay below; of a size that was never measured, in proportion to the next smaller one."""
        for known in sorted({n for name, n in self._seconds if name == kind and n <= size}, reverse=True):
            found = sorted(self._seconds[kind, known])
            return found[math.ceil(0.95 * len(found)) - 1] * (size / known)
        return None

    def share(self, demands: Sequence[tuple[str, float]]) -> float:
        """The share of the device's time that sessions need together, given (kind, asks a second) of each.

        Asks of one kind are computed in the fewest batches; kinds that were never measured count nothing.
        """
        rates: dict[str, list[float]] = defaultdict(list)
        for kind, rate in demands:
            rates[kind].append(rate)
        total = 0.0
        for kind, each in rates.items():
            seconds = self.p95(kind, bucket(len(each), self.settings.batch))
            batches = math.ceil(len(each) / self.settings.batch)
            total += (seconds or 0.0) * batches * max(each)
        return total

    def admits(self, demands: Sequence[tuple[str, float]]) -> bool:
        """Whether the device can hold sessions with these demands, the new one among them."""
        return self.share(demands) <= self.settings.share
