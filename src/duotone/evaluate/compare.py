"""A codec against Opus and silence over a folder of sound: both faces, both ways of decoding.

Decoding always starts from noise at sigma_max: starting from the clean spectrogram at sigma_min would return its input.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from duotone.audio.files import read
from duotone.audio.formats import READABLE
from duotone.audio.walk import explain, walk
from duotone.audio.waveform import Waveform
from duotone.codec.container import write_duo
from duotone.codec.values import Codes, Latents
from duotone.errors import AudioError, UsageError
from duotone.evaluate.frechet import Embedder, frechet_distance
from duotone.evaluate.metrics import measure
from duotone.evaluate.opus import opus_roundtrip, parse_rate, require_programs
from duotone.evaluate.report import Report, Row

SILENCE = "silence"
STRATEGIES: tuple[Literal["parallel", "autoregressive"], ...] = ("parallel", "autoregressive")


class Codec(Protocol):
    """What is asked of a codec here; `duotone.codec.codicodec.CoDiCodec` has it."""

    @property
    def rate(self) -> int:
        """Samples a second."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal name of the weights."""

    def encode(self, wave: Waveform) -> Latents:
        """Wave to latents."""

    def decode(
        self, value: Latents | Codes, strategy: Literal["parallel", "autoregressive"] = ..., *, seed: int = ...
    ) -> Waveform:
        """Latents or codes to a wave of the length that went in."""


def evaluate_folder(
    codec: Codec,
    folder: str | Path,
    against: Sequence[str] = ("opus:6k", "opus:12k"),
    limit: int | None = None,
    seed: int = 0,
    *,
    seconds: float | None = None,
    name: str | None = None,
    progress: Callable[[str], None] | None = None,
    others: Mapping[str, Codec] | None = None,
    speech: str = "speech",
    embedder: Embedder | None = None,
) -> Report:
    """Compare continuous and discrete, parallel and autoregressive decoding with Opus and silence, file by file.

    All figures are taken at the codec's rate. `limit` draws so many files with `seed`; `seconds` keeps the beginning of
    each; `progress` is told what is under way. `others` are further codecs, by the name they get in the report. Files
    with `speech` in their name get STOI and PESQ too. With an `embedder`, each system's set of files gets a Fréchet
    distance to the originals. Raises `AudioError` for a folder without sound or a missing opus-tools,
    `UsageError` for a rival that is not known.
    """
    rates = {spec: parse_rate(spec) for spec in against}
    if rates:
        require_programs()
    if seconds is not None and not seconds > 0:
        raise UsageError(f"seconds got {seconds}, expected more than 0 (or None for whole files).")
    root = Path(folder)
    tell = progress or (lambda _: None)
    paths = choose_files(root, limit, seed, tell)
    for each in (codec, *(others or {}).values()):
        _warm_up(each, seed)
    rows: list[Row] = []
    seen = _Seen(embedder)
    for index, path in enumerate(paths):
        file = path.relative_to(root).as_posix()
        tell(f"{index + 1}/{len(paths)} {file}")
        wave = read(path).resample(codec.rate)
        if seconds is not None:
            wave = Waveform(wave.samples[:, : max(1, round(seconds * wave.rate))].contiguous(), wave.rate)
        spoken = bool(speech) and speech in file
        made = list(_codec_rows(codec, file, wave, seed, spoken))
        for label, other in (others or {}).items():
            made += _codec_rows(other, file, wave, seed, spoken, f"{label} ")
        made += [_opus_row(file, spec, wave, kbps, spoken) for spec, kbps in rates.items()]
        made.append(_row(file, SILENCE, wave, Waveform(torch.zeros_like(wave.samples), wave.rate), 0))
        seen.original(wave)
        for row, decoded in made:
            rows.append(row)
            seen.decoded(row.system, decoded)
    about = {"name": name or type(codec).__name__, "fingerprint": codec.fingerprint, "rate": codec.rate}
    settings: dict[str, Any] = {"against": list(against), "limit": limit, "seed": seed, "seconds": seconds}
    if others:
        settings["others"] = {label: other.fingerprint for label, other in others.items()}
    if embedder is not None:
        settings["frechet"] = embedder.name
    ordered = tuple(sorted(rows, key=lambda row: _order(row.system, list(rates))))
    return Report(about, settings, ordered, seen.distances())


class _Seen:
    """Collects the embeddings of the originals and of what each system made of them."""

    def __init__(self, embedder: Embedder | None) -> None:
        self.embedder = embedder
        self.sets: dict[str, list[Tensor]] = {}

    def original(self, wave: Waveform) -> None:
        """Take in an original."""
        self.decoded("", wave)

    def decoded(self, system: str, wave: Waveform) -> None:
        """Take in what a system made."""
        if self.embedder is not None:
            self.sets.setdefault(system, []).append(self.embedder(wave))

    def distances(self) -> dict[str, float]:
        """System -> Fréchet distance to the originals; empty without an embedder."""
        if self.embedder is None:
            return {}
        originals = torch.cat(self.sets[""])
        return {system: frechet_distance(originals, torch.cat(parts)) for system, parts in self.sets.items() if system}


def choose_files(
    folder: Path, limit: int | None, seed: int, tell: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """The sound files under a folder, sorted; with `limit`, so many of them drawn with `seed`.

    `tell` gets a line for each file that looks like sound and cannot be read. Raises `AudioError` when there are none, `UsageError` when `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit got {limit}, expected at least 1 (or None for all files).")
    if not folder.is_dir():
        raise AudioError(f"No folder at {folder}. Give a folder of sound files to evaluate on.")
    found = walk(folder)
    for line in explain(found.left_out):
        tell(line)
    files = found.files
    if not files:
        raise AudioError(f"{folder} holds no sound files, expected some of {', '.join(READABLE)}.")
    if limit is None or limit >= len(files):
        return files
    return sorted(random.Random(seed).sample(files, limit))


def _codec_rows(
    codec: Codec, file: str, wave: Waveform, seed: int, speech: bool, label: str = ""
) -> Iterator[tuple[Row, Waveform]]:
    """Rows of both faces of one encoding, decoded both ways, with what was decoded."""
    start = time.perf_counter()
    latents = codec.encode(wave)
    encode_seconds = time.perf_counter() - start
    faces: dict[str, Latents | Codes] = {"continuous": latents, "discrete": latents.codes()}
    for face, value in faces.items():
        size = _file_bytes(value)
        for strategy in STRATEGIES:
            start = time.perf_counter()
            decoded = codec.decode(value, strategy, seed=seed)
            spent = time.perf_counter() - start
            yield _row(file, f"{label}{face}, {strategy}", wave, decoded, size, encode_seconds, spent, speech)


def _opus_row(file: str, spec: str, wave: Waveform, kbps: float, speech: bool) -> tuple[Row, Waveform]:
    result = opus_roundtrip(wave, kbps)
    row, wave = _row(
        file, spec, wave, result.wave, result.file_bytes, result.encode_seconds, result.decode_seconds, speech
    )
    row.notes.update(
        payload_bit_rate=result.payload_bit_rate,
        stereo=result.stereo_packets / max(1, result.packets),
        bandwidth=result.bandwidth,
        delay=result.delay,
    )
    return row, wave


def _row(
    file: str,
    system: str,
    wave: Waveform,
    decoded: Waveform,
    file_bytes: int,
    encode_seconds: float | None = None,
    decode_seconds: float | None = None,
    speech: bool = False,
) -> tuple[Row, Waveform]:
    figures = measure(wave, decoded, speech)
    return Row(file, system, wave.seconds, file_bytes, figures, encode_seconds, decode_seconds), decoded


def _file_bytes(value: Latents | Codes) -> int:
    """Size of the real `.duo` file."""
    with tempfile.TemporaryDirectory(prefix="duotone-evaluate-") as folder:
        path = Path(folder) / "measured.duo"
        write_duo(path, value)
        return path.stat().st_size


def _warm_up(codec: Codec, seed: int) -> None:
    """One untimed pass over two chunks, so that the first file does not pay for first allocations and compilations."""
    chunk = codec.spec.chunk
    latents = codec.encode(Waveform(torch.zeros(2, 2 * chunk), codec.rate))
    for strategy in STRATEGIES:
        codec.decode(latents, strategy, seed=seed)


def _order(system: str, rivals: list[str]) -> int:
    """Ours, then the rivals as they were asked for, then silence; a stable sort keeps the rest as it ran."""
    if system == SILENCE:
        return len(rivals) + 1
    return rivals.index(system) + 1 if system in rivals else 0
