"""``duotone info``: what a file or a codec is."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated, Any, BinaryIO

import typer

from duotone.cli.common import Json, duration
from duotone.errors import AudioError, FormatError

NAME = "info"
EXAMPLES = """
Examples:

    duotone info song.duo

    duotone info tiny --json

    duotone info song.wav
"""

_SPOOL = 8 << 20


def command(
    target: Annotated[
        str, typer.Argument(metavar="FILE_OR_CODEC", help="A .duo or sound file (- for standard input), or a codec.")
    ],
    as_json: Json = False,
) -> None:
    """Describe a .duo file, a sound file, or a codec; a damaged .duo exits with code 4."""
    figures = _describe(target)
    if as_json:
        typer.echo(json.dumps(figures))
    else:
        width = max(map(len, figures)) + 2
        for key, value in figures.items():
            for i, line in enumerate(_shown(key, value)):
                typer.echo(f"{key.replace('_', ' ') if i == 0 else '':<{width}}{line}")
    if figures.get("damage"):
        raise FormatError(f"{target} is damaged (see above). Decode it with --salvage to keep what is intact.")


def _shown(key: str, value: Any) -> list[str]:
    """A value as lines of text."""
    if value is None:
        return ["not known"]
    if isinstance(value, dict):
        return [
            f"{k}: {_shown(k, v)[0]}" if not isinstance(v, dict) else f"{k}: {json.dumps(v)}" for k, v in value.items()
        ]
    if key == "damage":
        return [f"chunk {d['first_chunk']}, {d['chunks']} chunks: {d['reason']}" for d in value] or ["none"]
    if key == "seconds":
        return [duration(value)]
    if isinstance(value, float):
        return [f"{value:.3f}".rstrip("0").rstrip(".")]
    return [", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]


def _describe(target: str) -> dict[str, Any]:
    path = Path(target)
    if target == "-":
        with tempfile.TemporaryFile(prefix="duotone-") as spool:
            shutil.copyfileobj(sys.stdin.buffer, spool, _SPOOL)
            spool.seek(0)
            return _file(target, spool.read(8), lambda: _rewound(spool))
    if path.is_file() and path.suffix.lower() != ".pt":
        with path.open("rb") as file:
            start = file.read(8)
        return _file(target, start, lambda: path)
    if not path.exists() and _looks_like_a_file(path):
        raise AudioError(f"There is no file {target}. Check the name and the folder.")
    return _codec(target)


def _rewound(spool: IO[bytes]) -> Any:
    spool.seek(0)
    return spool


def _looks_like_a_file(path: Path) -> bool:
    from duotone.audio.files import EXTENSIONS

    return path.suffix.lower() in (*EXTENSIONS, ".duo", ".pt")


def _file(name: str, start: bytes, source: Callable[[], Path | BinaryIO]) -> dict[str, Any]:
    from duotone.codec.container import MAGIC

    if start == MAGIC or Path(name).suffix.lower() == ".duo":
        return _duo(name, source())
    return _sound(name, source())


def _duo(name: str, source: Any) -> dict[str, Any]:
    from duotone.codec.container import describe

    found = describe(source)
    return {
        "file": name, "type": "duo", "kind": found.kind, "codec": found.fingerprint, "framing": found.framing,
        "seconds": found.seconds, "rate": found.source_rate, "channels": found.source_channels,
        "samples": found.source_samples, "chunks": found.chunks, "bytes": found.bytes,
        "kbit_per_second": found.kbit_per_second, "information_kbit_per_second": found.information_kbit_per_second,
        "damage": [vars(d) for d in found.damage],
    }  # fmt: skip


def _sound(name: str, source: Any) -> dict[str, Any]:
    from duotone.audio.files import open_reader

    with open_reader(source) as reader:
        samples = sum(block.length for block in reader)  # reads all of it: a cut file is found out
        size = source.stat().st_size if isinstance(source, Path) else source.seek(0, 2)
        seconds = samples / reader.rate
        return {
            "file": name, "type": "sound", "rate": reader.rate, "channels": reader.channels, "samples": samples,
            "seconds": seconds, "bytes": size, "kbit_per_second": size * 8 / seconds / 1000,
        }  # fmt: skip


def _codec(name: str) -> dict[str, Any]:
    from duotone.codec.codicodec.network import parameter_count
    from duotone.hub import load

    codec = load(name)
    config, network = codec.config, codec.network
    chunk = config.chunk_samples / config.rate
    return {
        "codec": name, "type": "codec", "family": config.family, "fingerprint": codec.fingerprint,
        "parameters": parameter_count(network),
        "parameters_by_part": {part: parameter_count(module) for part, module in network.named_children()},
        "rate": codec.rate, "chunk_seconds": chunk, "latents_per_chunk": config.latents, "levels": list(config.levels),
        "tokens_per_second": config.latents / chunk, "codebook_size": config.codebook_size,
        "kbit_per_second": config.bit_rate / 1000,
        "default_steps": {k: getattr(config.decode, f"{k}_steps") for k in ("parallel", "autoregressive")},
        "default_dtype": str(codec.dtype).removeprefix("torch."), "config": config.to_dict(),
        "provenance": codec.provenance,
    }  # fmt: skip
