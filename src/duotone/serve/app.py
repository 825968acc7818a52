"""The web application: its routes behind host, origin and token checks, and its errors. FastAPI is imported when one is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from duotone.errors import DuotoneError, UsageError
from duotone.serve.guard import OPEN, bearer, check_host, client_of
from duotone.serve.handlers import BrokenOff, Handlers, Visit
from duotone.serve.page import add_page
from duotone.serve.patience import within
from duotone.serve.refusal import Refusal, defect, document, refused
from duotone.serve.routes import add_files, add_sessions, add_state
from duotone.serve.service import Service

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
    from fastapi import FastAPI

    from duotone import __version__

    app: Any = FastAPI(
        title="Duotone",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        description="Audio -> latents or tokens -> audio.",
    )
    handlers = Handlers(service)
    add_files(app, handlers)
    add_state(app, service)
    if sessions:
        add_sessions(app, service)
        add_page(app, handlers)
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
