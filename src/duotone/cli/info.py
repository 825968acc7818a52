"""``duotone info``: describes a file, a codec or a flow. Files are described without importing PyTorch, so quickly."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, BinaryIO, cast

import typer

from duotone.atomic import is_stream
from duotone.cli.codec_options import (
    Bandwidth,
    Particular,
    Quantizers,
    Repository,
    checked_codec,
    particular,
    title,
)
from duotone.cli.common import Json, duration
from duotone.cli.failures import require_stdout, shown, tell
from duotone.errors import AudioError, FormatError
from duotone.spec import CodecSpec

if TYPE_CHECKING:
    from duotone.codec.contract import Codec as LoadedCodec
    from duotone.flow.model import FlowModel
    from duotone.lm.model import LanguageModel

NAME = "info"
EXAMPLES = """
Examples:

    duotone info song.duo

    duotone info tiny --json

    duotone info song.wav

    duotone info mimi --n-quantizers 8

    duotone info runs/flow/flow
"""

_SPOOL = 8 << 20
_MAGIC = b"\x89DUO\r\n\x1a\n"
_STORE = "store.json"
#: Values shown as blocks of lines below the others.
_BLOCKS = ("sampling", "config", "provenance")


def command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE_OR_CODEC",
            help="A .duo or sound file (- for standard input), a folder of latents, a codec, a flow, or a language model.",
        ),
    ],
    bandwidth: Bandwidth = None,
    n_quantizers: Quantizers = None,
    codec_repo: Repository = None,
    as_json: Json = False,
) -> None:
    """Describe a .duo file, a sound file, a store of latents, a codec, a flow, or a language model; a damaged .duo exits with code 4."""
    require_stdout()
    found = _file_or_none(target)
    if found is None:
        found = _model(target, particular(bandwidth, n_quantizers, codec_repo))
    typer.echo(json.dumps(found) if as_json else "\n".join(_lines(found)))
    if found.get("damage"):
        raise FormatError(f"{target} is damaged (see above). Decode it with --salvage to keep what is intact.")


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """A description as lines of text: one line for each key and value, then blocks of indented lines."""
    width = max(map(len, found)) + 2
    for key, value in found.items():
        if key not in _BLOCKS and not (value is None and found["type"] == "codec"):
            for i, line in enumerate(_values(key, value)):
                yield f"{key.replace('_', ' ') if i == 0 else '':<{width}}{shown(line)}"
    for key in _BLOCKS:
        if found.get(key):
            yield f"{key}:"
            yield from (f"    {line}" for line in _block(_without_ancestors(found[key])))


def _without_ancestors(provenance: dict[str, Any]) -> dict[str, Any]:
    """A model's provenance, with that of its initial weights shortened; `--json` shows all of it."""
    began = provenance.get("began_from")
    if not isinstance(began, dict) or "fingerprint" not in began:
        return provenance
    former = began.get("provenance") or {}
    told = f"{began['fingerprint']}" + (f", trained for {former['steps']} steps" if "steps" in former else "")
    return {**provenance, "began_from": told}


def _block(values: dict[str, Any]) -> Iterator[str]:
    """Nested values as YAML, the innermost ones on one line each."""
    import yaml

    for key, value in values.items():
        text = yaml.safe_dump(
            value, sort_keys=False, allow_unicode=True, default_flow_style=None, width=58
        )  # a line ends after what passes it
        lines = text.removesuffix("...\n").splitlines()
        if len(lines) == 1:
            yield f"{key}: {lines[0]}"
        else:
            yield from (f"{key}:", *(f"  {line}" for line in lines))


def _values(key: str, value: Any) -> list[str]:
    """A value as lines of text."""
    if value is None:
        return ["not known"]
    if isinstance(value, dict):
        return [f"{name}: {_values(name, part)[0]}" for name, part in value.items()]
    if key == "damage":
        return [f"chunk {d['first_chunk']}, {d['chunks']} chunks: {d['reason']}" for d in value] or ["none"]
    if key == "seconds":
        return [duration(value)]
    if isinstance(value, float):
        return [f"{value:.3f}".rstrip("0").rstrip(".")]
    if isinstance(value, (list, tuple)) and value and all(isinstance(part, float) for part in value):
        return [f"{min(value):.3f} to {max(value):.3f}"]
    if isinstance(value, (list, tuple)):
        return [_several(value)]
    return [str(value)]


def _several(values: list[Any] | tuple[Any, ...]) -> str:
    """``11, 11, 11, 11``, or ``2048 (32 times)`` where many are equal."""
    if len(values) > 8 and len(set(values)) == 1:
        return f"{values[0]} ({len(values)} times)"
    return ", ".join(map(str, values)) or "none"


def _file_or_none(target: str) -> dict[str, Any] | None:
    """Describe a file; None if the name is that of a codec. Raises `AudioError` for a missing file."""
    path = Path(target)
    if target == "-" or is_stream(path):
        name = "standard input" if target == "-" else target
        with tempfile.TemporaryFile(prefix="duotone-") as spool:
            vars(cast(Any, spool).raw)["name"] = name  # for messages
            with nullcontext(sys.stdin.buffer) if target == "-" else path.open("rb") as pipe:
                shutil.copyfileobj(pipe, spool, _SPOOL)
            spool.seek(0)
            return _file(name, spool.read(len(_MAGIC)), lambda: _rewound(spool))
    if (path / _STORE).is_file():
        return _store(path)
    if path.is_file() and path.suffix.lower() != ".pt":
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
        return _file(target, start, lambda: path)
    if not path.exists() and _looks_like_a_file(path):
        raise AudioError(f"There is no file {target}. Check the name and the folder.")
    return None


def _store(folder: Path) -> dict[str, Any]:
    from duotone.store import LatentStore

    store = LatentStore(folder)
    info, seconds = store.info, store.chunks * store.spec.chunk_seconds
    statistics = info.statistics
    return {
        "folder": str(folder), "type": "store of latents", "layout": info.layout, "holds": list(info.holds), **_identity(store.spec),
        "number_format": info.format, "recordings": len(store), "seconds": seconds, "chunks": store.chunks,
        "latents_of_a_chunk": list(info.shape), "channels": info.channels,
        "mean": None if statistics is None else list(statistics.mean),
        "deviation": None if statistics is None else list(statistics.deviation),
    }  # fmt: skip


def _rewound(spool: IO[bytes]) -> Any:
    spool.seek(0)
    return spool


def _looks_like_a_file(path: Path) -> bool:
    from duotone.audio.formats import READABLE, UNREADABLE_SOUND

    return path.suffix.lower() in (*READABLE, *UNREADABLE_SOUND, ".duo", ".pt")


def _file(name: str, start: bytes, source: Callable[[], Path | BinaryIO]) -> dict[str, Any]:
    if start == _MAGIC or Path(name).suffix.lower() == ".duo":
        return _duo(name, source())
    return _sound(name, source())


def _duo(name: str, source: Any) -> dict[str, Any]:
    from duotone.codec.duofile import describe

    found = describe(source)
    spec, sound = found.spec, found.source
    return {
        "file": name, "type": "duo", "version": found.version, "kind": found.kind, **_identity(spec),
        "number_format": sound.format, "framing": sound.framing, "seconds": found.seconds, "rate": sound.rate,
        "channels": sound.channels, "samples": sound.samples, "chunks": found.chunks, "bytes": found.bytes,
        "kbit_per_second": found.kbit_per_second, "information_kbit_per_second": found.information_kbit_per_second,
        "damage": [vars(d) for d in found.damage],
    }  # fmt: skip


def _identity(spec: CodecSpec) -> dict[str, Any]:
    return {
        "codec": title(spec),
        "family": spec.family,
        "fingerprint": spec.fingerprint,
        "space": spec.space,
    }


def _sound(name: str, source: Any) -> dict[str, Any]:
    from duotone.audio.blocks import Blocks

    with Blocks(source) as blocks:
        samples = sum(len(block) for block in blocks)  # reads the whole file, to detect truncation
        size = source.stat().st_size if isinstance(source, Path) else source.seek(0, 2)
        seconds = samples / blocks.rate
        return {
            "file": name, "type": "sound", "format": f"{blocks.format} {blocks.subtype}", "rate": blocks.rate,
            "channels": blocks.channels, "samples": samples, "seconds": seconds, "bytes": size,
            "kbit_per_second": size * 8 / seconds / 1000,
        }  # fmt: skip


def _model(name: str, options: Particular) -> dict[str, Any]:
    from duotone.flow.model import FlowModel
    from duotone.hub import load
    from duotone.lm.model import LanguageModel

    wanted: dict[str, Any] = {**options}
    found = load(name, "cpu", "auto", say=tell, **wanted)
    if isinstance(found, LanguageModel):
        return _language_model(found)
    return _flow(found) if isinstance(found, FlowModel) else _codec(checked_codec(found, name))


def _language_model(model: LanguageModel) -> dict[str, Any]:
    from duotone.lm import model as lm

    return {
        "type": "language model", "fingerprint": lm.fingerprint(model), "trained_on": model.spec.space,
        "parameters": sum(p.numel() for p in model.network.parameters()), "architecture": type(model.network).__name__,
        "tokens": len(model.tokenizer), "most_tokens_of_a_chunk": model.codes_of_chunk,
        "sampling": model.sampling.to_dict(), "config": model.config.to_dict(),
        "provenance": model.provenance,
    }  # fmt: skip


def _flow(model: FlowModel) -> dict[str, Any]:
    from duotone.flow import weights

    config = model.config.to_dict()
    sampling = config.pop("sampling")
    return {
        "type": "flow", "fingerprint": weights.fingerprint(model),
        "trained_on": model.config.codec, "parameters": sum(p.numel() for p in model.parameters()),
        "latents_of_a_chunk": [model.config.tokens, model.config.channels], "reach": model.config.reach,
        "sampling": sampling, "config": config, "provenance": model.provenance,
    }  # fmt: skip


def _codec(codec: LoadedCodec) -> dict[str, Any]:
    from duotone.config import Config

    spec, config = codec.spec, getattr(codec, "config", None)
    return {
        "type": "codec", **_identity(spec), "faces": list(spec.faces), "parameters": codec.parameter_count(),
        "parameters_by_part": _by_part(getattr(codec, "network", None)),
        "rate": spec.rate, "rate_out": spec.rate_out, "channels": spec.channels, "chunk_seconds": spec.chunk_seconds,
        "steps_per_chunk": spec.steps, "latents_of_a_chunk": spec.latent and list(spec.latent),
        "levels": spec.levels and list(spec.levels), "codebooks": list(spec.codebooks),
        "bits_per_step": spec.bits_per_chunk / spec.steps if spec.codebooks else None,
        "tokens_per_second": spec.tokens_per_second, "kbit_per_second": spec.bit_rate / 1000,
        "strategies": list(spec.strategies), "number_format": codec.encoding_format,
        "config": config.to_dict() if isinstance(config, Config) else None, "provenance": codec.provenance,
    }  # fmt: skip


def _by_part(network: object) -> dict[str, int]:
    """Parameters of each part of a network: as it counts them itself, or of its modules."""
    from torch import nn

    from duotone.codec.lycodec.network import LycodecNetwork

    if isinstance(network, LycodecNetwork):
        return network.parameters_by_part()
    parts = network.named_children() if isinstance(network, nn.Module) else ()
    return {part: sum(p.numel() for p in module.parameters()) for part, module in parts}
