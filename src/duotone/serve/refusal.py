"""Why something was not done, as the error object of HTTP answers and error frames."""

from __future__ import annotations

import errno
from http import HTTPStatus
from typing import Any

from pydantic import Field

from duotone.errors import (
    AudioError,
    CodecMismatchError,
    ConfigError,
    DuotoneError,
    FormatError,
    UsageError,
    WeightsError,
)
from duotone.flow import protocol

#: Close codes of WebSocket (RFC 6455, section 7.4.1, and its registry).
DONE, NO_FRAME, POLICY, TOO_LARGE, FAILED, STOPPING, BUSY = 1000, 1002, 1008, 1009, 1011, 1012, 1013
_SYSTEM = 7  # exit code of what the system refuses
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ErrorObject(protocol.Error):
    """The protocol's error, with the limit that was hit and the time after which to try again."""

    limit: str | None = Field(default=None, description="name of the limit that was hit")
    retry_after: float | None = Field(default=None, description="seconds")


class Refusal(DuotoneError):
    """What the service does not do, with HTTP status and close code."""

    exit_code = UsageError.exit_code

    def __init__(
        self,
        message: str,
        status: HTTPStatus,
        close: int = POLICY,
        limit: str | None = None,
        retry: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.close, self.limit, self.retry = status, close, limit, retry


def over(limit: str, got: object, most: object, what: str) -> Refusal:
    """A limit of the service was hit."""
    close = TOO_LARGE if limit == "message_bytes" else POLICY
    return Refusal(
        f"{what} got {got}, expected at most {most} ({limit}). Send less, or let whoever runs the service raise the limit.",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, close, limit,
    )  # fmt: skip


def busy(message: str, retry: float, limit: str | None = None) -> Refusal:
    """There is too much to do."""
    return Refusal(f"{message} Try again in {retry:g} s.", HTTPStatus.SERVICE_UNAVAILABLE, BUSY, limit, retry)


def refused(error: Exception) -> Refusal | None:
    """An expected error as a refusal; None for a defect of ours."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, OSError) and error.errno in _FULL:
        found = Refusal("The disk of the service is full. Try again later.", HTTPStatus.INSUFFICIENT_STORAGE, FAILED)
        found.exit_code = _SYSTEM
        return found
    statuses: tuple[tuple[type[DuotoneError], HTTPStatus], ...] = (
        (CodecMismatchError, HTTPStatus.CONFLICT),
        (AudioError, HTTPStatus.UNPROCESSABLE_ENTITY),
        (FormatError, HTTPStatus.UNPROCESSABLE_ENTITY),
        (UsageError, HTTPStatus.BAD_REQUEST),
        (ConfigError, HTTPStatus.BAD_REQUEST),
        (WeightsError, HTTPStatus.NOT_FOUND),
    )
    for kind, status in statuses:
        if isinstance(error, kind):
            found = Refusal(str(error), status)
            found.exit_code = error.exit_code
            return found
    return None


def defect() -> Refusal:
    """What a client is told of a defect; the log has the rest."""
    found = Refusal("The service failed; its log tells why.", HTTPStatus.INTERNAL_SERVER_ERROR, FAILED)
    found.exit_code = DuotoneError.exit_code
    return found


def document(refusal: Refusal, id: protocol.Id = None) -> dict[str, Any]:
    """The error object."""
    return ErrorObject(
        id=id, message=str(refusal), exit_code=refusal.exit_code, limit=refusal.limit, retry_after=refusal.retry
    ).to_dict()
