"""Work beside the model thread: one at a time, and none for a client that has left while it waited."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from starlette.requests import ClientDisconnect, Request

from duotone.serve.handlers import Handlers
from duotone.serve.settings import Limits


def request(*messages: dict[str, Any]) -> Request:
    """A request whose client sends these messages after its body, and then nothing more."""
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


def test_work_that_waits_for_a_client_that_left_is_not_begun() -> None:
    service: Any = SimpleNamespace(models=None, config=SimpleNamespace(limits=Limits()))
    begun, gate, done = threading.Event(), threading.Event(), []

    def slow() -> str:
        begun.set()
        gate.wait()
        return "first"

    async def scenario() -> None:
        handlers = Handlers(service)
        first = asyncio.create_task(handlers.apart(request(), slow))
        await asyncio.to_thread(begun.wait)
        left = asyncio.create_task(handlers.apart(request({"type": "http.disconnect"}), done.append, "left"))
        there = asyncio.create_task(handlers.apart(request(), done.append, "there"))
        await asyncio.sleep(0)  # both ask for their turn
        assert not left.done() and done == []
        gate.set()
        assert await first == "first"
        with pytest.raises(ClientDisconnect):
            await left
        await there

    asyncio.run(scenario())
    assert done == ["there"]
