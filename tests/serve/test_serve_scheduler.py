"""Which task is served next, what is computed together, whom an error concerns, and how many sessions a device can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from duotone.serve.load import Meter, bucket
from duotone.serve.scheduler import Scheduler
from duotone.serve.settings import Scheduling
from duotone.serve.tasks import Ask, Task, Work
from serving import Clock


class Row(Ask):
    """Counts itself; rows of one group are computed together."""

    kind = "row"

    def __init__(
        self, owner: str, group: str | None, seen: list[list[str]], trouble: Callable[[Sequence[Row]], None]
    ) -> None:
        self.owner, self.group, self.seen, self.trouble = owner, group, seen, trouble

    def together(self, asks: Sequence[Row]) -> list[Any]:
        self.seen.append([ask.owner for ask in asks])
        self.trouble(asks)
        return [ask.owner for ask in asks]


class Job(Task):
    """Makes pieces of so many asks each, due at a time that the test sets."""

    def __init__(
        self, name: str, seen: list[list[str]], due: float | None = 0.0, asks: int = 1, group: str | None = "g"
    ) -> None:
        super().__init__()
        self.name, self.seen, self.at, self.asks, self.group = name, seen, due, asks, group
        self.pieces, self.closed = 0, 0
        self.error: Exception | None = None
        self.trouble: Callable[[Sequence[Row]], None] = lambda asks: None

    def due(self, now: float) -> float | None:
        return self.at

    def work(self) -> Work:
        for _ in range(self.asks):
            answer = yield Row(self.name, self.group, self.seen, self.trouble)
            assert answer == self.name
        self.pieces += 1

    def failed(self, error: Exception) -> None:
        self.error = error

    def close(self) -> None:
        self.closed += 1


def scheduler(batch: int = 8) -> Scheduler:
    return Scheduler(Clock(), batch, Meter(Scheduling(batch=batch)))


def added(found: Scheduler, *jobs: Job) -> None:
    for job in jobs:
        found.add(job)


def test_the_earliest_deadline_comes_first() -> None:
    seen: list[list[str]] = []
    own = scheduler(batch=1)
    jobs = [Job("late", seen, 3.0), Job("never", seen, math.inf), Job("soon", seen, 1.0), Job("not due", seen, None)]
    added(own, *jobs)
    for _ in range(2):
        own.tick()
    assert seen == [["soon"], ["soon"]]
    jobs[2].at = None
    own.tick()
    jobs[0].at = None
    own.tick()
    assert seen[2:] == [["late"], ["never"]]
    jobs[1].at = None
    assert not own.tick()


def test_equally_urgent_tasks_take_turns() -> None:
    seen: list[list[str]] = []
    own = scheduler(batch=1)
    jobs = [Job(name, seen, math.inf, group=None) for name in "abc"]
    added(own, *jobs)
    for _ in range(6):
        own.tick()
    assert [rows[0] for rows in seen] == list("abcabc")


def test_asks_of_a_group_run_together_wherever_their_tasks_stand() -> None:
    seen: list[list[str]] = []
    own = scheduler(batch=4)
    jobs = [
        Job("a", seen, 1.0, asks=3),
        Job("b", seen, 2.0, asks=1),
        Job("c", seen, 3.0, asks=2),
        Job("x", seen, 4.0, group="other"),
    ]
    added(own, *jobs)
    own.tick()
    assert seen == [["a", "b", "c"]]
    late = Job("d", seen, 5.0)
    own.add(late)  # comes in between two evaluations
    own.tick()
    assert seen[1] == ["a", "b", "c", "d"]
    own.tick()
    assert seen[2][0] == "a" and jobs[0].pieces == 1 and jobs[2].pieces == 1


def test_no_more_rows_than_the_batch_and_the_most_urgent_ones() -> None:
    seen: list[list[str]] = []
    own = scheduler(batch=2)
    added(own, *(Job(str(i), seen, float(10 - i)) for i in range(5)))
    own.tick()
    assert seen == [["4", "3"]]


def test_an_error_of_a_batch_concerns_whose_it_is() -> None:
    seen: list[list[str]] = []
    own = scheduler()
    jobs = [Job(name, seen) for name in "abc"]

    def trouble(asks: Sequence[Row]) -> None:
        if any(ask.owner == "b" for ask in asks):
            raise ValueError("b cannot be computed")

    for job in jobs:
        job.trouble = trouble
    added(own, *jobs)
    own.tick()
    assert (
        [job.pieces for job in jobs] == [1, 0, 1]
        and jobs[1].closed == 1
        and str(jobs[1].error) == "b cannot be computed"
    )
    assert len(own) == 2


def test_a_task_with_a_defect_concerns_no_other() -> None:
    """In telling when it is due, in being told of an error, and in letting go."""
    seen: list[list[str]] = []
    told: list[Exception] = []
    own = Scheduler(Clock(), 8, Meter(Scheduling()), told.append)

    def defect(*_: Any) -> Any:
        raise ZeroDivisionError("a defect")

    jobs = [Job(name, seen, asks=3) for name in "abcd"]
    jobs[0].due = defect  # type: ignore[method-assign]
    jobs[1].trouble, jobs[1].failed = defect, defect  # type: ignore[method-assign]
    jobs[2].close = defect  # type: ignore[method-assign]
    added(own, *jobs)
    own.tick()
    assert isinstance(jobs[0].error, ZeroDivisionError) and jobs[0].closed == 1
    assert jobs[1].closed == 1 and len(told) == 1 and len(own) == 2
    jobs[2].cancel()
    own.tick()
    assert len(told) == 2 and len(own) == 1
    own.tick()
    assert jobs[3].pieces == 1 and jobs[3].error is None


def test_who_is_cancelled_ends_at_the_next_ask() -> None:
    seen: list[list[str]] = []
    own = scheduler()
    jobs = [Job("a", seen, asks=100), Job("b", seen, asks=100)]
    added(own, *jobs)
    own.tick()
    jobs[0].cancel()
    own.tick()
    assert seen == [["a", "b"], ["b"]] and jobs[0].closed == 1 and jobs[0].pieces == 0
    own.close()
    own.close()
    assert jobs[1].closed == 1 and len(own) == 0


def test_ten_thousand_tasks_leave_nothing_and_no_number_is_used_twice() -> None:
    own, seen, numbers = scheduler(), [], set()
    for _ in range(1250):
        jobs = [Job(str(i), seen) for i in range(8)]
        added(own, *jobs)
        own.tick()
        for job in jobs:
            job.cancel()
            numbers.add(job.number)
        seen.clear()
    assert not own.tick()
    assert len(numbers) == 10_000 and len(own) == 0


def test_buckets_are_powers_of_two_up_to_the_batch() -> None:
    assert [bucket(n, 8) for n in (1, 2, 3, 4, 5, 8, 9, 64)] == [1, 2, 4, 4, 8, 8, 8, 8]


def test_p95_is_of_the_size_or_in_proportion_to_the_next_smaller_one() -> None:
    meter = Meter(Scheduling())
    assert meter.p95("flow", 4) is None
    for i in range(100):
        meter.took("flow", 1, 0.001 * (i + 1))
    assert meter.p95("flow", 1) == pytest.approx(0.095)
    assert meter.p95("flow", 4) == pytest.approx(0.38)
    meter.took("flow", 3, 0.1)  # measured as 4
    assert meter.p95("flow", 4) == 0.1 and meter.p95("flow", 8) == pytest.approx(0.2)


def test_a_session_is_admitted_while_the_share_allows_it_by_what_was_measured() -> None:
    meter = Meter(Scheduling(share=0.8))
    one = ("flow", 10.0)  # evaluations a second
    meter.took("flow", 1, 0.04)
    assert meter.share([one]) == pytest.approx(0.4)
    assert meter.admits([one, one]) and not meter.admits([one] * 3)
    meter.took("flow", 4, 0.05)  # batches are cheaper than was thought
    meter.took("flow", 8, 0.07)
    assert meter.admits([one] * 8) and not meter.admits([one] * 9)
    assert meter.share([one, ("decode", 1.0)]) == pytest.approx(0.4)
