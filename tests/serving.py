"""A service on loopback for tests: real uvicorn, small models, a clock that stands still unless it is moved."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from duotone.codec.contract import Codec
from duotone.serve.log import Log
from duotone.serve.models import Models
from duotone.serve.service import Service
from duotone.serve.settings import ServeConfig
from duotone.serve.uploads import Opener, unnamed

WAIT_S = 240  # for a machine that does other things


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@dataclass
class Running:
    """A service that runs in a thread of its own."""

    service: Service
    port: int
    clock: Clock
    server: Any
    thread: threading.Thread
    lines: io.StringIO = field(default_factory=io.StringIO)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.lines.getvalue()

    def settle(self) -> None:
        """Wait until the service has seen the end of all sessions, which a client that has closed one does not."""
        service = self.service
        while service.sockets or len(service.device.scheduler) or service._sessions:
            time.sleep(0.01)


@contextmanager
def serving(models: Models | Codec, opened: Opener = unnamed, wall: Any = None, **settings: Any) -> Iterator[Running]:
    """Run a service until the block ends; nothing of it is left then."""
    from duotone.serve.run import Server

    found = models if isinstance(models, Models) else Models({"small": models})
    config = ServeConfig.parse({"port": 0, "stop_seconds": WAIT_S, **settings})
    clock, lines = Clock(), io.StringIO()
    service = Service(config, found, Log(lines, clock), clock, wall or clock, opened)
    server = Server(service)
    before = set(threading.enumerate())
    problems: list[Exception] = []

    def serve() -> None:
        try:
            asyncio.run(server.serve())
        except Exception as error:  # raised where the block ends
            problems.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        server.started.wait()
        assert service.prepared.wait(WAIT_S)
        yield Running(service, server.port, clock, server, thread, lines)
    finally:
        server.stop()
        thread.join()
        for each in set(threading.enumerate()) - before:
            if not each.daemon:
                each.join(WAIT_S)  # a worker that was told to stop may need a moment
    left = {each for each in threading.enumerate() if each not in before and each.is_alive() and not each.daemon}
    assert not left, left
    if problems:
        raise problems[0]
