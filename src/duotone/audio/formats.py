"""Tables of the supported audio formats, sample rates and channels. Does not import torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from duotone.errors import AudioError

LOWEST_RATE, HIGHEST_RATE = 4_000, 768_000
_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


@dataclass(frozen=True)
class Format:
    """An output format: libsndfile's names, and the supported sample rates."""

    container: str
    subtype: str  #: unless another is asked for
    rates: tuple[int, ...] = ()  #: empty: any up to `highest`
    highest: int = HIGHEST_RATE
    coarse: int = 1  #: above 65535 Hz, rates are multiples of this
    otherwise: int | None = 48_000  #: the rate that sound of any other rate is resampled to; None: it is refused

    def holds(self, rate: int) -> bool:
        """Whether audio of this rate is written without resampling."""
        if self.rates:
            return rate in self.rates
        return rate <= self.highest and (rate <= 65_535 or rate % self.coarse == 0)


_VORBIS = Format("OGG", "VORBIS", highest=200_000, otherwise=192_000)  # libvorbis crashes above 200 kHz

#: Ending -> how it is written.
FORMATS: dict[str, Format] = {
    ".wav": Format("WAV", "PCM_16"),
    ".flac": Format("FLAC", "PCM_16", highest=655_350, coarse=10, otherwise=None),  # RFC 9639, 9.1.2
    ".ogg": _VORBIS,
    ".oga": _VORBIS,
    ".opus": Format("OGG", "OPUS", _OPUS_RATES),
    ".mp3": Format("MP3", "MPEG_LAYER_III", _MP3_RATES),
}
#: Endings that can be written (and read).
WRITABLE = tuple(FORMATS)
#: Endings that can be read: all that libsndfile knows of those that sound usually has.
READABLE = (
    *WRITABLE,
    *(".wave", ".bwf", ".rf64", ".w64", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".mp2", ".mpga"),
    *(".voc", ".sph", ".nist", ".ircam", ".avr", ".paf", ".8svx"),
)
#: Endings of sound (and of films with sound) that cannot be read; a program such as ffmpeg converts them.
UNREADABLE_SOUND = (
    *(".m4a", ".m4b", ".m4r", ".mp4", ".aac", ".alac", ".wma", ".asf", ".ac3", ".eac3", ".dts", ".thd", ".amr"),
    *(".3gp", ".3ga", ".ape", ".wv", ".tta", ".tak", ".mpc", ".ofr", ".mka", ".mkv", ".webm", ".weba", ".mov"),
    *(".avi", ".ra", ".rm", ".dsf", ".dff", ".spx", ".awb", ".qcp", ".gsm", ".vox", ".shn", ".ogv", ".ogx", ".adts"),
)
CONVERT = "convert it first, for example with: ffmpeg -i IN OUT.wav"


def check_format(rate: int, channels: int, what: str) -> None:
    """Raise `AudioError` unless the rate and the number of channels can be used."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(
            f"{what} has a rate of {rate} Hz, expected {LOWEST_RATE} to {HIGHEST_RATE} Hz. "
            f"Check the file, or give the rate that the sound was really recorded at."
        )
    if channels not in (1, 2):
        raise AudioError(
            f"{what} has {channels} channels, expected 1 (mono) or 2 (stereo). "
            f"Mix it down first, for example with: ffmpeg -i IN -ac 2 OUT.wav"
        )


def not_finite(what: str, sample: int, rate: int) -> AudioError:
    """The error for a sample that is NaN or infinite."""
    return AudioError(
        f"{what} holds a sample that is NaN or infinite at {sample / rate:.3f} s (sample {sample}). "
        f"Clean it first, for example with numpy.nan_to_num, and write it again."
    )


def shown(name: str | bytes | os.PathLike[str]) -> str:
    """A file's name for messages: bytes that are no UTF-8 become question marks."""
    return os.fsencode(name).decode("utf-8", "replace")
