"""Uploads: bytes to temporary files without a name, which the system removes with their last user, whatever happens."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any, BinaryIO

from duotone.errors import UsageError
from duotone.serve.patience import within
from duotone.serve.refusal import Refusal, over
from duotone.serve.settings import Limits

#: Opens a temporary file for writing and reading.
Opener = Callable[[], Any]


def unnamed() -> Any:
    """A temporary file without a name."""
    return tempfile.TemporaryFile(prefix="duotone-serve-", buffering=0)


class Upload:
    """Bytes that arrive in parts, at most `limit`; `reader` then gives them. Close it, or use it as a context manager."""

    def __init__(self, limit: int, opened: Opener = unnamed) -> None:
        self.limit, self.size = limit, 0
        self.complete = False  #: whether its last part has come
        self._file = opened()

    def write(self, data: bytes) -> None:
        """Append bytes. Raises `Refusal` beyond the limit, `OSError` where the disk is full."""
        self.size += len(data)
        if self.size > self.limit:
            raise over("upload_bytes", "more", f"{self.limit} bytes", "The upload")
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def reader(self) -> BinaryIO:
        """The bytes from the beginning, as a file of its own, which sees what is written later. Raises `UsageError` if none came."""
        if self.size == 0:
            raise UsageError("The upload is empty (0 bytes), expected a file.")
        return io.BufferedReader(_Reader(self._file.fileno()))

    def close(self) -> None:
        """Let go of the bytes."""
        self._file.close()

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Reader(io.RawIOBase):
    """Reads a file at a position of its own."""

    name = "the upload"  # for messages

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor, self._at = os.dup(descriptor), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = os.fstat(self._descriptor).st_size
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: end}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = os.pread(self._descriptor, len(view), self._at)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


async def patient(parts: AsyncIterator[bytes], limits: Limits) -> AsyncIterator[bytes]:
    """The same parts. Raises `Refusal` where the next one, or the last one, does not come in time."""
    ends = time.monotonic() + limits.upload_seconds
    while True:
        left = max(0.0, ends - time.monotonic())
        try:
            part = await within(min(limits.idle_seconds, left), anext(parts))
        except StopAsyncIteration:
            return
        except TimeoutError:
            if left <= limits.idle_seconds:
                told, limit = f"It was not complete after {limits.upload_seconds:g} s", "upload_seconds"
            else:
                told, limit = f"Nothing came for {limits.idle_seconds:g} s", "idle_seconds"
            raise Refusal(
                f"{told} ({limit}); the upload was given up.", HTTPStatus.REQUEST_TIMEOUT, limit=limit
            ) from None
        yield part


async def received(parts: AsyncIterator[bytes], promised: str | None, limits: Limits, opened: Opener) -> Upload:
    """A whole body; `promised` is its header Content-Length. Raises `Refusal` for too many bytes, or too slow ones."""
    if promised is not None and promised.isdecimal() and int(promised) > limits.upload_bytes:
        raise over("upload_bytes", promised, f"{limits.upload_bytes} bytes", "The upload")
    upload = Upload(limits.upload_bytes, opened)
    try:
        async for part in patient(parts, limits):
            upload.write(part)
    except BaseException:
        upload.close()
        raise
    return upload
