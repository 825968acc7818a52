"""Alphabets: which character represents which code. The alphabet is stored with each tokenizer.

Legend: K codebooks of `size` codes; code v of codebook k has the number ``k * size + v``; each number has a character.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import UsageError

#: The first character of the layouts of `codec-bpe`: usually (Shen et al., 2024), and where that range is too small.
UNICODE_OFFSET = 0x4E00
UNICODE_OFFSET_LARGE = 0xE000

VERSION = 1
UTF32 = "utf-32-le" if np.little_endian else "utf-32-be"
_SURROGATES = range(0xD800, 0xE000)
_LAST = 0x10FFFF

# Characters that text does not use and Unicode normalization does not change: first those for private use, which Unicode promises
# to keep stable, then planes in which no characters are assigned. Noncharacters (the last two of a plane) are left out.
_PRIVATE = ((0xE000, 0xF8FF),)
_PRIVATE_PLANES = ((0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))
_EMPTY_PLANES = tuple((plane << 16, (plane << 16) + 0xFFFD) for plane in range(4, 14))
_LAYOUTS = (_PRIVATE, _PRIVATE_PLANES, (*_PRIVATE_PLANES, *_EMPTY_PLANES))

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Alphabet:
    """K x `size` characters, one for each code of each codebook.

    With `offset` None the layout avoids surrogates, noncharacters and characters that normalization changes; with an
    offset it is that of `codec-bpe`: one range of characters starting there. Raises `UsageError` where there is no room.
    """

    codebooks: int
    size: int
    offset: int | None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.codebooks < 1 or self.size < 1:
            raise UsageError(
                f"An alphabet got {self.codebooks} codebooks of {self.size} codes, expected at least 1 of each."
            )
        if self.version != VERSION:
            raise UsageError(
                f"An alphabet got version {self.version}, this Duotone knows {VERSION}. Update Duotone to read it."
            )
        if self.offset is not None:
            self._check_offset(self.offset)
        elif self._layout() is None:
            room = sum(b - a + 1 for a, b in _LAYOUTS[-1])
            raise UsageError(
                f"{self.codebooks} x {self.size} codes need {len(self)} characters, but Unicode has only {room} that "
                f"are safe. Use fewer codebooks, or offset={UNICODE_OFFSET_LARGE:#x}, which has room for "
                f"{_LAST + 1 - UNICODE_OFFSET_LARGE} but holds characters that normalizations change."
            )

    def _check_offset(self, offset: int) -> None:
        last = offset + len(self) - 1
        if offset < 0 or last > _LAST:
            raise UsageError(
                f"{self.codebooks} x {self.size} codes from offset {offset:#x} end at {last:#x}, beyond the last "
                f"character {_LAST:#x}. Leave the offset out, or use fewer codebooks."
            )
        if offset < _SURROGATES.stop and last >= _SURROGATES.start:
            raise UsageError(
                f"{self.codebooks} x {self.size} codes from offset {offset:#x} end at {last:#x}, which overlaps the "
                f"surrogates 0xd800-0xdfff, which are not characters. Leave the offset out, or use one from "
                f"{UNICODE_OFFSET_LARGE:#x} on."
            )

    def _layout(self) -> Ranges | None:
        return next((r for r in _LAYOUTS if sum(b - a + 1 for a, b in r) >= len(self)), None)

    @classmethod
    def plain(cls, codebooks: int, size: int, offset: int | None = None) -> Alphabet:
        """The alphabet of `codec-bpe`: from `offset`, by default 0x4E00 or, if it does not fit there, 0xE000."""
        if offset is None:
            fits = UNICODE_OFFSET + codebooks * size <= _SURROGATES.start
            offset = UNICODE_OFFSET if fits else UNICODE_OFFSET_LARGE
        return cls(codebooks, size, offset)

    def __len__(self) -> int:
        return self.codebooks * self.size

    @cached_property
    def ranges(self) -> Ranges:
        """Ranges of characters (first, last), in the order of the codes' numbers; the last range ends with the last code."""
        found = ((self.offset, _LAST),) if self.offset is not None else self._layout()
        assert found is not None
        left, out = len(self), []
        for first, last in found:
            count = min(left, last - first + 1)
            if count:
                out.append((first, first + count - 1))
            left -= count
        return tuple(out)

    @cached_property
    def points(self) -> NDArray[np.uint32]:
        """The characters' code points `[K * size]`, by number."""
        return np.concatenate([np.arange(a, b + 1, dtype=np.uint32) for a, b in self.ranges])

    def text(self, numbers: NDArray[np.uint32]) -> str:
        """Numbers of codes `[N]` -> their characters."""
        if len(self.ranges) == 1:
            return str((numbers + np.uint32(self.ranges[0][0])).data, UTF32)
        return str(self.points[numbers].data, UTF32)

    def numbers(self, points: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Code points -> the codes' numbers; characters outside the alphabet give numbers of at least `len(self)`."""
        first, last = self.ranges[0]
        out: NDArray[np.uint32] = points - np.uint32(first)  # smaller code points wrap around to very large numbers
        before = last - first + 1
        if len(self.ranges) > 1:
            out[out >= before] = 0xFFFFFFFF
        for a, b in self.ranges[1:]:
            inside = (points >= a) & (points <= b)
            out[inside] = points[inside] - np.uint32(a) + np.uint32(before)
            before += b - a + 1
        return out

    @property
    def regex(self) -> str:
        """A regular expression for one character of this alphabet."""
        return "[" + "".join(f"{chr(a)}-{chr(b)}" for a, b in self.ranges) + "]"

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"codebooks": self.codebooks, "size": self.size, "offset": self.offset, "version": self.version}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Alphabet:
        """The inverse of `to_dict`. Raises `UsageError` for anything else."""
        known = {"codebooks", "size", "offset", "version"}
        if set(values) != known or not all(
            isinstance(v, int) or (k == "offset" and v is None) for k, v in values.items()
        ):
            raise UsageError(f"An alphabet got {values}, expected whole numbers {', '.join(sorted(known))}.")
        return cls(**values)
