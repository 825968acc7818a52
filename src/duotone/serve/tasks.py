"""What the model thread works on: tasks, and what they ask the device for.

A task's `work` is a generator that makes one piece. It yields asks, and is sent their answers; between two asks other tasks are served::

    work:       yield Ask ----> the scheduler puts it beside equal asks of other tasks, computes them, and sends each its answer
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any, TypeAlias

_NUMBERS = itertools.count(1)  # of tasks in this process; none is used twice, so that a late result reaches nobody else


class Ask(ABC):
    """Something to compute; asks of one `group` that is not None may be computed together."""

    kind: str = "call"  #: for the figures
    group: Hashable | None = None

    @abstractmethod
    def together(self, asks: Sequence[Any]) -> list[Any]:
        """The answers of several asks of this group, this one among them, in their order; an exception is raised where it was asked.

        If the whole raises instead, none of them may have changed anything.
        """


class Call(Ask):
    """A function that is computed alone."""

    def __init__(self, function: Callable[[], Any], kind: str = "call") -> None:
        self.function, self.kind = function, kind

    def together(self, asks: Sequence[Any]) -> list[Any]:
        """What the function gives."""
        return [ask.function() for ask in asks]


Work: TypeAlias = Generator[Ask, Any, None]


class Task(ABC):
    """A session or a request. Everything but `cancel` is called in the model thread."""

    def __init__(self) -> None:
        self.number = next(_NUMBERS)
        self.cancelled = False  #: whether nobody waits for it any more; it ends at its next ask

    def cancel(self) -> None:
        """End it; may be called in any thread."""
        self.cancelled = True

    @abstractmethod
    def due(self, now: float) -> float | None:
        """The time by which the next piece is needed (may be infinite), or None if none should be made now."""

    @abstractmethod
    def work(self) -> Work:
        """Make the next piece."""

    @abstractmethod
    def failed(self, error: Exception) -> None:
        """An error came out of `work`; the task is closed next."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; called once, whatever happened."""

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to do."""
        return False
