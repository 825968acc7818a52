"""Cutting a wave into chunks of frames, and joining them again to exactly the length that came in.

*exact*: one hop of zeros on the left, so that every real sample lies under two frames; zeros fill the last chunk.
*published*: frame i starts at sample i*hop, as the published package frames; its first hop fades in.
"""

from __future__ import annotations

from dataclasses import dataclass

from duotone.config import CoDiCodecConfig, Framing


@dataclass(frozen=True)
class Layout:
    """Where chunks lie on the sample axis. All numbers are samples at the codec's rate unless named otherwise."""

    config: CoDiCodecConfig
    framing: Framing

    @property
    def lead(self) -> int:
        """Zeros put before the wave."""
        return self.config.hop if self.framing == "exact" else 0

    def frames(self, samples: int) -> int:
        """Frames that carry sound, for a wave of so many samples (at least one)."""
        hop = self.config.hop
        if self.framing == "exact":
            return -(-samples // hop) + 1  # the last sample lies under two frames
        return max(1, samples // hop - 1)  # whole frames only; what is left past them is not coded

    def chunks(self, samples: int) -> int:
        """Chunks for a wave of so many samples."""
        return -(-self.frames(samples) // self.config.frames)

    def length(self, chunks: int) -> int:
        """Samples that so many chunks can give back."""
        span = chunks * self.config.chunk_samples
        return span - self.config.hop if self.framing == "exact" else span + self.config.hop
