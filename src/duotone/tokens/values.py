"""Conversion of users' arrays and tensors to NumPy arrays, and dataclasses of arrays that compare by value."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import UsageError

Int = NDArray[np.int64]


def as_codes(codes: Any) -> NDArray[Any]:
    """Lists, arrays of any integer type and byte order, tensors on any device -> an array `[K, T]`, copied only if necessary.

    Raises `UsageError` for other shapes and types.
    """
    array = _whole_numbers(codes, "Codes")
    if array.ndim != 2:
        raise UsageError(
            f"Codes got shape {list(array.shape)}, expected [codebooks, frames]. Of [1, codebooks, frames], pass codes[0]."
        )
    return array


def as_ids(ids: Any) -> Int:
    """Token ids `[M]`, or `[1, M]` as models give them, or a single id, of any of these types -> int64 `[M]`.

    Raises `UsageError` for several sequences at once, and for values that are not whole numbers.
    """
    if not hasattr(ids, "__len__") and hasattr(ids, "__iter__"):
        ids = list(ids)
    array = _whole_numbers(ids, "Token ids")
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim > 1:
        raise UsageError(
            f"Token ids got shape {list(array.shape)}, expected one sequence [M]. Pass the sequences one by one: ids[0], ..."
        )
    return np.atleast_1d(array).astype(np.int64, copy=False)


def _whole_numbers(values: Any, what: str) -> NDArray[Any]:
    """Values as an array of integers. Raises `UsageError`."""
    try:
        if hasattr(values, "detach"):  # a tensor of PyTorch, which is not imported here
            values = values.detach().cpu().numpy()
        array = np.asarray(values)
    except (TypeError, ValueError) as error:  # tensors of types that NumPy lacks; lists of unequal lengths
        raise UsageError(f"{what} cannot be read as one array of whole numbers: {error}.") from None
    if array.size == 0 and array.dtype == np.float64:
        array = array.astype(np.int64)  # what NumPy makes of empty lists
    if array.dtype.kind not in "iu":
        raise UsageError(f"{what} got values of type {array.dtype}, expected whole numbers.")
    return array


class ByValue:
    """Base of dataclasses that hold arrays: equal if all compared fields are equal."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        names = [field.name for field in dataclasses.fields(self) if field.compare]  # type: ignore[arg-type]
        return all(_same(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return type(one) is type(other) and np.array_equal(one, other)
    return bool(one == other)
