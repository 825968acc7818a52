"""The files of ``duotone codes``: `.npy` codes, their loudness, and a marker file for each finished recording.

NAME_cC.npy holds codes `[1, K, S]` of stream C. The marker ``.NAME.done`` lists these files with their sizes, and the size and
modification time of the audio file: a recording counts as finished only while none of these has changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duotone.atomic import replacing, write_json
from duotone.errors import CodecMismatchError, FormatError, UsageError
from duotone.spec import CodecSpec

if TYPE_CHECKING:
    from torch import Tensor

    from duotone.codec.values import Codes

SCALE = ".scale.json"
#: Bytes of a name that stream, time and ending take.
SPARE = 40
#: What must agree between the codes in a folder and the codec at hand.
_SETTINGS = (
    "codec_type", "sampling_rate_encoder", "sampling_rate_decoder", "num_codebooks", "codebook_size", "framerate",
    "space", "format", "chunk_frames", "context_frames", "file_per_chunk",
)  # fmt: skip
_IDENTITY = ("codec_type", "codebook_size", "sampling_rate_decoder", "space")


def save(stem: Path, codes: Codes, per_file: int | None) -> list[Path]:
    """Write the codes of one recording as STEM_cC.npy; `per_file` steps a file as STEM_cC_tSECONDS_THOUSANDTHS.npy."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    spec, k = codes.spec, len(codes.spec.codebooks)
    written: list[Path] = []
    for stream in range(codes.streams):
        indices = codes.indices[stream * k : (stream + 1) * k]
        scale = None if codes.scale is None else codes.scale[stream]
        name = f"{stem.name}_c{stream}"
        if per_file is None:
            written += _write(stem.with_name(name), indices, scale, spec.steps)
            continue
        for first in range(0, indices.shape[1], per_file):
            seconds, thousandths = divmod(round(1000 * first / spec.steps_per_second), 1000)
            part = slice(first // spec.steps, (first + per_file) // spec.steps)
            written += _write(
                stem.with_name(f"{name}_t{seconds:06d}_{thousandths:03d}"), indices[:, first : first + per_file],
                None if scale is None else scale[part], spec.steps,
            )  # fmt: skip
    return written


def _write(path: Path, indices: Tensor, scale: Tensor | None, steps: int) -> list[Path]:
    """Write PATH.npy, and before it PATH.scale.json, so that codes never exist without their loudness."""
    import numpy as np

    written = []
    if scale is not None:
        beside = path.with_name(path.name + SCALE)
        write_json(beside, {"scale": scale.tolist(), "frames": [steps] * len(scale)}, indent=None)
        written.append(beside)
    target = path.with_name(path.name + ".npy")
    with replacing(target) as temporary, temporary.open("wb") as file:
        np.save(file, indices[None].numpy())
    return [*written, target]


def read_scale(path: Path, steps: int, chunks: int) -> Tensor:
    """The loudness of each chunk `[N]`. Raises `FormatError` for a file that does not fit its codes."""
    import torch

    from duotone.tokens.jsonfiles import read_json

    found = read_json(path, "the loudness of codes")
    try:
        values, counts = torch.tensor(found["scale"], dtype=torch.float32), torch.tensor(found["frames"])
        scale = values.repeat_interleave(counts)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"{path} is damaged ({error!r}): expected lists 'scale' and 'frames'.") from None
    if scale.shape != (chunks * steps,):
        raise FormatError(
            f"{path} describes {list(scale.shape)} steps, but its codes have {chunks * steps}. Encode it again."
        )
    return scale[::steps]


def finish(stem: Path, sound: str, written: list[Path]) -> int:
    """Mark a recording as finished and remove files of its earlier encoding; returns the bytes written."""
    former = set(_marked(stem).get("files", ()))
    for name in former - {path.name for path in written}:
        with suppress(FileNotFoundError):
            stem.with_name(name).unlink()
    sizes = {path.name: path.stat().st_size for path in written}
    write_json(_mark(stem), {"sound": _stamp(sound), "files": sizes}, indent=None)
    return sum(sizes.values())


def is_finished(stem: Path, sound: str) -> bool:
    """Whether the codes of a recording exist, are complete, and were made from the current audio file."""
    marked = _marked(stem)
    if not marked or marked.get("sound") != _stamp(sound):
        return False
    return all(_size(stem.with_name(name)) == size for name, size in marked["files"].items())


def _mark(stem: Path) -> Path:
    return stem.with_name(f".{stem.name}.done")


def _marked(stem: Path) -> dict[str, Any]:
    """The content of a marker file; empty if it is missing, damaged or written by another program."""
    try:
        found = json.loads(_mark(stem).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    fits = isinstance(found, dict) and isinstance(found.get("files"), dict) and found["files"]
    inside = fits and all(os.path.basename(name) == name for name in found["files"])
    return found if inside else {}


def _stamp(sound: str) -> list[int] | None:
    """Size and time of a sound file; None for standard input."""
    if not os.path.isfile(sound):
        return None
    about = os.stat(sound)
    return [about.st_size, about.st_mtime_ns]


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write codec_info.json to the folder. Raises `UsageError` if it holds codes of other settings."""
    from duotone.tokens.collection import INFO
    from duotone.tokens.jsonfiles import read_json

    path = folder / INFO
    if path.is_file():
        found = read_json(path, "a folder of codes")
        differ = list(_differences(found, settings, _SETTINGS))
        if differ:
            there = "; ".join(f"{key}: {a} in the folder, {b} now" for key, a, b in differ)
            raise UsageError(f"{folder} holds codes of other settings ({there}). Choose another -o.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def check(path: Path, spec: CodecSpec, here: dict[str, Any]) -> None:
    """Raise `CodecMismatchError` if the codec_info.json above the codes describes another codec."""
    from duotone.tokens.collection import INFO
    from duotone.tokens.jsonfiles import read_json

    near = next((folder / INFO for folder in path.absolute().parents if (folder / INFO).is_file()), None)
    if near is None:
        return
    there = read_json(near, "a folder of codes")
    for key, a, b in _differences(there, here, _IDENTITY):
        raise CodecMismatchError(
            f"{near} says {key} {a}, but the loaded codec ({spec.model or spec.family}) has {b}. "
            f"Decode with the codec that made the codes: {there.get('codec_model')} "
            f"with {there.get('num_codebooks')} codebooks."
        )


def _differences(there: dict[str, Any], here: dict[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[str, Any, Any]]:
    """Keys whose values differ. Files of earlier versions and of other programs have neither space nor format."""
    for key in keys:
        if there.get(key) is None and key in ("space", "format", "chunk_frames", "context_frames", "file_per_chunk"):
            continue
        if there.get(key) != here.get(key):
            yield key, there.get(key), here.get(key)
