"""The web application: routes of files, figures and pages. FastAPI is imported when an application is made.

Annotations of handlers are read by FastAPI inside `create_app`, so this file does without postponed ones.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from duotone.errors import DuotoneError, UsageError
from duotone.evaluate.opus import missing_programs
from duotone.flow.protocol import schema
from duotone.serve.files import MEDIA, SoundFormat, compared, decoded, described, encoded
from duotone.serve.guard import OPEN, bearer, check_host, client_of
from duotone.serve.handlers import BrokenOff, Handlers, Visit
from duotone.serve.page import add_page
from duotone.serve.patience import within
from duotone.serve.refusal import Refusal, defect, document, refused
from duotone.serve.service import Service
from duotone.serve.sockets import Socket
from duotone.spec import Face

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",  # this and the next: pages may share memory between threads
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'self'; connect-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
}


class Guarded:
    """An ASGI application behind host, origin and token checks; adds headers to every answer."""

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            visit = Visit(self._client(scope, headers))
        except Refusal as refusal:
            self.service.tell(refusal, scope["path"])
            await _refuse(scope, receive, send, refusal)
            return
        scope["duotone"] = visit
        with visit.stack:
            try:
                await self.app(scope, receive, partial(self._send, scope, send))
            except BrokenOff:
                return

    def _client(self, scope: Any, headers: dict[str, str]) -> str | None:
        """Who it is; None for a session that has yet to show its token. Raises `Refusal`."""
        config, token, path = self.service.config, bearer(headers), str(scope["path"])
        check_host(config, headers)
        if scope["type"] == "websocket" and token is None:
            return None if config.tokens else client_of(config, None)
        if path in OPEN or path.startswith("/studio/") or scope.get("method") == "OPTIONS":
            return "anyone"
        return client_of(config, token)

    async def _send(self, scope: Any, send: Send, message: Any) -> None:
        if message["type"] == "http.response.start":
            route = getattr(scope.get("route"), "path", "other")
            self.service.metrics.requests.labels(route, str(message["status"])).inc()
            message["headers"] = [*message.get("headers", []), *((k.encode(), v.encode()) for k, v in _HEADERS.items())]
        if scope["type"] != "http":
            await send(message)
            return
        try:
            await within(self.service.config.limits.idle_seconds, send(message))
        except TimeoutError:
            self.service.log("gone", path=scope["path"])
            raise BrokenOff from None


async def _refuse(scope: Any, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Answer a request with an error; a session is told in a frame, since browsers do not show the status of a handshake."""
    if scope["type"] == "websocket":
        from starlette.websockets import WebSocket

        from duotone.serve.frames import Failure

        socket = WebSocket(scope, receive, send)
        await socket.accept()
        await socket.send_bytes(Failure(document(refusal)).to_bytes())
        await socket.close(refusal.close)
        return
    await answer(refusal)(scope, receive, send)


def answer(refusal: Refusal) -> Any:
    """An error as an HTTP response."""
    from starlette.responses import JSONResponse

    headers = {"Connection": "close"}  # the rest of an upload is not waited for: it may be endless
    if refusal.retry is not None:
        headers["Retry-After"] = f"{refusal.retry:.0f}"
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(document(refusal), int(refusal.status), headers)


def create_app(service: Service, sessions: bool = True) -> Any:
    """The application of a service; without `sessions` it has the routes of files alone, not the page and the figures of this process."""
    from fastapi import FastAPI, Request, WebSocket
    from fastapi.responses import Response

    from duotone import __version__

    handlers, models, limits = Handlers(service), service.models, service.config.limits

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

    async def list_models() -> Any:
        """What is loaded, and the limits."""
        return {
            "version": __version__, **models.described(), "limits": limits.to_dict(), "opus": not missing_programs(),
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

    async def metrics() -> Any:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def session(websocket: WebSocket) -> None:
        await Socket(service, websocket, websocket.scope["duotone"].client).run()

    app: Any = FastAPI(
        title="Duotone",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        description="Audio -> latents or tokens -> audio.",
    )
    errors: dict[int | str, dict[str, Any]] = {code: {"description": text} for code, text in _ERRORS.items()}
    binary, form = _body("application/octet-stream"), _form("reference", "estimate")
    add = partial(app.add_api_route, response_model=None, responses=errors)
    add("/v1/encode", encode, methods=["POST"], openapi_extra=binary, response_class=Response)
    add("/v1/decode", decode, methods=["POST"], openapi_extra=binary, response_class=Response)
    add("/v1/info", info, methods=["POST"], openapi_extra=binary)
    add("/v1/evaluate", evaluate, methods=["POST"], openapi_extra=form)
    add("/v1/models", list_models, methods=["GET"])
    add("/v1/protocol", control_protocol, methods=["GET"])
    for path, handler in (("/health", health), ("/ready", ready)):
        app.add_api_route(path, handler, methods=["GET"], response_model=None)
    if sessions:
        app.add_api_route("/metrics", metrics, methods=["GET"], response_model=None)
        app.add_api_websocket_route("/v1/session", session)
        add_page(app, partial(add, methods=["POST"], openapi_extra=binary), handlers)
    _handle_errors(app, service)
    return Guarded(_shared(app, service), service)


def _shared(app: Any, service: Service) -> Any:
    """Let pages of allowed origins read answers."""
    if not service.config.origins:
        return app
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        app,
        allow_origins=service.config.origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type"],
    )


def _handle_errors(app: Any, service: Service) -> None:
    """Errors as the error object; a defect is logged with its traceback by the server."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.responses import Response

    async def known(request: Any, error: Any) -> Any:
        if isinstance(error, BrokenOff):  # told already; of an answer that has begun nothing more is sent
            return Response(status_code=int(HTTPStatus.INTERNAL_SERVER_ERROR))
        if isinstance(error, RequestValidationError):
            told = "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors()[:5])
            refusal = refused(UsageError(f"An argument is not acceptable: {told}."))
        elif isinstance(error, HTTPException):
            refusal = Refusal(
                f"Got {request.method} {request.url.path[:200]}: {error.detail}. See /openapi.json.",
                HTTPStatus(error.status_code),
            )
        else:
            refusal = refused(error)
        found = refusal or defect()
        service.tell(found, request.url.path)
        if refusal is None:
            service.log("defect", path=request.url.path, error=repr(error))
        return answer(found)

    async def gone(request: Any, error: Any) -> Any:
        service.log("gone", path=request.url.path)
        return Response(status_code=400)  # nobody receives it

    for kind in (DuotoneError, OSError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(ClientDisconnect, gone)


def _codec_for(models: Any, name: str | None, space: str) -> Any:
    return models.codec(name) if name is not None else models.maker(space)


_ERRORS = {
    400: "an argument is not acceptable", 401: "no token, or a wrong one", 403: "an origin or host name that is not allowed",
    404: "no such model", 408: "the upload stopped", 409: "made by another codec", 413: "a limit was hit",
    422: "a file that cannot be used", 501: "opus-tools is not installed", 503: "too much to do: see Retry-After", 507: "the disk is full",
}  # fmt: skip


def _body(media: str) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {media: {"schema": {"type": "string", "format": "binary"}}}}}


def _form(*names: str) -> dict[str, Any]:
    properties = {name: {"type": "string", "format": "binary"} for name in names}
    schema = {"type": "object", "properties": properties, "required": list(names)}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
