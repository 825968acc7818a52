"""Weights in and out: our safetensors directories, and the published CoDiCodec checkpoint.

A directory holds `config.json` (format, configuration, provenance) and `model.safetensors`. Nothing executes on load.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from duotone.atomic import replacing, write_text
from duotone.codec.codicodec.codec import CoDiCodec
from duotone.codec.codicodec.network import CoDiCodecNetwork
from duotone.config import CoDiCodecConfig, preset
from duotone.errors import ConfigError, WeightsError

FORMAT = "duotone-codec"
VERSION = 1
_EXTRA = "extra."  # tensors of a foreign checkpoint that take no part in the computation
_KEY = "gen_state_dict"

#: Published name -> ours; the first pattern that matches the start of a name wins.
_ROOMS: tuple[tuple[str, str], ...] = (
    (r"latents$", "encoder.latents"),
    (r"gain_encoder$", "encoder.gain"),
    (r"more_latents_encoder$", "encoder.registers"),
    (r"frontend_encoder_down\.", "encoder.frontend."),
    (r"encoder\.linear_output\.", "encoder.head."),
    (r"encoder\.", "encoder.transformer."),
    (r"mask_embedding$", "upsampler.mask"),
    (r"more_latents_pre_decoder$", "upsampler.registers"),
    (r"lat2patch_pre_decoder\.", "upsampler.project."),
    (r"pre_decoder\.", "upsampler.transformer."),
    (r"frontend_pre_decoder_up\.", "upsampler.frontend."),
    (r"more_latents_decoder$", "denoiser.registers"),
    (r"emb_proj\.", "denoiser.embed."),
    (r"gain_decoder\.", "denoiser.gains."),
    (r"lat2patch\.", "denoiser.project."),
    (r"frontend_decoder_down\.", "denoiser.down."),
    (r"frontend_decoder_up\.", "denoiser.up."),
    (r"decoder\.", "denoiser.transformer."),
)
#: Inside a room: published part of a name -> ours, applied in order.
_PARTS: tuple[tuple[str, str], ...] = (
    (r"\.(?:down|up)_layers\.", ".layers."),
    (r"\.conv_inp\.", ".stem."),
    (r"\.conv_out\.", ".head."),
    (r"\.norm_out\.", ".norm."),
    (r"\.ff\.ff([12])\.weight$", r".conv\1.weight"),
    (r"\.c\.weight$", ".conv.weight"),
    (r"\.attn\.mha\.to_qkv\.", ".attention.qkv."),
    (r"\.attn\.mha\.to_out\.", ".attention.out."),
    (r"\.attn\.mha\.([qk])_norm\.g$", r".attention.\1_gain"),
    (r"\.attn\.norm\.", ".attention_norm."),
    (r"\.mlp\.norm\.", ".mlp_norm."),
    (r"\.mlp\.ff\.to_mlp\.", ".mlp.up."),
    (r"\.mlp\.ff\.to_out\.", ".mlp.down."),
    (r"\.norm_input\.", ".input_norm."),
    (r"\.norm_output\.", ".output_norm."),
    (r"_norm\.norm\.g$", "_norm.gain"),
    (r"\.cond_proj\.", ".project."),
    (r"\.pe$", ".positions"),
)


def our_name(published: str) -> str:
    """Our name of a published tensor (it need not exist in our network: unused tensors have none)."""
    for pattern, room in _ROOMS:
        if re.match(pattern, published):
            name = re.sub("^" + pattern, room, published)
            for part, ours in _PARTS:
                name = re.sub(part, ours, name)
            return name
    return published


def import_codicodec(path: str | Path, config: CoDiCodecConfig | None = None) -> CoDiCodec:
    """Load the published checkpoint (`codicodec.pt`, key `gen_state_dict`) as a codec of ours.

    Reads with ``torch.load(weights_only=True)``. Raises `WeightsError` when a tensor is missing or misshapen. Tensors
    that take no part in the computation are kept, so that `export_codicodec` gives all of them back, bit for bit.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"No checkpoint at {file}. Give the path of the published file, codicodec.pt.")
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen unrelated types for a bad file
        raise WeightsError(f"{file} could not be read as a PyTorch checkpoint of plain tensors: {error}") from error
    state = loaded.get(_KEY) if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        raise WeightsError(f"{file} has no entry {_KEY!r}; the published codicodec.pt has one.")
    network = empty_network(config or preset("base"))
    own, extras = {}, {}
    wanted = network.state_dict()
    for name, tensor in state.items():
        target = our_name(name)
        if target in wanted:
            own[target] = tensor
        else:
            extras[name] = tensor
    fill(network, own, str(file))
    return CoDiCodec(network, name=file.stem, provenance={"weights": f"imported from {file.name}"}, extras=extras)


def export_codicodec(codec: CoDiCodec, path: str | Path) -> None:
    """Write a checkpoint in the published layout. Raises `WeightsError` if the codec was not imported from one."""
    if not codec.extras:
        raise WeightsError(
            "This codec was not imported from a published checkpoint, so that layout has no place for it."
        )
    state: dict[str, Tensor] = dict(codec.extras)
    own = codec.network.state_dict()
    for name in published_names(codec.config):
        state[name] = own[our_name(name)].float().contiguous()
    with replacing(path) as temporary:
        torch.save({_KEY: state}, temporary)


def published_names(config: CoDiCodecConfig) -> list[str]:
    """The published names of every tensor our network uses."""
    return [_published(name) for name in sorted(empty_network(config).state_dict())]


def _published(ours: str) -> str:
    """The inverse of `our_name`, for names that exist in our network."""
    for pattern, room in _ROOMS:
        if ours.startswith(room):
            name = pattern.rstrip("$").replace("\\.", ".") + ours[len(room) :]
            break
    else:
        raise WeightsError(f"{ours} has no published name.")
    down = ".up_layers." if re.match(r"frontend_.*_up\.", name) else ".down_layers."
    if name.startswith("frontend_"):
        name = name.replace(".layers.", down)
    for pattern, published in (
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
    ):
        name = re.sub(pattern, published, name)
    return name


def empty_network(config: CoDiCodecConfig) -> CoDiCodecNetwork:
    """A network whose weights will all be filled in; skips the random initialisation."""
    with torch.device("meta"):
        network = CoDiCodecNetwork(config)
    return network.to_empty(device="cpu")


def fill(network: CoDiCodecNetwork, state: dict[str, Tensor], where: str) -> None:
    """Copy tensors into a network. Raises `WeightsError` naming what is missing, unexpected or misshapen."""
    wanted = network.state_dict()
    missing = sorted(set(wanted) - set(state))
    unexpected = sorted(set(state) - set(wanted))
    wrong = [
        f"{name}: {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(set(wanted) & set(state))
        if state[name].shape != wanted[name].shape
    ]
    if missing or unexpected or wrong:
        lines = [f"{where} does not fit the configuration."]
        for title, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", wrong)):
            if names:
                lines.append(f"  {len(names)} {title}: " + "; ".join(names[:5]) + (" ..." if len(names) > 5 else ""))
        raise WeightsError("\n".join(lines))
    network.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in state.items()})


def save_codec(codec: CoDiCodec, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
    """Write `config.json` and `model.safetensors` into a folder, each atomically; `dtype` converts (e.g. bfloat16)."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    state = {name: t.detach().cpu().contiguous() for name, t in codec.network.state_dict().items()}
    if dtype is not None:
        state = {name: t.to(dtype) for name, t in state.items()}
    state |= {_EXTRA + name: t.detach().cpu().contiguous() for name, t in codec.extras.items()}
    with replacing(target / "model.safetensors") as temporary:
        save_file(state, temporary)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "config": codec.config.to_dict(),
        "provenance": codec.provenance,
    }
    write_text(target / "config.json", json.dumps(document, indent=2, sort_keys=True) + "\n")


def load_codec(folder: str | Path) -> CoDiCodec:
    """Read a folder written by `save_codec`, as float32 on the CPU. Raises `WeightsError` or `ConfigError`."""
    source = Path(folder).absolute()
    document = _document(source / "config.json")
    config = CoDiCodecConfig.parse(document.get("config", {}), str(source / "config.json"))
    weights = source / "model.safetensors"
    if not weights.is_file():
        raise WeightsError(
            f"{source} has no model.safetensors; a codec folder holds config.json and model.safetensors."
        )
    own: dict[str, Tensor] = {}
    extras: dict[str, Tensor] = {}
    try:
        with safe_open(weights, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if name.startswith(_EXTRA):
                    extras[name.removeprefix(_EXTRA)] = file.get_tensor(name)
                else:
                    own[name] = file.get_tensor(name)
    except SafetensorError as error:
        raise WeightsError(
            f"{weights} is damaged or no safetensors file ({error}). Fetch or export it again."
        ) from None
    network = empty_network(config)
    fill(network, own, str(weights))
    return CoDiCodec(network, name=source.name, provenance=document.get("provenance", {}), extras=extras)


def _document(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise WeightsError(f"No codec at {path.parent}: it has no config.json. Give the folder of a saved codec.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConfigError(f'{path} does not describe a codec of this library (expected "format": "{FORMAT}").')
    if document.get("version") != VERSION:
        raise ConfigError(
            f"{path} has version {document.get('version')}, this library reads {VERSION}. Update duotone."
        )
    return document
