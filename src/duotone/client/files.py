"""The client of a service for files. Imports no torch: what is computed is computed there."""

from __future__ import annotations

import http.client
import io
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Literal
from urllib.parse import urlencode, urlsplit

from duotone.client.errors import raised
from duotone.errors import ServiceError, UsageError

if TYPE_CHECKING:
    from duotone.client.live import LiveSession

#: A file's path, its bytes, or a file open for reading.
File = str | os.PathLike[str] | bytes | BinaryIO
_PIECE = 1 << 16


class Client:
    """A service at `url`, such as ``http://127.0.0.1:8777``; `token` where it wants one, `timeout` in seconds.

    Errors of the service are raised as they would be here: `AudioError`, `FormatError`, `CodecMismatchError`, `UsageError`, `WeightsError`.
    `ServiceError` is raised if it cannot be reached, is too busy, or breaks an answer off.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 60.0) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        plain = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password)
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or not plain:
            raise UsageError(f"Got the service {url!r}, expected an address such as http://127.0.0.1:8777.")
        self.url, self.token, self.timeout = f"{parts.scheme}://{parts.netloc}", token, timeout
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, port

    def models(self) -> dict[str, Any]:
        """The codecs, the flow and the limits of the service."""
        found: dict[str, Any] = self._json("GET", "/v1/models")
        return found

    def info(self, file: File) -> dict[str, Any]:
        """What a `.duo` or a sound is."""
        with opened(file) as body:
            found: dict[str, Any] = self._json("POST", "/v1/info", body)
        return found

    def evaluate(self, reference: File, estimate: File, speech: bool = False) -> dict[str, float | None]:
        """The metrics of a pair of sounds; None where one is infinite."""
        mark = secrets.token_hex(16)
        body = io.BytesIO()
        for name, file in (("reference", reference), ("estimate", estimate)):
            body.write(f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode())
            with opened(file) as part:
                body.write(part.read())
            body.write(b"\r\n")
        body.write(f"--{mark}--\r\n".encode())
        body.seek(0)
        path = "/v1/evaluate" + _query(speech="true" if speech else None)
        found: dict[str, float | None] = self._json("POST", path, body, f"multipart/form-data; boundary={mark}")
        return found

    def encode(
        self, file: File, kind: Literal["tokens", "latents"] | None = None, model: str | None = None
    ) -> Iterator[bytes]:
        """A sound -> the bytes of a `.duo`, in pieces, as they are made."""
        return self._pieces("/v1/encode" + _query(kind=kind, model=model), file)

    def decode(
        self,
        file: File,
        format: Literal["wav", "flac"] = "wav",
        model: str | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Iterator[bytes]:
        """A `.duo` -> the bytes of a sound file, in pieces, as they are made. `options`: strategy, steps, iterations."""
        return self._pieces("/v1/decode" + _query(format=format, model=model, seed=seed, **options), file)

    def session(self, kind: Literal["encode", "decode", "continue", "jam"], **hello: Any) -> LiveSession:
        """A live session, to be used as a context manager; `hello` are the fields of the handshake. Needs the package websockets."""
        from duotone.client.live import LiveSession

        return LiveSession(self.url, self.token, self.timeout, {"kind": kind, **hello})

    # --- HTTP

    def _pieces(self, path: str, file: File) -> Iterator[bytes]:
        with opened(file) as body, self._request("POST", path, body) as response:
            try:
                while piece := response.read(_PIECE):
                    yield piece
            except (http.client.HTTPException, OSError) as error:
                raise ServiceError(
                    f"The service broke the answer off ({error or type(error).__name__}); what came is not whole. Its log tells why."
                ) from None

    def _json(self, method: str, path: str, body: BinaryIO | None = None, kind: str | None = None) -> Any:
        with self._request(method, path, body, kind) as response:
            return json.loads(response.read())

    @contextmanager
    def _request(
        self, method: str, path: str, body: BinaryIO | None = None, kind: str | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """A response of status 200. Raises what the service tells otherwise."""
        headers = {"Content-Type": kind or "application/octet-stream"} if body is not None else {}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        make = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        with closing(make(self._host, self._port, timeout=self.timeout)) as connection:
            response = self._answer(connection, method, path, body, headers)
            if response.status != 200:
                raise raised(_document(response))
            yield response

    def _answer(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: BinaryIO | None,
        headers: dict[str, str],
    ) -> http.client.HTTPResponse:
        refusal: OSError | None = None
        try:
            connection.request(method, path, body, headers, encode_chunked=_size(body) is None)
        except (BrokenPipeError, ConnectionResetError) as error:  # it may have answered before it had everything
            refusal = error
        except OSError as error:
            raise ServiceError(
                f"The service {self.url} cannot be reached ({error}). Start it: duotone serve."
            ) from None
        try:
            return connection.getresponse()
        except (http.client.HTTPException, OSError) as error:
            raise ServiceError(f"The service {self.url} gave no answer ({refusal or error}).") from None


def _document(response: http.client.HTTPResponse) -> dict[str, Any]:
    try:
        found = json.loads(response.read(1 << 20))
    except (ValueError, http.client.HTTPException, OSError):
        found = None
    if isinstance(found, dict) and isinstance(found.get("message"), str):
        return found
    return {"message": f"The service answered with status {response.status} and no words of Duotone. Is it one?"}


@contextmanager
def opened(file: File) -> Iterator[BinaryIO]:
    """A file open for reading."""
    if isinstance(file, bytes):
        yield io.BytesIO(file)
    elif isinstance(file, str | os.PathLike):
        with open(file, "rb") as found:
            yield found
    else:
        yield file


def _size(body: BinaryIO | None) -> int | None:
    """The length of a body that can be told; of others it is sent in chunks."""
    if body is None:
        return 0
    return len(body.getbuffer()) if isinstance(body, io.BytesIO) else None


def _query(**values: Any) -> str:
    given = {name: value for name, value in values.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""
