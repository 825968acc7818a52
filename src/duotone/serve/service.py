"""The service's parts in one place: models, the model thread, figures, the log, and who is connected."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Protocol

from duotone.serve.calibrate import calibrate
from duotone.serve.load import Meter
from duotone.serve.log import Log
from duotone.serve.metrics import Metrics
from duotone.serve.models import Models
from duotone.serve.refusal import Refusal, busy
from duotone.serve.scheduler import Device, Scheduler
from duotone.serve.settings import ServeConfig
from duotone.serve.states import States
from duotone.serve.uploads import Opener, unnamed

_LOOK = 0.05  # seconds between looks whether sessions have ended


class Stoppable(Protocol):
    """A session's connection."""

    def demand(self) -> Sequence[tuple[str, float]]:
        """What it asks the device for."""
        ...

    def stop(self) -> None:
        """The service stops."""
        ...


class Service:
    """Everything that requests and sessions share; `now` is a clock in seconds, `wall` one that all processes share, `opened` opens temporary files."""

    def __init__(
        self,
        config: ServeConfig,
        models: Models,
        log: Log | None = None,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        opened: Opener = unnamed,
    ) -> None:
        self.config, self.models, self.now, self.opened = config, models, now, opened
        self.log = Log() if log is None else log
        self.metrics = Metrics()
        self.meter = Meter(config.scheduling, self.metrics)
        scheduler = Scheduler(now, config.scheduling.batch, self.meter, self._defect)
        self.device = Device(scheduler, self._died)
        self.broken: BaseException | None = None  #: why the model thread ended, if it did so by itself
        self.on_broken: Callable[[], None] = lambda: None  #: called then, in that thread
        self.states = States(config.limits.kept_states, config.limits.kept_minutes * 60, now, wall, config.state)
        self.prepared = threading.Event()  #: set when the device was measured, and work is taken
        self.stopping = False
        self.sockets: set[Stoppable] = set()  #: sessions that are open
        self._requests = 0
        self._sessions: Counter[str] = Counter()  # by client

    @property
    def ready(self) -> bool:
        """Whether new work is taken."""
        return self.prepared.is_set() and not self.stopping

    def start(self, sessions: bool = True) -> None:
        """Begin to work: measure the device, then take requests; without `sessions`, nothing has to be measured."""
        if sessions:
            self.device.post(self._prepare)
        else:
            self.prepared.set()
        self.device.start()

    def _prepare(self) -> None:
        began = self.now()
        calibrate(self.models, self.meter, self.now)
        self.log("ready", seconds=round(self.now() - began, 3))
        self.prepared.set()

    def _defect(self, error: Exception) -> None:
        self.log("defect", error=repr(error))

    def _died(self, error: BaseException) -> None:
        """The model thread ended by itself: nothing new is taken, and whoever runs the service ends it."""
        self.broken, self.stopping = error, True
        self.log("defect", where="the model thread", error=repr(error))
        self.prepared.set()  # nobody waits for it any more
        self.on_broken()

    def check_health(self) -> None:
        """Raise `Refusal` where nothing can be computed any more."""
        if self.broken is not None:
            raise Refusal(
                "The model thread ended; the service has to be started again. Its log tells why.",
                HTTPStatus.SERVICE_UNAVAILABLE,
            )

    async def drain(self) -> None:
        """Take nothing new, tell all sessions, and wait for them, but not for ever."""
        self.stopping = True
        self.log("stopping", sessions=len(self.sockets))
        for socket in list(self.sockets):
            socket.stop()
        for _ in range(round(self.config.stop_seconds / _LOOK)):
            if not self.sockets and not self._requests:
                break
            await asyncio.sleep(_LOOK)

    def stop(self) -> None:
        """End the model thread; all tasks are closed."""
        self.stopping = True
        self.device.stop()

    def check_ready(self) -> None:
        """Raise `Refusal` while nothing new is taken."""
        if not self.ready:
            raise busy("The service is starting or stopping.", self.config.scheduling.retry_seconds)

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request with a file. Raises `Refusal` where there are too many."""
        self.check_ready()
        if self._requests >= self.config.limits.requests:
            raise self._busy("requests", self.config.limits.requests)
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    @contextmanager
    def session(self, client: str, kind: str) -> Iterator[None]:
        """A session of a client. Raises `Refusal` where there are too many."""
        self.check_ready()
        limits = self.config.limits
        if self._sessions.total() >= limits.sessions:
            raise self._busy("sessions", limits.sessions)
        if self._sessions[client] >= limits.sessions_per_token:
            raise self._busy("sessions_per_token", limits.sessions_per_token)
        self._sessions[client] += 1
        self.metrics.open.labels(kind).inc()
        try:
            yield
        finally:
            self.metrics.open.labels(kind).dec()
            self._sessions[client] -= 1
            if not self._sessions[client]:
                del self._sessions[client]

    def admit(self, demand: Sequence[tuple[str, float]]) -> None:
        """Raise `Refusal` unless the device can hold one more session with this demand, by what was measured.

        Sessions that are open are counted with their demands of now.
        """
        every = [each for socket in list(self.sockets) for each in socket.demand()]
        if not self.meter.admits([*every, *demand]):
            share = self.meter.share([*every, *demand])
            self.log("full", share=round(share, 3), sessions=len(self.sockets))
            raise busy(
                f"The device would be busy {share:.0%} of the time with this session, {self.config.scheduling.share:.0%} may be promised "
                f"(share).", self.config.scheduling.retry_seconds, "share",
            )  # fmt: skip

    def _busy(self, limit: str, most: int) -> Refusal:
        return busy(
            f"There are {most} {limit.replace('_', ' ')} already, the most that there may be ({limit}).",
            self.config.scheduling.retry_seconds, limit,
        )  # fmt: skip

    def tell(self, refusal: Refusal, where: str) -> None:
        """Count and log what was not done."""
        self.metrics.refused.labels(refusal.limit or HTTPStatus(refusal.status).phrase).inc()
        self.log("refused", where=where, status=int(refusal.status), message=str(refusal), limit=refusal.limit)
