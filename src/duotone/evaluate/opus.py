"""Opus as a baseline, with the programs `opusenc` and `opusdec` and the size of the real file.

At the lowest rates opusenc exceeds the requested rate: stereo at 6 kbit/s takes 6.3 to 7.8 and is coded as
mono of 4 kHz. So the rate reported is that of the bytes in the file, and bandwidth and channels are read from the packets.
opusdec removes the delay that the file declares (pre-skip), but the resamplers of SILK add 2 or 3 samples, which would
lower the SI-SDR of Opus by up to 6 dB: this remaining delay is measured by cross-correlation and removed.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.errors import AudioError, UsageError
from duotone.evaluate.metrics import delay

OPUS_RATE = 48_000
PROGRAMS = ("opusenc", "opusdec")
#: The rest of the delay is looked for within this many seconds: 8 samples at 48 kHz.
REST_SECONDS = 8 / 48_000
LOWEST_KBPS, HIGHEST_KBPS = 1.0, 512.0
#: For the smallest files: frames, and the values of --bitrate that `opus_nearest` tries.
SMALLEST_FRAME_MS, SMALLEST_KBPS = 60, (2, 3, 4, 5, 6, 8)
#: A packet without sound has its header alone: one or two bytes (RFC 6716, section 3). Fewer than this in the mean: no sound.
_EMPTY_BYTES = 4
#: Searching for a file of a given size: encodings at most, and how near is near enough.
_TRIES, _NEAR = 6, 0.01
#: A usual file that is larger than the wanted one by this factor is no comparison.
_LARGER = 1.05
#: Audio bandwidth in Hz of each of the 32 configurations of a packet (RFC 6716, tables 1 and 2).
_SILK, _HYBRID, _CELT = (4_000, 6_000, 8_000), (12_000, 20_000), (4_000, 8_000, 12_000, 20_000)
BANDWIDTHS = tuple(
    [b for b in _SILK for _ in range(4)] + [b for b in _HYBRID for _ in range(2)] + [b for b in _CELT for _ in range(4)]
)


@dataclass(frozen=True)
class OpusResult:
    """A wave after Opus, in the rate, channels and length that went in, and what its file holds.

    `file_bytes` counts everything, `payload_bytes` the packets alone; `bandwidth` is the most frequent one in Hz;
    `delay` samples (at the wave's rate) were removed.
    """

    wave: Waveform
    file_bytes: int
    payload_bytes: int
    packets: int
    stereo_packets: int
    bandwidth: int
    delay: int
    encode_seconds: float
    decode_seconds: float

    @property
    def empty(self) -> bool:
        """Whether the packets hold no sound: a byte or two for each frame, which decodes to silence."""
        return self.payload_bytes < _EMPTY_BYTES * self.packets

    @property
    def bit_rate(self) -> float:
        """Bits a second of the whole file."""
        return 8 * self.file_bytes / self.wave.seconds

    @property
    def payload_bit_rate(self) -> float:
        """Bits a second of the packets, without the container."""
        return 8 * self.payload_bytes / self.wave.seconds


def missing_programs() -> list[str]:
    """Which of the programs are not on the PATH."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def require_programs() -> None:
    """Raise `AudioError` naming the Debian package unless both programs are installed."""
    if missing := missing_programs():
        raise AudioError(
            f"Comparing with Opus needs {' and '.join(missing)}, not found on the PATH. "
            f"Install the package opus-tools (Debian: apt install opus-tools), or leave Opus out of the comparison."
        )


def is_opus(spec: str) -> bool:
    """Whether the name of a baseline means Opus, not a codec or a folder."""
    return spec.partition(":")[0] == "opus"


def parse_rate(spec: str) -> float:
    """The kbit/s of ``opus:6k``, ``opus:6`` or ``opus:7.5k``. Raises `UsageError` for anything else."""
    name, _, rate = spec.partition(":")
    try:
        kbps = float(rate.removesuffix("k")) if name == "opus" else 0.0
    except ValueError:
        kbps = 0.0
    if not LOWEST_KBPS <= kbps <= HIGHEST_KBPS:
        raise UsageError(f"The baseline got {spec!r}, expected opus:RATE with a rate in kbit/s, for example opus:6k.")
    return kbps


def opus_roundtrip(wave: Waveform, kbps: float, frame_ms: int = 20, mono: bool = False) -> OpusResult:
    """Encode to an `.opus` file of about `kbps` kbit/s (variable rate, complexity 10) and decode at 48 kHz.

    `mono` averages the channels before encoding; the result has the channels of the wave all the same. Raises `AudioError`
    when opus-tools is not installed, when the wave is empty, or when a program fails.
    """
    with _encoder(wave) as encode, tempfile.TemporaryDirectory(prefix="duotone-opus-") as folder:
        coded, decoded = Path(folder) / "coded.opus", Path(folder) / "out.wav"
        start = time.perf_counter()
        data = encode(kbps, frame_ms, mono)
        encode_seconds = time.perf_counter() - start
        coded.write_bytes(data)
        decode_seconds = _run(["opusdec", "--quiet", "--float", "--rate", str(OPUS_RATE), str(coded), str(decoded)])
        samples, rate = soundfile.read(decoded, dtype="float32", always_2d=True)
    result = Waveform(torch.from_numpy(samples.T.copy()), int(rate)).resample(wave.rate).to_channels(wave.channels)
    fitted = Waveform(_fit(result.samples, wave.length), wave.rate)
    lag = delay(wave, fitted, REST_SECONDS)
    packets = list(_packets(data))[2:]  # after the two headers
    return OpusResult(
        wave=Waveform(torch.nn.functional.pad(fitted.samples, (-lag, lag)), wave.rate),
        file_bytes=len(data),
        payload_bytes=sum(map(len, packets)),
        packets=len(packets),
        stereo_packets=sum(bool(p[0] & 4) for p in packets),
        bandwidth=Counter(BANDWIDTHS[p[0] >> 3] for p in packets).most_common(1)[0][0],
        delay=lag,
        encode_seconds=encode_seconds,
        decode_seconds=decode_seconds,
    )


def opus_of_size(wave: Waveform, file_bytes: int) -> OpusResult:
    """Opus in a file of about `file_bytes` and not much more, found by trying rates; where no usual file is so small, the nearest small one.

    Usual files are stereo in frames of 20 ms; the small ones are those of `opus_nearest`. Raises as `opus_roundtrip`.
    """
    sizes: dict[float, int] = {}
    low, high = LOWEST_KBPS, HIGHEST_KBPS  # rates that are known to be too low and too high
    with _encoder(wave) as encode:
        kbps = 8 * file_bytes / 1000 / wave.seconds
        for _ in range(_TRIES):
            kbps = min(max(kbps, low), high)
            sizes[kbps] = len(encode(kbps))
            if abs(sizes[kbps] - file_bytes) <= _NEAR * file_bytes:
                break
            low, high = (kbps, high) if sizes[kbps] < file_bytes else (low, kbps)
            kbps *= file_bytes / sizes[kbps]
            if not low < kbps < high:  # sizes jump where opusenc goes from one way of coding to another
                kbps = (low * high) ** 0.5
    fitting = {kbps: size for kbps, size in sizes.items() if size <= _LARGER * file_bytes}
    if not fitting:
        return opus_nearest(wave, file_bytes)[1]
    return opus_roundtrip(wave, min(fitting, key=lambda kbps: abs(fitting[kbps] - file_bytes)))


def opus_nearest(wave: Waveform, file_bytes: int) -> tuple[int, OpusResult]:
    """The Opus file nearest to `file_bytes` among the smallest ones that hold sound; returns opusenc's --bitrate, and the result.

    Mono and frames of 60 ms make the smallest files. opusenc documents 6 kbit/s as its least; it takes less, but under
    2.4 kbit/s every packet is empty and decodes to silence: such files are passed over. Raises as `opus_roundtrip`.
    """
    with _encoder(wave) as encode:
        files = {kbps: encode(kbps, SMALLEST_FRAME_MS, True) for kbps in SMALLEST_KBPS}
    sounding = {kbps: data for kbps, data in files.items() if not _is_empty(list(_packets(data))[2:])} or files
    kbps = min(sounding, key=lambda kbps: (abs(len(sounding[kbps]) - file_bytes), kbps))
    return kbps, opus_roundtrip(wave, kbps, SMALLEST_FRAME_MS, mono=True)


@contextmanager
def _encoder(wave: Waveform) -> Iterator[Callable[..., bytes]]:
    """Inside, a function of kbit/s, frame length and mono gives the whole `.opus` file. Raises as `opus_roundtrip`."""
    require_programs()
    if wave.length == 0:
        raise AudioError("Opus got a wave of zero samples; there is nothing to encode. Give at least one.")
    with tempfile.TemporaryDirectory(prefix="duotone-opus-") as folder:
        source, coded = Path(folder) / "in.wav", Path(folder) / "coded.opus"
        soundfile.write(source, wave.numpy().T, wave.rate, subtype="FLOAT")

        def encode(kbps: float, frame_ms: int = 20, mono: bool = False) -> bytes:
            command = ["opusenc", "--quiet", "--discard-comments", "--padding", "0", "--bitrate", f"{kbps:g}"]
            command += ["--framesize", str(frame_ms), *(["--downmix-mono"] if mono else [])]
            _run([*command, str(source), str(coded)])
            return coded.read_bytes()

        yield encode


def _is_empty(packets: list[bytes]) -> bool:
    return sum(map(len, packets)) < _EMPTY_BYTES * len(packets)


def _run(command: list[str]) -> float:
    """Run a program and return the seconds it took. Raises `AudioError` with the program's error message if it fails."""
    start = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        words = done.stderr.strip() or "no message"
        raise AudioError(
            f"{command[0]} failed with exit status {done.returncode}: {words}\nIt ran as: {' '.join(command)}"
        )
    return seconds


def _fit(samples: Tensor, length: int) -> Tensor:
    """Correct the length for rounding in resampling. Raises `AudioError` for larger differences."""
    extra = samples.shape[1] - length
    if abs(extra) > 16:
        raise AudioError(f"opusdec gave {samples.shape[1]} samples for {length}, expected the same. Update opus-tools.")
    return torch.nn.functional.pad(samples, (0, -extra))


def _packets(data: bytes) -> Iterator[bytes]:
    """The packets of an Ogg file of one stream (RFC 3533, section 6). Raises `AudioError` when it is not one."""
    place, packet = 0, b""
    while place < len(data):
        if data[place : place + 4] != b"OggS":
            raise AudioError(
                f"opusenc wrote a file that is not Ogg at byte {place}. Check that it is the real opusenc."
            )
        segments = data[place + 27 : place + 27 + data[place + 26]]
        place += 27 + len(segments)
        for size in segments:
            packet += data[place : place + size]
            place += size
            if size < 255:
                yield packet
                packet = b""
