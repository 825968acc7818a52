"""WAV of 16 bits to a stream that cannot seek, such as a pipe: the header is written first.

Where the length is not known, or does not fit 32 bits, the sizes in the header are the largest ones, which players read as "to the end".
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from duotone.audio.formats import check_format
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError

_ENDLESS = 0xFFFFFFFF


class WavStream:
    """Writes waveforms of one rate and number of channels; `samples` a channel is the length, if it is known."""

    def __init__(
        self, stream: BinaryIO, rate: int, channels: int, samples: int | None = None, comment: str | None = None
    ) -> None:
        check_format(rate, channels, "The output")
        self.stream, self.rate, self.channels = stream, rate, channels
        stream.write(_header(rate, channels, samples, comment))
        stream.flush()

    def write(self, wave: Waveform) -> None:
        """Write a block at once. Raises `AudioError` for another rate or number of channels."""
        if (wave.rate, wave.channels) != (self.rate, self.channels):
            raise AudioError(
                f"The stream got {wave.channels} channels at {wave.rate} Hz, expected {self.channels} at {self.rate} Hz."
            )
        self.stream.write(pcm(wave.numpy()).T.tobytes())
        self.stream.flush()


def pcm(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Float samples -> 16 bits, as libsndfile makes them: the upper half of 32 bits, clamped at full scale."""
    wide = np.rint(samples.astype(np.float64) * 0x7FFFFFFF).clip(-0x80000000, 0x7FFFFFFF).astype(np.int64)
    return (wide >> 16).astype("<i2")


def _header(rate: int, channels: int, samples: int | None, comment: str | None) -> bytes:
    frame = 2 * channels
    body = b"WAVE" + _chunk(b"fmt ", struct.pack("<HHIIHH", 1, channels, rate, rate * frame, frame, 16))
    if comment is not None:
        body += _chunk(b"LIST", b"INFO" + _chunk(b"ICMT", comment.encode() + b"\0"))
    size = _ENDLESS if samples is None else samples * frame
    whole = min(_ENDLESS, len(body) + 8 + size)
    return (
        b"RIFF" + struct.pack("<I", whole) + body + b"data" + struct.pack("<I", size if whole < _ENDLESS else _ENDLESS)
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
