"""Error objects of a service as exceptions of Duotone."""

from __future__ import annotations

from typing import Any

from duotone.errors import (
    AudioError,
    CodecMismatchError,
    DuotoneError,
    FormatError,
    ServiceError,
    UsageError,
    WeightsError,
)

_BY_CODE: dict[int, type[DuotoneError]] = {
    kind.exit_code: kind for kind in (UsageError, AudioError, FormatError, CodecMismatchError, WeightsError)
}


def raised(document: dict[str, Any]) -> DuotoneError:
    """The exception of an error object: that which the same mistake raises here; `ServiceError` for what only a service says."""
    kind = _BY_CODE.get(document.get("exit_code", 1), ServiceError)
    if document.get("limit") is not None or document.get("retry_after") is not None:
        kind = ServiceError
    return kind(str(document.get("message")))
