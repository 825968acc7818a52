"""``duotone convert``: published checkpoints -> a folder of ours, a codec's also back; published latents -> a store; Lycodec's YAML -> a recipe."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from duotone.cli.common import Force
from duotone.cli.failures import tell
from duotone.errors import UsageError

NAME = "convert"
YAML = (".yaml", ".yml")
EXAMPLES = """
Examples:

    duotone convert codicodec.pt codicodec/

    duotone convert codicodec/ again.pt

    duotone convert ema.pt flow/

    duotone convert latents/ store/ --codec codicodec/

    duotone convert lycodec_48k.yaml recipe.yaml
"""


class WeightFormat(str, Enum):
    """Number formats of stored weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="codicodec.pt, a folder converted from it; of CoDiCodec-Flow: ema.pt, last.pt, or latents (.pt, or a folder of them); of Lycodec: "
            "its configuration (.yaml).",
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="A folder, or a file ending in .pt; for a configuration, .yaml.")
    ],
    codec: Annotated[
        str | None, typer.Option(metavar="CODEC", help="For latents: the codec that made them, such as codicodec/.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="Preset or YAML file, for a .pt whose layer sizes differ from the published ones."),
    ] = None,
    dtype: Annotated[
        WeightFormat,
        typer.Option(
            help="Number format of the weights in the folder; bfloat16 halves its size but does not convert back exactly."
        ),
    ] = WeightFormat.float32,
    force: Force = False,
) -> None:
    """Convert the published weights of CoDiCodec to safetensors + JSON, or back (bit for bit); those of CoDiCodec-Flow too, not back.

    Latents that CoDiCodec-Flow prepared become a store, as by duotone store import. A configuration of Lycodec becomes a recipe for duotone train.
    """
    if source.suffix in YAML:
        if config is not None or codec is not None or dtype is not WeightFormat.float32:
            raise UsageError(
                "--config, --codec and --dtype are for weights and latents; a configuration has none. Leave them out."
            )
        _recipe(source, target, force)
        return
    if _holds_latents(source):
        if config is not None or dtype is not WeightFormat.float32:
            raise UsageError("--config and --dtype are for weights; latents are converted as they are.")
        _latents(source, target, codec)
        return
    if codec is not None:
        raise UsageError(f"--codec is for latents, and {source} holds none. Leave it out.")
    if source.is_dir():
        if config is not None or dtype is not WeightFormat.float32:
            raise UsageError("--config and --dtype are for converting a .pt file to a folder, not back.")
        _back(source, target, force)
    else:
        _in(source, target, config, dtype.value, force)


def _recipe(source: Path, target: Path, force: bool) -> None:
    if target.suffix not in YAML:
        raise UsageError(f"A configuration converts to a recipe, got {target}. Give a name ending in .yaml.")
    import yaml

    from duotone.atomic import write_text
    from duotone.train.lycodec_seed import recipe_of

    _refuse([target], force)
    recipe, left = recipe_of(source)
    write_text(target, yaml.safe_dump(recipe.to_dict(), sort_keys=False))
    tell(f"{source} -> {target}: duotone train {target} --data DIR --out RUN")
    for line in left:
        tell(f"not in the recipe: {line}.")


def _holds_latents(source: Path) -> bool:
    """Whether the source is a published file of latents, or a folder of files that is no model of ours."""
    if source.is_dir():
        return not (source / "config.json").is_file() and next(source.rglob("*.pt"), None) is not None
    if not source.is_file() or source.suffix != ".pt":
        return False
    from duotone.store.published import is_shard

    return is_shard(source)


def _latents(source: Path, target: Path, codec: str | None) -> None:
    from duotone.cli.stores.imported import from_shards, told

    tell(told(str(source), str(target), from_shards(str(source), str(target), codec)))


def _in(source: Path, target: Path, config: str | None, dtype: str, force: bool) -> None:
    if target.suffix == ".pt" or target.is_file():
        raise UsageError(f"A checkpoint converts to a folder, got {target}. Name a folder, for example codicodec/.")
    _refuse([target / "config.json", target / "model.safetensors"], force)
    import torch

    from duotone.codec.codicodec.weights import import_codicodec
    from duotone.config import PRESETS, BandsConfig, CoDiCodecConfig, preset
    from duotone.flow.weights import is_published
    from duotone.hub import save

    if is_published(source):
        _flow(source, target, config, dtype)
        return
    sizes = None if config is None else preset(config) if config in PRESETS else CoDiCodecConfig.read(config)
    if isinstance(sizes, BandsConfig):
        raise UsageError(
            f"--config got {config}, a network with bands; published checkpoints have convolutions. Use base."
        )
    codec = import_codicodec(source, sizes)
    save(codec, target, None if dtype == "float32" else torch.bfloat16)
    tell(f"{source} -> {target}: codec {codec.fingerprint}. The published weights are CC BY-NC 4.0.")


def _flow(source: Path, target: Path, config: str | None, dtype: str) -> None:
    import torch

    from duotone.flow.weights import import_published, save

    if config is not None:
        raise UsageError("--config is for codecs; the sizes of a flow are those of its tensors. Leave it out.")
    model = import_published(source)
    save(model, target, None if dtype == "float32" else torch.bfloat16)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    tell(f"{source} -> {target}: flow of {count:.1f}M parameters. Weights of CoDiCodec-Flow are CC BY-NC 4.0.")


def _back(source: Path, target: Path, force: bool) -> None:
    if target.suffix != ".pt":
        raise UsageError(f"A folder converts to a .pt file, got {target}. Give a name ending in .pt.")
    _refuse([target], force)
    from duotone.codec.codicodec.bands.codec import BandCodec
    from duotone.codec.codicodec.weights import export_codicodec, load_codec

    codec = load_codec(source)
    if isinstance(codec, BandCodec):
        raise UsageError(
            f"{source} is a codec with bands; the published layout is for those with convolutions. Use its folder."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    export_codicodec(codec, target)
    tell(f"{source} -> {target}: codec {codec.fingerprint}.")


def _refuse(paths: list[Path], force: bool) -> None:
    for path in paths:
        if path.exists() and not force:
            raise UsageError(f"{path} exists already. Add --force to replace it, or choose another name.")
