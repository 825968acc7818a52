"""Load and save weights: Duotone's safetensors folders, and the published CoDiCodec checkpoint.

The folders are those of `duotone.codec.folder`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from torch import Tensor

from duotone.atomic import replacing
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.bands.network import BandNetwork
from duotone.codec.codicodec.codec import CoDiCodec
from duotone.codec.codicodec.network import CoDiCodecNetwork
from duotone.codec.folder import read_folder, write_folder
from duotone.config import BandsConfig, CoDiCodecConfig, codicodec_config
from duotone.errors import WeightsError
from duotone.nn.state import fill, read_torch_file

_EXTRA = "extra."  # tensors of an imported checkpoint that are not used in the computation
_KEY = "gen_state_dict"

#: Start of our name -> start of the published one; the first that fits.
_PLACES: tuple[tuple[str, str], ...] = (
    ("encoder.latents", "latents"),
    ("encoder.gain", "gain_encoder"),
    ("encoder.registers", "more_latents_encoder"),
    ("encoder.frontend.", "frontend_encoder_down."),
    ("encoder.head.", "encoder.linear_output."),
    ("encoder.transformer.", "encoder."),
    ("upsampler.mask", "mask_embedding"),
    ("upsampler.registers", "more_latents_pre_decoder"),
    ("upsampler.project.", "lat2patch_pre_decoder."),
    ("upsampler.transformer.", "pre_decoder."),
    ("upsampler.frontend.", "frontend_pre_decoder_up."),
    ("denoiser.registers", "more_latents_decoder"),
    ("denoiser.embed.", "emb_proj."),
    ("denoiser.gains.", "gain_decoder."),
    ("denoiser.project.", "lat2patch."),
    ("denoiser.down.", "frontend_decoder_down."),
    ("denoiser.up.", "frontend_decoder_up."),
    ("denoiser.transformer.", "decoder."),
)
#: Inside a name: our part -> the published one, applied in order.
_PARTS: tuple[tuple[str, str], ...] = (
    (r"^(frontend_\w+_down)\.layers\.", r"\1.down_layers."),
    (r"^(frontend_\w+_up)\.layers\.", r"\1.up_layers."),
    (r"\.stem\.", ".conv_inp."),
    (r"^(frontend_\w+)\.head\.", r"\1.conv_out."),
    (r"^(frontend_\w+)\.norm\.", r"\1.norm_out."),
    (r"\.conv([12])\.weight$", r".ff.ff\1.weight"),
    (r"\.conv\.weight$", ".c.weight"),
    (r"_norm\.gain$", "_norm.norm.g"),
    (r"\.project\.", ".cond_proj."),
    (r"\.attention\.qkv\.", ".attn.mha.to_qkv."),
    (r"\.attention\.out\.", ".attn.mha.to_out."),
    (r"\.attention\.([qk])_gain$", r".attn.mha.\1_norm.g"),
    (r"\.attention_norm\.", ".attn.norm."),
    (r"\.mlp_norm\.", ".mlp.norm."),
    (r"\.mlp\.up\.", ".mlp.ff.to_mlp."),
    (r"\.mlp\.down\.", ".mlp.ff.to_out."),
    (r"\.input_norm\.", ".norm_input."),
    (r"\.output_norm\.", ".norm_output."),
    (r"\.positions$", ".pe"),
)


def published_names(config: CoDiCodecConfig) -> dict[str, str]:
    """Published name -> our name, of every tensor that our network uses."""
    return {_published(name): name for name in sorted(empty_network(config).state_dict())}


def _published(ours: str) -> str:
    """The published name of one of our tensors."""
    start, place = next((a, b) for a, b in _PLACES if ours.startswith(a))
    name = place + ours[len(start) :]
    for part, published in _PARTS:
        name = re.sub(part, published, name)
    return name


def import_codicodec(path: str | Path, config: CoDiCodecConfig | None = None) -> CoDiCodec:
    """Load the published checkpoint (`codicodec.pt`, key `gen_state_dict`) as a `CoDiCodec`.

    Reads with ``torch.load(weights_only=True)``. Raises `WeightsError` when a tensor is missing or misshapen. Tensors
    that are not used in the computation are kept, so that `export_codicodec` writes all of them, bit for bit.
    """
    file = Path(path)
    loaded = read_torch_file(file, "the published codicodec.pt, or the folder of a saved codec")
    state = loaded.get(_KEY)
    if not isinstance(state, dict):
        raise WeightsError(f"{file} has no entry {_KEY!r}; the published codicodec.pt has one.")
    network = empty_network(config or CoDiCodecConfig())
    own, extras = {}, {}
    names = published_names(network.config)
    for name, tensor in state.items():
        if name in names:
            own[names[name]] = tensor
        else:
            extras[name] = tensor
    fill(network, own, str(file))
    return CoDiCodec(network, name=file.stem, provenance={"weights": f"imported from {file.name}"}, extras=extras)


def export_codicodec(codec: CoDiCodec, path: str | Path) -> None:
    """Write a checkpoint in the published layout. Raises `WeightsError` if the codec was not imported from one."""
    if not codec.extras:
        raise WeightsError(
            "This codec was not imported from a published checkpoint, so it cannot be written in that layout."
        )
    state: dict[str, Tensor] = dict(codec.extras)
    own = codec.network.state_dict()
    for published, name in published_names(codec.config).items():
        state[published] = own[name].float().contiguous()
    with replacing(path) as temporary:
        torch.save({_KEY: state}, temporary)


def empty_network(config: CoDiCodecConfig) -> CoDiCodecNetwork:
    """A network without random initialisation, whose weights are loaded afterwards."""
    with torch.device("meta"):
        network = CoDiCodecNetwork(config)
    return network.to_empty(device="cpu")


def save_codec(codec: CoDiCodec | BandCodec, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
    """Write `config.json` and `model.safetensors` (large ones in shards) into a folder, each atomically.

    `dtype` converts the parameters (for example to bfloat16), not the constants: means and scales.
    """
    extras = {_EXTRA + name: t for name, t in codec.extras.items()} if isinstance(codec, CoDiCodec) else {}
    write_folder(folder, codec.network, codec.config, codec.provenance, dtype, extras)


def load_codec(folder: str | Path) -> CoDiCodec | BandCodec:
    """Read a folder written by `save_codec`, as float32 on the CPU. Raises `WeightsError` or `ConfigError`."""
    found = read_folder(folder)
    config, source, provenance = codicodec_config(found.config, found.where), found.path, found.provenance
    state = found.weights()
    extras = {name.removeprefix(_EXTRA): tensor for name, tensor in state.items() if name.startswith(_EXTRA)}
    own = {name: tensor for name, tensor in state.items() if not name.startswith(_EXTRA)}
    if isinstance(config, BandsConfig):
        bands = BandNetwork(config)
        fill(bands, own, str(source))
        return BandCodec(bands, name=source.name, provenance=provenance)
    network = empty_network(config)
    fill(network, own, str(source))
    return CoDiCodec(network, name=source.name, provenance=provenance, extras=extras)
