"""Which task the device serves next: earliest deadline first, equal asks together. One thread a device.

Between two evaluations of the network every task may have come, gone, or changed; rows of a batch may stand at different steps.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from duotone.serve.load import Meter
from duotone.serve.tasks import Ask, Task, Work

T = TypeVar("T")


@dataclass
class _Entry:
    """A task and the piece that is being made."""

    task: Task
    work: Work | None = None
    ask: Ask | None = None
    deadline: float = 0.0
    since: float = 0.0  # when its ask came
    turn: int = 0  # when it was served last, counted


class Scheduler:
    """Serves tasks one batch at a time; has no thread of its own. `now` is a clock in seconds, `trouble` is told of errors that no task can tell."""

    def __init__(
        self, now: Callable[[], float], batch: int, meter: Meter, trouble: Callable[[Exception], None] | None = None
    ) -> None:
        self.now, self.batch, self.meter = now, batch, meter
        self._trouble = trouble or (lambda error: None)
        self._entries: dict[int, _Entry] = {}
        self._turns = itertools.count(1)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, task: Task) -> None:
        """Serve a task from now on."""
        self._entries[task.number] = _Entry(task, since=self.now())

    def tick(self) -> bool:
        """Compute one batch of asks. False if no task has anything to do."""
        self._sweep()
        waiting = self._waiting()
        if not waiting:
            return False
        first = waiting[0]
        if not self._begun(first):
            return True
        assert first.ask is not None
        rows = [first]
        if first.ask.group is not None:
            for entry in waiting[1:]:
                if len(rows) == self.batch:
                    break
                if self._begun(entry) and entry.ask is not None and entry.ask.group == first.ask.group:
                    rows.append(entry)
        self._compute(rows)
        return True

    def retire(self, task: Task) -> None:
        """Serve a task no longer; what it had begun is left at its last ask."""
        entry = self._entries.get(task.number)
        if entry is not None:
            self._drop(entry)

    def close(self, error: Exception | None = None) -> None:
        """Close all tasks; with an error, they are told that they failed."""
        for entry in list(self._entries.values()):
            if error is None:
                self._drop(entry)
            else:
                self._fail(entry, error)

    def _sweep(self) -> None:
        for entry in list(self._entries.values()):
            if entry.task.cancelled or (entry.work is None and entry.task.ended):
                self._drop(entry)

    def _due(self, entry: _Entry, now: float) -> float | None:
        try:
            return entry.task.due(now)
        except Exception as error:  # a defect of this task alone
            self._fail(entry, error)
            return None

    def _waiting(self) -> list[_Entry]:
        """Entries with something to do, the most urgent first; of equally urgent ones, who was served longest ago."""
        now, found = self.now(), []
        for entry in list(self._entries.values()):
            if entry.work is None:
                due = self._due(entry, now)
                if due is None:
                    continue
                entry.deadline = due
            found.append(entry)
        return sorted(found, key=lambda entry: (entry.deadline, entry.turn))

    def _begun(self, entry: _Entry) -> bool:
        """Bring a task to its next ask; False if it came to its end, or failed, without one."""
        if entry.ask is None:
            entry.work = entry.task.work()
            self._go_on(entry, lambda work: next(work))
        return entry.ask is not None

    def _go_on(self, entry: _Entry, step: Callable[[Work], Ask]) -> None:
        assert entry.work is not None
        try:
            entry.ask = step(entry.work)
        except StopIteration:
            entry.work = entry.ask = None
        except Exception as error:  # whatever it is, it belongs to this task alone, which tells it
            entry.work = entry.ask = None
            self._fail(entry, error)
        entry.since = self.now()

    def _compute(self, rows: list[_Entry]) -> None:
        for entry in rows:
            entry.turn = next(self._turns)
        asks = [entry.ask for entry in rows if entry.ask is not None]
        began = self.now()
        self.meter.waited(asks[0].kind, [began - entry.since for entry in rows])
        try:
            answers = asks[0].together(asks)
        except Exception as error:
            if len(rows) > 1:  # one of them is to blame: alone, only that one fails
                for entry in rows:
                    self._compute([entry])
                return
            problem = error
            self._go_on(rows[0], lambda work: work.throw(problem))
            return
        self.meter.took(asks[0].kind, len(rows), self.now() - began)
        for entry, answer in zip(rows, answers, strict=True):
            if isinstance(answer, Exception):
                self._go_on(entry, lambda work, problem=answer: work.throw(problem))  # type: ignore[misc]
            else:
                self._go_on(entry, lambda work, answer=answer: work.send(answer))  # type: ignore[misc]

    def _fail(self, entry: _Entry, error: Exception) -> None:
        try:
            entry.task.failed(error)
        except Exception as problem:  # others are not concerned
            self._trouble(problem)
        self._drop(entry)

    def _drop(self, entry: _Entry) -> None:
        self._entries.pop(entry.task.number, None)
        try:
            if entry.work is not None:
                entry.work.close()
        except Exception as error:
            self._trouble(error)
        try:
            entry.task.close()
        except Exception as error:
            self._trouble(error)


class Device:
    """The model thread of a device: runs its scheduler, and functions that others post.

    `died` is called in it with an error that it cannot survive, after all tasks were told; nothing more is computed then.
    """

    def __init__(self, scheduler: Scheduler, died: Callable[[BaseException], None] | None = None) -> None:
        self.scheduler = scheduler
        self._died = died or (lambda error: None)
        self._posts: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._lock = threading.Lock()  # of `_over`: a post comes before the end, or is called by whoever posts it
        self._stopping = self._over = False
        self._thread = threading.Thread(target=self._run, name="duotone-model")

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def post(self, function: Callable[[], None]) -> None:
        """Call a function in the model thread soon, or here if that has ended; it must not raise."""
        with self._lock:
            over = self._over
            if not over:
                self._posts.append(function)
        if over:
            function()
        else:
            self.wake()

    def add(self, task: Task) -> None:
        """Serve a task from now on."""

        def add() -> None:
            self.scheduler.add(task)
            if self._over:
                self.scheduler.close(_ended())

        self.post(add)

    async def retire(self, task: Task, then: Callable[[], T]) -> T:
        """Serve a task no longer, and give what a function then gives in the model thread."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                self.scheduler.retire(task)
                loop.call_soon_threadsafe(_set, found.set_result, found, then())
            except Exception as error:  # it belongs to whoever waits
                loop.call_soon_threadsafe(_set, found.set_exception, found, error)

        self.post(run)
        return await found

    def wake(self) -> None:
        """Look again whether there is something to do."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread after the ask that it computes; all tasks are closed."""
        self._stopping = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # whatever it is, nothing more is computed, and nobody may wait for it
            self._end(_ended())
            self._died(error)
        else:
            self._end(None)

    def _work(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self._post()
            if not self.scheduler.tick() and not self._posts:
                self._wake.wait()

    def _post(self) -> None:
        while self._posts:
            self._posts.popleft()()

    def _end(self, error: Exception | None) -> None:
        with self._lock:
            self._over = True
        self._post()
        self.scheduler.close(error)


def _ended() -> Exception:
    return RuntimeError("The model thread has ended.")


def _set(how: Callable[[Any], None], future: asyncio.Future[Any], value: Any) -> None:
    """Set a future's result or exception, unless nobody waits any more."""
    if not future.cancelled():
        how(value)
