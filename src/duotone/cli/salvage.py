"""Decoding a damaged file: silence in place of lost chunks, and a message about them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duotone.audio.waveform import Waveform
    from duotone.codec.container import DuoReader


class Mute:
    """Replaces the samples of lost chunks by silence; keeps track of the position in the output.

    A lost chunk affects all samples that it was encoded from: its own, `behind` samples before and `ahead` after them.
    """

    def __init__(self, reader: DuoReader, rate: int) -> None:
        self.reader, self.rate, self.position = reader, rate, 0
        self.spec = reader.spec.framed(reader.source.framing)

    def __call__(self, wave: Waveform) -> Waveform:
        """Return the next samples, with those of lost chunks set to zero."""
        from duotone.audio.waveform import Waveform

        start, self.position = self.position, self.position + wave.length
        samples = wave.samples
        for first, last in self._spans():
            a, b = max(0, first - start), min(wave.length, last - start)
            if a < b:
                samples = samples.clone()
                samples[:, a:b] = 0
        return Waveform(samples, wave.rate)

    def _spans(self) -> Iterator[tuple[int, int]]:
        """The ranges that lost chunks affect, in samples of the output."""
        spec, scale = self.spec, self.rate / self.spec.rate
        for damage in self.reader.damage:
            if damage.chunks:
                first = damage.first_chunk * spec.chunk - spec.behind
                last = (damage.first_chunk + damage.chunks) * spec.chunk + spec.ahead
                yield math.floor(first * scale), math.ceil(last * scale)

    def rest(self, written: int, channels: int) -> Iterator[Waveform]:
        """Yield silence from the end of a truncated file to the length in its header, one second at a time."""
        import torch

        from duotone.audio.waveform import Waveform

        missing = promised(self.reader, self.rate) - written
        while missing > 0:
            size = min(missing, self.rate)
            missing -= size
            yield Waveform(torch.zeros(channels, size), self.rate)


def promised(reader: DuoReader, rate: int) -> int:
    """The length in samples that the header states, 0 if it states none (or if the whole file was read)."""
    if not any(d.chunks == 0 for d in reader.damage):  # not truncated: the end record has the length
        return 0
    source = reader.header.source
    return round((source.samples or 0) * rate / source.rate)


def explain(reader: DuoReader, name: str) -> str:
    """Describe what was lost, where, and why."""
    seconds = reader.spec.chunk_seconds
    parts = []
    for d in reader.damage[:4]:
        start, end = d.first_chunk * seconds, (d.first_chunk + d.chunks) * seconds
        where = f"chunks {d.first_chunk} to {d.first_chunk + d.chunks - 1}, {start:.2f} s to {end:.2f} s"
        parts.append(f"{where if d.chunks else f'from {start:.2f} s'}: {d.reason}")
    more = f" and {len(reader.damage) - 4} more places" if len(reader.damage) > 4 else ""
    lost = sum(d.chunks for d in reader.damage)
    return f"{name} is damaged; {lost} chunks were lost and are silent ({'; '.join(parts)}{more})."
