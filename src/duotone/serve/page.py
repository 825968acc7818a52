"""The studio's page: its files, and the requests that it makes besides those of everybody.

FastAPI reads the annotations of handlers, so this file does without postponed ones.
"""

from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from duotone.serve.handlers import Handlers
from duotone.serve.inside import MOST_CHUNKS, inside
from duotone.serve.parts import part_of, through_opus
from duotone.serve.routes import add_upload

#: Folders of the package that the page reads, by their paths below /studio; the last one is the page's own.
_FOLDERS = {"/studio/shared": "evaluate/assets/shared", "/studio/clips": "assets", "/studio": "serve/studio"}


def add_page(app: Any, handlers: Handlers) -> None:
    """Add the page and its requests to an application."""
    from fastapi import Query, Request
    from fastapi.responses import FileResponse, Response
    from fastapi.staticfiles import StaticFiles

    limits = handlers.limits
    fresh = {
        "Cache-Control": "no-cache"
    }  # the browser asks whether a file has changed, so that modules of two versions never meet

    class Files(StaticFiles):
        def file_response(self, *arguments: Any, **options: Any) -> Any:
            found = super().file_response(*arguments, **options)
            found.headers.update(fresh)
            return found

    async def page() -> Any:
        """The studio."""
        return FileResponse(folder("serve/studio") / "index.html", headers=fresh)

    async def sound(
        request: Request,
        start: Annotated[float, Query(ge=0)] = 0.0,
        seconds: Annotated[float, Query(gt=0)] = limits.compared_seconds,
    ) -> Any:
        """A sound file of any kind that is read here -> a part of it as WAV of 16 bits."""
        most = min(seconds, limits.compared_seconds)
        return await handlers.made(
            request, partial(part_of, limits=limits, start=start, seconds=most), "audio/wav", "sound"
        )

    async def values(
        request: Request,
        start: Annotated[int, Query(ge=0)] = 0,
        chunks: Annotated[int, Query(ge=1, le=MOST_CHUNKS)] = MOST_CHUNKS,
    ) -> Any:
        """Codes and latents of some chunks of a `.duo`, as numbers."""
        upload = await handlers.upload(request)
        with upload.reader() as file:
            return await handlers.apart(request, inside, file, start, chunks)

    async def opus(
        request: Request,
        bytes: Annotated[int | None, Query(ge=1)] = None,
        kbps: Annotated[float | None, Query(ge=1, le=512)] = None,
    ) -> Any:
        """A sound file -> the same through Opus, as WAV of 16 bits: the file nearest in size to `bytes`, or one of `kbps`."""
        upload = await handlers.upload(request)
        with upload.reader() as file:
            data, told = await handlers.apart(request, through_opus, file, limits, bytes, kbps)
        return Response(
            data, media_type="audio/wav", headers={f"Duotone-{key}": str(value) for key, value in told.items()}
        )

    app.add_api_route("/", page, methods=["GET"], include_in_schema=False, response_model=None)
    for path, handler in (("/v1/sound", sound), ("/v1/values", values), ("/v1/opus", opus)):
        add_upload(app, path, handler)
    for path, name in _FOLDERS.items():
        app.mount(path, Files(directory=folder(name)), name=path)


def folder(name: str) -> Path:
    """A folder of the package."""
    return Path(str(files("duotone"))) / name
