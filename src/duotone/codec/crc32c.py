"""CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), as in RFC 3720 appendix B.4."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78


@cache
def _table() -> tuple[int, ...]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


def crc32c(data: bytes, before: int = 0) -> int:
    """The checksum of `data`, or of everything before it and `data` when its checksum so far is given."""
    table, crc = _table(), before ^ 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


class Parts:
    """Checksums of many slices of some bytes, without reading each slice again.

    The register is linear in its state and the data: with P[i] the register after i bytes (from zero) and Z_n the effect of n zero
    bytes on a register, that of bytes a to b from state s is ``Z_(b-a)(s ^ P[a]) ^ P[b]``.
    """

    def __init__(self, data: bytes) -> None:
        table, register = _table(), 0
        registers = np.empty(len(data) + 1, np.uint32)
        registers[0] = 0
        for i, byte in enumerate(data, start=1):
            register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
            registers[i] = register
        self._registers = registers

    def of(self, starts: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
        """The checksum of `length` bytes from each start."""
        entering = self._registers[starts] ^ _ONES
        sums: NDArray[np.uint32] = _zeros(length, entering) ^ self._registers[starts + length] ^ _ONES
        return sums


def after_zeros(sums: NDArray[np.uint32], count: int) -> NDArray[np.uint32]:
    """The checksums of data with these checksums followed by `count` zero bytes."""
    extended: NDArray[np.uint32] = _zeros(count, sums ^ _ONES) ^ _ONES
    return extended


_ONES = np.uint32(0xFFFFFFFF)


@cache
def _doubled(power: int) -> tuple[int, ...]:
    """The registers after ``2**power`` zero bytes, starting from each register with one bit set."""
    if power == 0:
        table = _table()
        return tuple(table[(1 << bit) & 0xFF] ^ ((1 << bit) >> 8) for bit in range(32))
    half = np.array(_doubled(power - 1), np.uint32)
    return tuple(int(value) for value in _applied(half, half))


def _applied(columns: NDArray[np.uint32], registers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Apply a linear map, given by its image of each bit, to some registers."""
    out = np.zeros_like(registers)
    for bit in range(32):
        out ^= np.where(registers >> np.uint32(bit) & np.uint32(1), columns[bit], np.uint32(0))
    return out


def _zeros(count: int, registers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The registers after `count` zero bytes."""
    for power in range(count.bit_length()):
        if count >> power & 1:
            registers = _applied(np.array(_doubled(power), np.uint32), registers)
    return registers
