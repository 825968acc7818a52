"""Sounds for the studio's comparison: a part of a file, and a file through Opus, as WAV."""

from __future__ import annotations

import io
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, BinaryIO

from duotone.audio.files import open_reader
from duotone.audio.wav_stream import WavStream
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError, UsageError
from duotone.evaluate.opus import PROGRAMS, missing_programs, opus_nearest, opus_roundtrip
from duotone.serve.files import whole
from duotone.serve.refusal import Refusal, over
from duotone.serve.settings import Limits

_BLOCK = 1.0  # seconds


def part_of(file: BinaryIO, limits: Limits, start: float, seconds: float) -> Iterator[bytes]:
    """A part of a sound file, from `start` on and at most so many `seconds`, as WAV.

    Raises `AudioError` where the sound ends before, `Refusal` where it is larger than the limits allow.
    """
    room = limits.decoded_bytes
    with open_reader(file, _BLOCK) as reader:
        first, last = round(start * reader.rate), round((start + seconds) * reader.rate)
        waves, at = [], 0
        for block in reader:
            taken = block.samples[:, max(0, first - at) : max(0, last - at)]
            at += block.length
            if taken.shape[1]:
                waves.append(taken)
                room -= taken.numel() * taken.element_size()
            if room < 0:
                raise over("decoded_bytes", "more", f"{limits.decoded_bytes} bytes of samples", "The part")
            yield b""  # sessions may go before the next block
            if at >= last:
                break
        samples = sum(wave.shape[1] for wave in waves)
        if samples == 0:
            raise AudioError(
                f"The sound lasts {at / reader.rate:.2f} s, so that nothing is left from {start:g} s on. Begin earlier."
            )
        buffer = io.BytesIO()
        stream = WavStream(buffer, reader.rate, reader.channels, samples)
        for wave in waves:
            stream.write(Waveform(wave, reader.rate))
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()


def through_opus(
    file: BinaryIO, limits: Limits, file_bytes: int | None, kbps: float | None
) -> tuple[bytes, dict[str, Any]]:
    """A sound through Opus as WAV, and what its file is: bytes, --bitrate, channels, bandwidth in Hz.

    It is the file nearest in size to `file_bytes`, or one of `kbps`. Raises `Refusal` without opus-tools, `UsageError` unless
    one of the two is given.
    """
    check_opus()
    if (file_bytes is None) == (kbps is None):
        raise UsageError("opus takes the bytes of the file that it should be nearest to, or kbps: one of the two.")
    wave = whole(file, limits, "compared_seconds")
    if file_bytes is not None:
        asked, result = opus_nearest(wave, file_bytes)
    else:
        asked, result = kbps, opus_roundtrip(wave, kbps)  # type: ignore[assignment, arg-type]
    buffer = io.BytesIO()
    WavStream(buffer, wave.rate, wave.channels, wave.length).write(result.wave)
    told = {
        "Bytes": result.file_bytes, "Bitrate": f"{asked:g}", "Bandwidth": result.bandwidth,
        "Channels": 2 if result.stereo_packets > result.packets / 2 else 1,
    }  # fmt: skip
    return buffer.getvalue(), told


def check_opus() -> None:
    """Raise `Refusal` where opus-tools is not installed."""
    if missing := missing_programs():
        raise Refusal(
            f"Opus needs {' and '.join(missing)} of {' and '.join(PROGRAMS)}, which the machine of the service does not have "
            "(Debian: apt install opus-tools).", HTTPStatus.NOT_IMPLEMENTED,
        )  # fmt: skip
