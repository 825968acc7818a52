"""What the routes of files have in common: uploads, answers that are made while they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from duotone.errors import DuotoneError, UsageError
from duotone.serve.files import FileJob
from duotone.serve.outbox import Outbox
from duotone.serve.refusal import defect, over, refused
from duotone.serve.service import Service
from duotone.serve.uploads import Upload, patient, received

_ROOM = 8  # pieces of an answer that wait to be sent


class BrokenOff(Exception):
    """An answer cannot be completed; its connection is closed without an end."""


class Visit:
    """One request or connection: who makes it, and what is let go of after it."""

    def __init__(self, client: str | None) -> None:
        self.client, self.stack = client, ExitStack()


class Handlers:
    """What the routes do."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.models, self.limits = service.models, service.config.limits
        self._measuring = asyncio.Lock()

    async def upload(self, request: Any) -> Upload:
        """The body of a request in a temporary file."""
        visit: Visit = request.scope["duotone"]
        visit.stack.enter_context(self.service.request())
        promised = request.headers.get("content-length")
        upload = await received(aiter(request.stream()), promised, self.limits, self.service.opened)
        visit.stack.callback(upload.close)
        return upload

    async def made(self, request: Any, pieces: Callable[[Any], Iterator[bytes]], media: str, kind: str) -> Any:
        """An answer that is made by the model thread while it is sent."""
        from starlette.responses import StreamingResponse

        upload, device = await self.upload(request), self.service.device
        resources = ExitStack()
        file = resources.enter_context(upload.reader())
        outbox = Outbox(asyncio.get_running_loop(), _ROOM, device.wake)
        job = FileJob(pieces(file), outbox, resources, kind)
        request.scope["duotone"].stack.callback(device.wake)
        request.scope["duotone"].stack.callback(job.cancel)
        device.add(job)
        stream = aiter(outbox)
        first = await anext(stream, b"")

        async def body() -> Any:
            yield first
            try:
                async for piece in stream:
                    yield piece
            except (DuotoneError, OSError) as error:
                self.service.tell(refused(error) or defect(), f"{request.url.path}, after the first byte")
                raise BrokenOff from error

        return StreamingResponse(body(), media_type=media)

    async def apart(self, request: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives that would keep the model thread from sessions: one at a time, in another thread.

        Raises `ClientDisconnect` in place of beginning for a client that has left.
        """
        from starlette.requests import ClientDisconnect

        async with self._measuring:
            if await request.is_disconnected():
                raise ClientDisconnect
            return await asyncio.to_thread(function, *arguments)

    async def pair(self, request: Any) -> tuple[Any, Any]:
        """The two files of a form, of limited size together."""
        from starlette.datastructures import UploadFile
        from starlette.formparsers import MultiPartException, MultiPartParser

        visit: Visit = request.scope["duotone"]
        visit.stack.enter_context(self.service.request())
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise UsageError("evaluate takes a form (multipart/form-data) with the files reference and estimate.")
        found = []
        try:
            parser = MultiPartParser(request.headers, self._counted(patient(aiter(request.stream()), self.limits)))
            form: Any = await parser.parse()
        except (MultiPartException, KeyError) as error:
            raise UsageError(f"The form cannot be read ({error}).") from None
        for name in ("reference", "estimate"):
            field = form.get(name)
            if not isinstance(field, UploadFile):
                raise UsageError(f"The form has no file {name}, expected reference and estimate.")
            upload = Upload(self.limits.upload_bytes, self.service.opened)
            visit.stack.callback(upload.close)
            while part := await field.read(1 << 20):
                upload.write(part)
            found.append(visit.stack.enter_context(upload.reader()))
        await form.close()
        return found[0], found[1]

    async def _counted(self, parts: Any) -> Any:
        total = 0
        async for part in parts:
            total += len(part)
            if total > self.limits.upload_bytes:
                raise over("upload_bytes", "more", f"{self.limits.upload_bytes} bytes", "The form")
            yield part
