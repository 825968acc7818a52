"""Where the frames and chunks of a wave lie, and how many there are.

*exact*: the wave starts after ``n_fft - hop`` zeros, so that every sample lies under as many frames as in the middle of
a wave; zeros fill the last chunk. *published*: frame i starts at sample i*hop, as in the published package; the first
``n_fft - hop`` samples fade in.
"""

from __future__ import annotations

from dataclasses import dataclass

from duotone.config import Framing


@dataclass(frozen=True)
class Layout:
    """Frames of `n_fft` samples, `hop` apart, `chunk_frames` of them to a chunk. Lengths are samples."""

    n_fft: int
    hop: int
    chunk_frames: int
    framing: Framing

    @property
    def overlap(self) -> int:
        """Samples that a frame shares with those after it."""
        return self.n_fft - self.hop

    @property
    def lead(self) -> int:
        """Zeros put before the wave."""
        return self.overlap if self.framing == "exact" else 0

    def frames(self, samples: int) -> int:
        """Frames that carry sound, for a wave of so many samples (at least one)."""
        if self.framing == "exact":
            return -(-(self.lead + samples) // self.hop)  # all that start before the last sample
        return max(1, (samples - self.overlap) // self.hop)  # whole frames only; what follows them is not coded

    def chunks(self, samples: int) -> int:
        """Chunks for a wave of so many samples."""
        return -(-self.frames(samples) // self.chunk_frames)

    def length(self, chunks: int) -> int:
        """Samples that so many chunks can give back."""
        span = chunks * self.chunk_frames * self.hop
        return span - self.overlap if self.framing == "exact" else span + self.overlap
