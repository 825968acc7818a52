"""Evaluate codecs, Opus and silence on a folder of audio: a row for each file, codec, kind of encoding and strategy.

Encodings are written to real `.duo` files, whose bytes are counted, and decoded from them. Codecs that start from noise start at
sigma_max: starting from the clean spectrogram at sigma_min would return its input.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duotone.audio.files import open_reader
from duotone.audio.formats import READABLE
from duotone.audio.walk import explain, walk
from duotone.audio.waveform import Waveform
from duotone.codec.container import read_duo, write_duo
from duotone.codec.contract import Codec
from duotone.codec.values import Codes, Latents
from duotone.errors import AudioError, DuotoneError, UsageError
from duotone.evaluate.frechet import Embedder, frechet_distance
from duotone.evaluate.harmonics import harmonics
from duotone.evaluate.metrics import measure
from duotone.evaluate.opus import OpusResult, opus_of_size, opus_roundtrip, parse_rate, require_programs
from duotone.evaluate.report import Failure, Report, Row
from duotone.spec import CodecSpec, Face

SILENCE = "silence"
FACES: dict[Face, str] = {"latents": "continuous", "tokens": "discrete"}
#: Begins the name of a baseline: Opus in files of the size that another system's have, such as ``opus@discrete``.
SAME_BYTES = "opus@"
#: A strategy that gives the samples of another one: it gets no row where that one has its own.
SAME_SAMPLES = {"wavefront": "parallel"}

Tell = Callable[[str], object]


def evaluate_folder(
    codecs: Codec | Mapping[str, Codec],
    folder: str | Path | Mapping[str, Path],
    against: Sequence[str] = ("opus:6k", "opus:12k"),
    limit: int | None = None,
    seed: int = 0,
    *,
    seconds: float | None = None,
    middle: bool = False,
    steps: Sequence[int] = (),
    codes_alone: Sequence[str] = (),
    rate: int | None = None,
    speech: str = "speech",
    embedder: Embedder | None = None,
    progress: Tell | None = None,
    failed: Callable[[str, Exception], object] | None = None,
) -> Report:
    """Compare codecs (one, or several by name) with Opus (`against`) and silence, file by file.

    Latents and codes, decoded with each strategy, are separate systems; codecs named in `codes_alone` show their codes. Besides
    ``opus:RATE``, `against` takes ``opus@SYSTEM``: Opus in a file as large as that system's of the same sound, or the nearest. All metrics are computed at `rate`, by default
    the highest that one of the codecs decodes to. Several folders are given by the kind of sound that they hold, which then begins the
    files' names. `limit` draws that many files of a folder with `seed`; `seconds` keeps the beginning of each, or with
    `middle` its middle. Codecs that decode from noise also decode their codes with each number of `steps`. `progress` is called with a line about the current file. STOI and PESQ are computed for files with `speech`
    in their name. With an `embedder`, each system gets a Fréchet distance to the originals. A file that cannot be evaluated is
    left out and listed in the report; `failed` is called with its name and the error. Raises `AudioError` for a folder without usable sound or missing
    opus-tools, `UsageError` for a baseline that is not known.
    """
    baselines = [spec if spec.startswith(SAME_BYTES) else parse_rate(spec) for spec in against]
    if baselines:
        require_programs()
    if seconds is not None and not seconds > 0:
        raise UsageError(f"seconds got {seconds}, expected more than 0 (or None for whole files).")
    tell = progress or (lambda _: None)
    files = named_files(folder, limit, seed, tell)
    named = dict(codecs) if isinstance(codecs, Mapping) else {codecs.spec.model or codecs.spec.family: codecs}
    rate = rate or max(codec.spec.rate_out for codec in named.values())
    systems = _Systems(named, dict(zip(against, baselines, strict=True)), seed, tuple(steps), frozenset(codes_alone))
    systems.check()
    systems.warm_up()
    rows: list[Row] = []
    failures: list[Failure] = []
    embeddings = _Embeddings(embedder)
    for index, (file, path) in enumerate(files.items(), start=1):
        tell(f"{index}/{len(files)} {file}")
        try:
            wave = excerpt(path, seconds, middle).resample(rate)
            made = list(systems.rows(file, wave, bool(speech) and speech in file))
            embeddings.add(wave, made)
            rows += [row for row, _ in made]
        except (DuotoneError, OSError, MemoryError) as error:
            failures.append(Failure(file, str(error) or type(error).__name__))
            if failed is not None:
                failed(file, error)
    if not rows:
        raise AudioError(f"None of the {len(files)} files could be evaluated. The first: {failures[0].error}")
    settings: dict[str, Any] = {
        "against": list(against),
        "limit": limit,
        "seed": seed,
        "seconds": seconds,
        "middle": middle,
        "rate": rate,
        "steps": list(steps),
    }
    if embedder is not None:
        settings["frechet"] = embedder.name
    first, *others = (describe(codec, name) for name, codec in named.items())
    return Report(
        first,
        settings,
        _by_system(rows),
        embeddings.distances(),
        {each["name"]: each for each in others},
        tuple(failures),
    )


def _by_system(rows: list[Row]) -> tuple[Row, ...]:
    """Group rows by system; systems and files keep their order."""
    places = {system: place for place, system in enumerate(dict.fromkeys(row.system for row in rows))}
    return tuple(sorted(rows, key=lambda row: places[row.system]))


def named_files(
    folder: str | Path | Mapping[str, Path], limit: int | None, seed: int, tell: Tell = lambda _: None
) -> dict[str, Path]:
    """Names and paths of the audio files: relative to a folder, or of several ``KIND/NAME``, chosen as by `choose_files`."""
    if isinstance(folder, Mapping):
        return {
            f"{kind}/{path.relative_to(each).as_posix()}": path
            for kind, each in folder.items()
            for path in choose_files(each, limit, seed, tell)
        }
    root = Path(folder)
    return {path.relative_to(root).as_posix(): path for path in choose_files(root, limit, seed, tell)}


def choose_files(folder: Path, limit: int | None, seed: int, tell: Tell = lambda _: None) -> list[Path]:
    """The audio files in a folder, sorted; with `limit`, that many of them, drawn with `seed`.

    `tell` is called with a line for each audio file of an unsupported format. Raises `AudioError` when there is none,
    `UsageError` when `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit got {limit}, expected at least 1 (or None for all files).")
    if not folder.is_dir():
        raise AudioError(f"No folder at {folder}. Give a folder of sound files to evaluate on.")
    found = walk(folder)
    for line in explain(found.left_out):
        tell(line)
    if not found.files:
        raise AudioError(f"{folder} holds no sound files, expected some of {', '.join(READABLE)}.")
    if limit is None or limit >= len(found.files):
        return found.files
    return sorted(random.Random(seed).sample(found.files, limit))


def describe(codec: Codec, name: str) -> dict[str, Any]:
    """A codec's description in a report: name, hashes, rates, number format of the encoder."""
    spec = codec.spec
    return {
        "name": name, "family": spec.family, "model": spec.model, "fingerprint": spec.fingerprint, "space": spec.space,
        "rate": spec.rate_out, "faces": list(spec.faces), "encoded_in": codec.encoding_format,
    }  # fmt: skip


def rows_of(codec: Codec) -> list[tuple[Face, str | None]]:
    """The encodings of a codec, each with every strategy that gives different samples (None: the only one)."""
    spec, alike = codec.spec, codec.alike_by_default
    strategies: list[str | None] = [
        s for s in spec.strategies if SAME_SAMPLES.get(s) not in spec.strategies and s not in alike
    ]
    return [(face, strategy) for face in spec.faces for strategy in strategies or [None]]


def system_name(face: Face, strategy: str | None, steps: int | None = None) -> str:
    """The name of a way of decoding in reports, like ``discrete, parallel, 4 steps``."""
    count = None if steps is None else f"{steps} step{'' if steps == 1 else 's'}"
    return ", ".join(filter(None, (FACES[face], strategy, count)))


def default_system(spec: CodecSpec, face: Face = "tokens", steps: int | None = None) -> str:
    """The name of decoding with the default strategy, the first of the codec's."""
    return system_name(face, next(iter(spec.strategies), None), steps)


@dataclass(frozen=True)
class _Systems:
    """All systems that are compared, run on one file at a time."""

    codecs: Mapping[str, Codec]
    baselines: Mapping[str, float | str]  #: by name: kbit/s, or that name again, which says whose size the files have
    seed: int
    steps: tuple[int, ...] = ()  #: numbers of steps that codes are also decoded with
    codes_alone: frozenset[str] = frozenset()  #: codecs whose latents are left out

    def ways(self, name: str) -> list[tuple[Face, str | None, dict[str, Any]]]:
        """Encoding, strategy and options of each row: every strategy, then the default one with each number of steps."""
        codec = self.codecs[name]
        ways: list[tuple[Face, str | None, dict[str, Any]]] = [
            (face, way, {}) for face, way in rows_of(codec) if face == "tokens" or name not in self.codes_alone
        ]
        if codec.spec.seeded:  # decoders without noise take no number of steps
            face, strategy = codec.spec.faces[-1], next(iter(codec.spec.strategies), None)
            ways += [(face, strategy, {"steps": count}) for count in self.steps]
        return ways

    def label(self, name: str) -> str:
        """What begins the names of a codec's systems."""
        return f"{name} " if len(self.codecs) > 1 else ""

    def check(self) -> None:
        """Raise `UsageError` for a baseline of the size of a system that there is not, or a codec in `codes_alone`."""
        known = [
            self.label(name) + system_name(face, strategy, options.get("steps"))
            for name in self.codecs
            for face, strategy, options in self.ways(name)
        ]
        for spec in self.baselines:
            if spec.startswith(SAME_BYTES) and spec.removeprefix(SAME_BYTES) not in known:
                raise UsageError(f"The baseline got {spec!r}, expected {SAME_BYTES}SYSTEM, one of: {', '.join(known)}.")
        if unknown := self.codes_alone - self.codecs.keys():
            raise UsageError(
                f"codes_alone got {', '.join(sorted(unknown))}, expected some of {', '.join(self.codecs)}."
            )

    def warm_up(self) -> None:
        """Run each codec on one second without timing it, so that the first file's times exclude allocation and compilation."""
        for name, codec in self.codecs.items():
            length = max(codec.rate, 2 * codec.spec.chunk)
            value = codec.encode(Waveform(torch.zeros(2, length), codec.rate))
            for _, strategy, options in self.ways(name):
                codec.decode(value, strategy, seed=self.seed, **options)

    def rows(self, file: str, wave: Waveform, speech: bool) -> Iterator[tuple[Row, Waveform]]:
        """Yield every system's row for a file, with the decoded audio."""
        sizes: dict[str, int] = {}
        for name in self.codecs:
            try:
                for row, decoded in self._codec_rows(name, file, wave, speech):
                    sizes[row.system] = row.file_bytes
                    yield row, decoded
            except DuotoneError as error:
                raise type(error)(f"{name}: {error}") from None
        for spec, wanted in self.baselines.items():
            if isinstance(wanted, str):
                result = opus_of_size(wave, sizes[wanted.removeprefix(SAME_BYTES)])
            else:
                result = opus_roundtrip(wave, wanted)
            yield _opus_row(file, spec, wave, result, speech)
        yield _row(file, SILENCE, wave, Waveform(torch.zeros_like(wave.samples), wave.rate), 0)

    def _codec_rows(self, name: str, file: str, wave: Waveform, speech: bool) -> Iterator[tuple[Row, Waveform]]:
        """Encode once; decode latents and codes in every way."""
        codec = self.codecs[name]
        start = time.perf_counter()
        value = codec.encode(wave)
        encode_seconds = time.perf_counter() - start
        stored = {face: through_file(value.codes() if face == "tokens" else value) for face in codec.spec.faces}
        for face, strategy, options in self.ways(name):
            held, size = stored[face]
            start = time.perf_counter()
            decoded = codec.decode(held, strategy, seed=self.seed, **options)
            spent = time.perf_counter() - start
            system = self.label(name) + system_name(face, strategy, options.get("steps"))
            row, decoded = _row(file, system, wave, decoded, size, encode_seconds, spent, speech)
            if isinstance(held, Codes):
                row.notes["information_bit_rate"] = held.streams * held.spec.bit_rate
            yield row, decoded


def through_file(value: Latents | Codes) -> tuple[Latents | Codes, int]:
    """Write a value to a `.duo` file; returns the value read from it, and its size in bytes."""
    with tempfile.TemporaryDirectory(prefix="duotone-evaluate-") as folder:
        path = Path(folder) / "measured.duo"
        write_duo(path, value, force=True)
        return read_duo(path), path.stat().st_size


class _Embeddings:
    """Collects the embeddings of the originals and of each system's output."""

    def __init__(self, embedder: Embedder | None) -> None:
        self.embedder = embedder
        self.sets: dict[str, list[Tensor]] = {}

    def add(self, wave: Waveform, made: Sequence[tuple[Row, Waveform]]) -> None:
        """Add an original and the systems' outputs."""
        if self.embedder is not None:
            found = [("", self.embedder(wave)), *((row.system, self.embedder(decoded)) for row, decoded in made)]
            for system, embedding in found:  # all embeddings of a file or none
                self.sets.setdefault(system, []).append(embedding)

    def distances(self) -> dict[str, float]:
        """System -> Fréchet distance to the originals; empty without an embedder."""
        if self.embedder is None:
            return {}
        originals = torch.cat(self.sets[""])
        return {system: frechet_distance(originals, torch.cat(parts)) for system, parts in self.sets.items() if system}


def excerpt(path: Path, seconds: float | None, middle: bool = False) -> Waveform:
    """The first seconds of a file, or those in its middle, or all of it (None, or a file that is not longer)."""
    with open_reader(path) as reader:
        length = None if seconds is None else max(1, round(seconds * reader.rate))
        start = max(0, ((reader.samples or 0) - length) // 2) if middle and length is not None else 0
        end = None if length is None else start + length
        blocks: list[Tensor] = []
        place = 0
        for block in reader:
            kept = block.samples[:, max(0, start - place) : None if end is None else max(0, end - place)]
            blocks.append(kept)
            place += block.length
            if end is not None and place >= end:
                break
        return Waveform(torch.cat(blocks, dim=1).contiguous(), reader.rate)


def _opus_row(file: str, spec: str, wave: Waveform, result: OpusResult, speech: bool) -> tuple[Row, Waveform]:
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
    metrics = measure(wave, decoded, speech)
    found = harmonics(wave, decoded)
    notes = {"harmonics_original": found.original, "harmonics_decoded": found.decoded, "share_with_pitch": found.share}
    return Row(file, system, wave.seconds, file_bytes, metrics, encode_seconds, decode_seconds, notes), decoded
