"""Routes of files, of the service's state, and of live sessions.

FastAPI reads the annotations of handlers, so this file does without postponed ones.
"""

from functools import partial
from typing import Any

from duotone.evaluate.opus import missing_programs
from duotone.flow.protocol import schema
from duotone.serve.files import MEDIA, SoundFormat, compared, decoded, described, encoded
from duotone.serve.handlers import Handlers
from duotone.serve.service import Service
from duotone.serve.sockets import Socket
from duotone.spec import Face

_ERRORS = {
    400: "an argument is not acceptable", 401: "no token, or a wrong one", 403: "an origin or host name that is not allowed",
    404: "no such model", 408: "the upload stopped", 409: "made by another codec", 413: "a limit was hit",
    422: "a file that cannot be used", 501: "opus-tools is not installed", 503: "too much to do: see Retry-After", 507: "the disk is full",
}  # fmt: skip
#: Answers besides 200, as OpenAPI describes them.
_ANSWERS: dict[int | str, dict[str, Any]] = {code: {"description": text} for code, text in _ERRORS.items()}


def add_files(app: Any, handlers: Handlers) -> None:
    """Add the requests that take files to an application."""
    from fastapi import Request
    from fastapi.responses import Response

    models, limits = handlers.service.models, handlers.limits

    async def encode(request: Request, model: str | None = None, kind: Face | None = None) -> Any:
        """A sound file -> `.duo`, sent while it is made. Default kind: tokens, where the codec has them."""
        codec = models.codec(model)
        face = kind or codec.spec.faces[-1]
        return await handlers.made(
            request, lambda file: encoded(file, codec, face, limits.decoded_seconds), "application/x-duotone", "encode"
        )

    async def decode(
        request: Request, format: SoundFormat = "wav", model: str | None = None, seed: int = 0, strategy: str | None = None,
        steps: int | None = None, iterations: int | None = None,
    ) -> Any:  # fmt: skip
        """A `.duo` -> WAV or FLAC of 16 bits, sent while it is made."""
        wishes = {"strategy": strategy, "steps": steps, "iterations": iterations}
        options = {name: value for name, value in wishes.items() if value is not None}
        pick = partial(_codec_for, models, model)
        return await handlers.made(
            request,
            lambda file: decoded(file, pick, format, limits.decoded_seconds, seed, options),
            MEDIA[format],
            "decode",
        )

    async def info(request: Request) -> Any:
        """What a `.duo` or a sound file is."""
        upload = await handlers.upload(request)
        with upload.reader() as file:
            return await handlers.apart(request, described, file, limits)

    async def evaluate(request: Request, speech: bool = False) -> Any:
        """The metrics of a pair of sounds; null where one is infinite, as for equal sounds."""
        pair = await handlers.pair(request)
        return await handlers.apart(request, compared, *pair, limits, speech)

    add_upload(app, "/v1/encode", encode, response_class=Response)
    add_upload(app, "/v1/decode", decode, response_class=Response)
    add_upload(app, "/v1/info", info)
    add_upload(app, "/v1/evaluate", evaluate, content=_form("reference", "estimate"))


def add_state(app: Any, service: Service) -> None:
    """Add what tells about the service: models and limits, the protocol of sessions, and whether it is well."""
    from duotone import __version__

    async def list_models() -> Any:
        """What is loaded, and the limits."""
        return {
            "version": __version__, **service.models.described(), "limits": service.config.limits.to_dict(),
            "opus": not missing_programs(),
        }  # fmt: skip

    async def control_protocol() -> Any:
        """The commands and events of live sessions, as JSON Schema."""
        return schema()

    async def health() -> Any:
        """The process answers, and can compute."""
        service.check_health()
        return {"health": "ok"}

    async def ready() -> Any:
        """New work is taken."""
        service.check_ready()
        return {"ready": True}

    for path, handler in (("/v1/models", list_models), ("/v1/protocol", control_protocol)):
        _add(app, path, handler, "GET")
    for path, handler in (("/health", health), ("/ready", ready)):
        app.add_api_route(path, handler, methods=["GET"], response_model=None)


def add_sessions(app: Any, service: Service) -> None:
    """Add live sessions, and the figures of this process for Prometheus."""
    from fastapi import WebSocket
    from fastapi.responses import Response

    async def session(websocket: WebSocket) -> None:
        await Socket(service, websocket, websocket.scope["duotone"].client).run()

    async def metrics() -> Any:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_api_route("/metrics", metrics, methods=["GET"], response_model=None)
    app.add_api_websocket_route("/v1/session", session)


def add_upload(app: Any, path: str, handler: Any, content: dict[str, Any] | None = None, **options: Any) -> None:
    """Add a request whose body is a file, or is described by `content` (media type -> schema, as in OpenAPI)."""
    body = {"required": True, "content": content or {"application/octet-stream": {"schema": _FILE}}}
    _add(app, path, handler, "POST", openapi_extra={"requestBody": body}, **options)


def _add(app: Any, path: str, handler: Any, method: str, **options: Any) -> None:
    """Add a route with its errors described."""
    app.add_api_route(path, handler, methods=[method], response_model=None, responses=_ANSWERS, **options)


_FILE = {"type": "string", "format": "binary"}


def _form(*names: str) -> dict[str, Any]:
    """The content of a form that has a file under each of these names."""
    schema = {"type": "object", "properties": dict.fromkeys(names, _FILE), "required": list(names)}
    return {"multipart/form-data": {"schema": schema}}


def _codec_for(models: Any, name: str | None, space: str) -> Any:
    return models.codec(name) if name is not None else models.maker(space)
