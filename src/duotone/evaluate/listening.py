"""Versions of a recording to be compared by ear: the original, a codec's encodings, and Opus; aligned and equally loud.

`listening_page` makes a page of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from duotone.audio.waveform import Waveform
from duotone.codec.contract import Codec
from duotone.codec.values import Codes
from duotone.errors import AudioError
from duotone.evaluate.compare import through_file
from duotone.evaluate.loudness import matched
from duotone.evaluate.metrics import log_mel_distance, multi_resolution_stft
from duotone.evaluate.opus import SMALLEST_FRAME_MS, OpusResult, missing_programs, opus_nearest, opus_roundtrip

#: All versions have this rate (that of Opus and of a browser's audio), so that the browser resamples none of them.
RATE = 48_000
#: The second rate of Opus, in kbit/s.
OPUS_KBPS = 12
Group = Literal["original", "codec", "opus"]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Version:
    """A clip as one system gives it back. `file_bytes` are those of its real file; `gain` (dB) made it as loud as the others.

    `metrics` are the distances to the original, by key; empty for the original itself.
    """

    key: str
    group: Group
    title: str
    detail: str
    file_bytes: int
    wave: Waveform
    metrics: dict[str, float]
    gain: float = 0.0

    @property
    def kbit_per_second(self) -> float:
        """Rate of the real file."""
        return self.file_bytes * 8 / self.wave.seconds / 1000


@dataclass(frozen=True)
class Clip:
    """A recording and its versions, the original first. `about` describes the sound, `source` says whose it is."""

    title: str
    about: str
    source: str
    versions: tuple[Version, ...]

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.versions[0].wave.seconds


def compare_clip(
    codec: Codec,
    wave: Waveform,
    title: str,
    about: str = "",
    source: str = "",
    seed: int = 0,
    tell: Tell = lambda _: None,
) -> Clip:
    """Run a codec and Opus on a recording: decoded by the default strategy from files that were written and read again.

    Opus is left out where opus-tools is not installed. Raises `AudioError` for a recording of zero samples.
    """
    if wave.length == 0:
        raise AudioError(f"{title} has zero samples; there is nothing to compare. Give at least one.")
    pcm_bytes = wave.length * wave.channels * 2
    channels = "stereo" if wave.channels == 2 else "mono"
    original = Version(
        "original", "original", "Original", f"16-bit PCM, {wave.rate / 1000:g} kHz, {channels}", pcm_bytes, wave, {}
    )
    wave = wave.resample(RATE)
    versions = [replace(original, wave=wave), *_of_codec(codec, wave, seed, title, tell)]
    if not missing_programs():
        tokens = [v.file_bytes for v in versions if v.key == "discrete"] or [versions[1].file_bytes]
        versions += _of_opus(wave, tokens[0], title, tell)
    waves, gains = matched([version.wave for version in versions])
    louder = (replace(v, wave=w, gain=g) for v, w, g in zip(versions, waves, gains, strict=True))
    return Clip(title, about, source, tuple(louder))


def _of_codec(codec: Codec, wave: Waveform, seed: int, title: str, tell: Tell) -> Iterator[Version]:
    """The tokens and the latents of one encoding, decoded."""
    tell(f"{title}: encoding")
    encoded = codec.encode(wave)
    name = codec_name(codec)
    for face in sorted(codec.spec.faces, reverse=True):  # tokens first
        value, count = through_file(encoded.codes() if face == "tokens" else encoded)
        key, what = ("discrete", "tokens") if face == "tokens" else ("continuous", "latents")
        tell(f"{title}: decoding {what}")
        decoded = codec.decode(value, None, seed=seed)
        detail = f"{what} in a .duo file"
        if isinstance(value, Codes):
            detail += f"; {value.streams * value.spec.bit_rate / 1000:.2f} kbit/s without its header and whole chunks"
        yield Version(key, "codec", f"{name}, {key}", detail, count, decoded, _metrics(wave, decoded))


def _of_opus(wave: Waveform, file_bytes: int, title: str, tell: Tell) -> Iterator[Version]:
    """Opus at about `file_bytes`, and at 12 kbit/s."""
    tell(f"{title}: Opus")
    kbps, nearest = opus_nearest(wave, file_bytes)
    times = nearest.file_bytes / file_bytes
    told = f"the file nearest in size: {times:.1f} times as large; --bitrate {kbps}, frames of {SMALLEST_FRAME_MS} ms"
    yield _opus_version("opus-nearest", "Opus, nearest size", told, wave, nearest)
    result = opus_roundtrip(wave, OPUS_KBPS)
    yield _opus_version("opus-12k", f"Opus, {OPUS_KBPS} kbit/s", f"--bitrate {OPUS_KBPS}", wave, result)


def _opus_version(key: str, title: str, told: str, wave: Waveform, result: OpusResult) -> Version:
    channels = "stereo" if result.stereo_packets > result.packets / 2 else "mono"
    detail = f"{told}; {channels}, up to {result.bandwidth / 1000:g} kHz"
    return Version(key, "opus", title, detail, result.file_bytes, result.wave, _metrics(wave, result.wave))


def _metrics(original: Waveform, decoded: Waveform) -> dict[str, float]:
    return {"log_mel": log_mel_distance(original, decoded), "mr_stft": multi_resolution_stft(original, decoded)}


def codec_name(codec: Codec) -> str:
    """The name of a codec's weights, without their folder."""
    return Path(codec.spec.model).name or codec.spec.family
