"""Runs the service: binds the address, serves, and on the first signal tells the sessions and stops."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from typing import Any

from duotone.errors import DuotoneError, UsageError
from duotone.serve.service import Service

_PROTOCOL_BYTES = 1 << 16  # of a message beyond its limit, before the protocol itself closes the connection


class Server:
    """A service and its web server; `stop` may be called in any thread. `listening` is a socket of `bound`, else one is made."""

    def __init__(self, service: Service, listening: socket.socket | None = None) -> None:
        self.service = service
        self._listening = listening
        self.started = threading.Event()  #: set when it listens, or failed to
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Tell the sessions, and end."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def serve(self) -> None:
        """Serve until `stop`, or in the main thread until SIGINT or SIGTERM.

        Raises `UsageError` if the address cannot be used, `DuotoneError` if the model thread ended by itself.
        """
        import uvicorn

        from duotone.serve.app import create_app

        self._loop = asyncio.get_running_loop()
        config = self.service.config
        try:
            listening = self._listening or bound(config.host, config.port)
            self.port = listening.getsockname()[1]
            settings = uvicorn.Config(
                create_app(self.service), lifespan="off", access_log=False, log_config=_logging(), proxy_headers=False, server_header=False,
                ws="websockets-sansio", ws_max_size=config.limits.message_bytes + _PROTOCOL_BYTES, ws_per_message_deflate=False,
                timeout_graceful_shutdown=1, h11_max_incomplete_event_size=1 << 16,
            )  # fmt: skip
            server: Any = uvicorn.Server(settings)
            # It takes SIGINT and SIGTERM where it runs in the main thread.
            server.handle_exit = lambda number, frame: self.stop()
            self.service.on_broken = self.stop
            self.service.start()
        finally:
            self.started.set()
        url = f"http://{f'[{config.host}]' if ':' in config.host else config.host}:{self.port}/"
        models = self.service.models
        self.service.log(
            "started", url=url, host=config.host, port=self.port, codecs=list(models.codecs), flow=models.flow_name
        )
        serving = asyncio.ensure_future(server.serve([listening]))
        try:
            await asyncio.wait(
                [serving, stopping := asyncio.ensure_future(self._stopping.wait())], return_when=asyncio.FIRST_COMPLETED
            )
            stopping.cancel()
            await self.service.drain()
            server.should_exit = True
            await serving
        finally:
            self.service.stop()
            listening.close()
            self.service.log("stopped")
        if self.service.broken is not None:
            raise DuotoneError(f"The model thread ended ({self.service.broken!r}). Start the service again.")


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `UsageError` for an address that cannot be used."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UsageError(
            f"The service cannot listen on {host} ({error.strerror}). Give --host an address of this machine."
        ) from None
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        found.close()
        what = "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
        raise UsageError(
            f"The service cannot listen on {host}, port {port} ({error.strerror}). Choose another {what}."
        ) from None
    return found


def _logging() -> dict[str, Any]:
    """The web server's own messages: warnings and errors alone, as JSON."""
    form = {"format": '{"event": "server", "level": "%(levelname)s", "message": %(message)r}'}
    handler = {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"}
    return {
        "version": 1, "disable_existing_loggers": False, "formatters": {"plain": form}, "handlers": {"plain": handler},
        "loggers": {"uvicorn": {"handlers": ["plain"], "level": "WARNING", "propagate": False}},
    }  # fmt: skip
