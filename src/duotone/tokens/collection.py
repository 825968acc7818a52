"""Codes of a collection in `.npy` files, as `codec-bpe` and others write them, and `codec_info.json`, which describes them.

A `codec_info.json` describes the codes in its folder and in all folders below that have none of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import CodecMismatchError, FormatError
from duotone.spec import ENCODING_FORMAT, CodecSpec
from duotone.tokens.jsonfiles import read_json

INFO = "codec_info.json"


@dataclass(frozen=True)
class Info:
    """Description of codes; unknown fields are None."""

    codebooks: int | None = None  #: number of codebooks
    size: int | None = None  #: codes of a codebook
    framerate: float | None = None  #: frames a second
    codec: str | None = None  #: kind of codec: mimi, encodec, ...
    model: str | None = None  #: name of the weights
    steps: int | None = None  #: frames of a chunk, the least that the codec encodes and decodes
    space: str | None = None  #: hash of what decides the codes (see `CodecSpec.space`)
    format: str | None = None  #: number format of the encoder
    spec: CodecSpec | None = None  #: the codec's description, from which the fields above come where it is there

    @classmethod
    def of(cls, spec: CodecSpec, format: str | None) -> Info:
        """From a codec's spec and the number format of its encoder. Raises `FormatError` for a codec without codes."""
        if not spec.codebooks:
            raise FormatError(f"The codec {spec.model} has no codes. Use one that has, or its latents.")
        return cls(
            len(spec.codebooks), max(spec.codebooks), spec.steps_per_second, spec.family, spec.model or None,
            spec.steps, spec.space or None, format, spec,
        )  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> Info:
        """From the fields of a `codec_info.json`. Raises `FormatError` naming what is wrong."""
        format = values.get("format")
        if values.get("spec") is not None:
            return cls.of(CodecSpec.from_dict(values["spec"], f"The spec in {where}"), format)
        try:
            model, space = values.get("codec_model"), values.get("space")
            return cls(
                int(values["num_codebooks"]), int(values["codebook_size"]), float(values["framerate"]),
                str(values.get("codec_type", "codec")), None if model is None else str(model), None, space, format,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"{where} is damaged ({error!r}): expected num_codebooks, codebook_size and framerate. "
                f"Repair or remove it, and give these values as options."
            ) from None

    def to_about(self) -> dict[str, Any]:
        """The fields that a tokenizer stores."""
        spec = None if self.spec is None else self.spec.to_dict()
        values = {"codec": self.codec, "model": self.model, "space": self.space, "format": self.format, "spec": spec}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_about(cls, about: dict[str, Any]) -> Info:
        """From the fields that a tokenizer has stored. Raises `FormatError`."""
        if about.get("spec") is not None:
            return cls.of(CodecSpec.from_dict(about["spec"], "The tokenizer's note of its codec"), about.get("format"))
        names = ("framerate", "codec", "model", "space", "format")
        return cls(**{name: about.get(name) for name in names})

    def __str__(self) -> str:
        name = " ".join(dict.fromkeys(part for part in (self.codec, self.model) if part)) or "a codec without a name"
        parts = [
            name,
            *([] if self.space is None else [f"space {self.space}"]),
            *([] if self.codebooks is None else [f"{self.codebooks} codebooks x {self.size} codes"]),
            *([] if self.framerate is None else [f"{self.framerate:g} frames/s"]),
            *([] if self.format is None else [str(self.format)]),
        ]
        return ", ".join(parts)


def codec_info(spec: CodecSpec, format: str | None = ENCODING_FORMAT) -> dict[str, Any]:
    """The content of a `codec_info.json`: the fields of `codec-bpe`, and the codec's description.

    `format` is the number format of the encoder, None where it is not known. Raises `FormatError` for a codec without codes.
    """
    info = Info.of(spec, format)
    return {
        "codec_type": info.codec, "codec_model": info.model, "sampling_rate_encoder": spec.rate,
        "sampling_rate_decoder": spec.rate_out, "num_codebooks": info.codebooks, "codebook_size": info.size,
        "framerate": info.framerate, "space": info.space, "format": format, "spec": spec.to_dict(),
    }  # fmt: skip


def read_info(folder: str | os.PathLike[str]) -> Info:
    """Read FOLDER/codec_info.json; all fields are None if there is none. Raises `FormatError` if it is damaged."""
    path = Path(folder) / INFO
    return Info.from_dict(read_json(path, "a folder of codes"), str(path)) if path.is_file() else Info()


def folder_of_info(path: str | os.PathLike[str]) -> Path | None:
    """The nearest folder, of a file's own and those above, that holds a `codec_info.json`; None if none does."""
    return next((folder for folder in Path(path).absolute().parents if (folder / INFO).is_file()), None)


def agreed(found: Iterable[tuple[str | os.PathLike[str], Info]]) -> Info:
    """Combine the descriptions of codes from several files, each given with its name.

    Raises `CodecMismatchError`, naming two, if they were not encoded by one codec in one number format.
    """
    whole, first = Info(), ""
    for where, info in found:
        if _differ(whole, info):
            raise CodecMismatchError(
                f"These codes were encoded in different ways. {first}: {whole}. {os.fspath(where)}: {info}. "
                f"Use those of one codec and one number format, or encode the audio again."
            )
        if whole == Info():
            first = os.fspath(where)
        names = [field.name for field in fields(whole) if getattr(whole, field.name) is None]
        whole = replace(whole, **{name: getattr(info, name) for name in names})
    return whole


def _differ(one: Info, other: Info) -> bool:
    """Whether two descriptions contradict each other. If both have `space`, the names of codec and weights are ignored."""
    names = ["codebooks", "size", "framerate", "format"]
    if one.spec is not None and other.spec is not None and not (one.space and other.space):
        return one.spec.fingerprint != other.spec.fingerprint or one.spec.grid() != other.spec.grid()
    names += ["space"] if one.space and other.space else ["codec"]
    models = [Path(info.model).name for info in (one, other) if info.model]
    if "codec" in names and len(models) == 2 and models[0] != models[1]:
        return True
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return any(a is not None and b is not None and a != b for a, b in pairs)


def load_npy(path: str | os.PathLike[str], codebooks: int | None = None, size: int | None = None) -> NDArray[Any]:
    """Codes `[K, T]` of a file that holds `[K, T]`, `[1, K, T]` or `[1, 1, K, T]`; the first `codebooks` of them.

    Raises `FormatError` for anything else, and for codes that are not below `size`.
    """
    path = Path(path)
    try:
        array = np.load(path, allow_pickle=False)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (ValueError, EOFError, OSError) as error:
        raise FormatError(f"{path} cannot be read as codes: {error}. Encode that recording again.") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
        raise FormatError(f"{path} holds {getattr(array, 'dtype', type(array).__name__)}, expected whole numbers.")
    shape = array.shape
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 1 and codebooks == 1:
        array = array[None]
    if array.ndim != 2:
        raise FormatError(f"{path} holds codes {list(shape)}, expected [K, T], [1, K, T] or [1, 1, K, T].")
    if codebooks is not None and array.shape[0] < codebooks:
        raise FormatError(f"{path} holds {array.shape[0]} codebooks, expected at least {codebooks}.")
    codes: NDArray[Any] = array[:codebooks]
    if size is not None and codes.size and (int(codes.min()) < 0 or int(codes.max()) >= size):
        k, t = (int(i) for i in np.argwhere((codes < 0) | (codes >= size))[0])
        raise FormatError(
            f"{path} holds the code {int(codes[k, t])} in codebook {k}, frame {t}, expected 0..{size - 1}. "
            f"Is the codebook's size right? If so, encode that recording again."
        )
    return codes
