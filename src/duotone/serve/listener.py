"""Where a listener stands: what was sent, what was played by their own report, and when they will run dry.

Samples count from the beginning of the session's sound::

    0 ........ base ........ played ........ sent
                             |<-- unheard -->|      dry at: time of the report + unheard / rate
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from duotone.audio.waveform import Waveform

_START = 1.0  # seconds within which a session's first sound is wanted


class Heard(Protocol):
    """Who records how sound came."""

    def sound(self, kind: str, slack: float) -> None:
        """A piece came with so much time left."""
        ...

    def began(self, kind: str, seconds: float) -> None:
        """The first piece came so long after the start."""
        ...


class Listener:
    """The far end of a session, as a sink of `flow.desk`; `put` gets every piece with the place of its first sample."""

    buffer = 0.0

    def __init__(
        self, kind: str, rate: int, now: Callable[[], float], put: Callable[[int, Waveform], None], figures: Heard
    ) -> None:
        self.kind, self.rate, self.now, self._put, self._figures = kind, rate, now, put, figures
        self.underruns = 0
        self.begin()

    def begin(self, base: int = 0) -> None:
        """A session begins, or goes on at sample `base`."""
        self.base = self.sent = self._played = base
        self._reported = self._began = self.now()
        self._playing = False

    @property
    def played(self) -> int:
        """Samples that were played since `base`."""
        return self._played - self.base

    def report(self, samples: int) -> None:
        """The listener has played so many samples of the session; reports never go back, nor beyond what was sent."""
        samples = min(self.sent, samples)
        if samples > self._played:
            self._played, self._playing = samples, True
            self._reported = self.now()

    @property
    def dry(self) -> float:
        """The time at which what was sent will have been played."""
        if not self._playing:
            return self._began + _START
        return self._reported + (self.sent - self._played) / self.rate

    def write(self, wave: Waveform) -> None:
        """Send the next piece."""
        now = self.now()
        if self.sent == self.base:
            self._figures.began(self.kind, now - self._began)
        elif self._playing:
            slack = self.dry - now
            self.underruns += slack < 0
            self._figures.sound(self.kind, slack)
        place, self.sent = self.sent, self.sent + wave.length
        self._put(place, wave)
