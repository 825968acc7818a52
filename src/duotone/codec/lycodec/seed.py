"""The interface that Lycodec's published description shows: `Lycodec(...)`, `encode`, `decode`, `load_model`.

For those who come from it. It is a view of `duotone.codec.lycodec.codec.Lycodec`, which does the work; new programs use that
one, through `duotone.load`. What differs from the description: a chunk is 71 680 samples, so that a sound has ``18 N`` tokens, N = the
chunks that cover it; decoding starts at sigma_max, not at .001, from where one step gives noise.

Legend: B examples, T samples, N chunks, V values of a token.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from duotone.codec.contract import plain_arithmetic
from duotone.codec.lycodec.decoding import TOGETHER, Decoding, noise_levels, noise_shape
from duotone.codec.lycodec.frontend import chunk_spectra
from duotone.codec.lycodec.network import LycodecNetwork
from duotone.codec.lycodec.weights import load_lycodec
from duotone.codec.noise import seeded_noise
from duotone.config import LycodecConfig
from duotone.errors import ConfigError, UsageError, WeightsError
from duotone.nn.state import fill, read_torch_file

#: Keys of the described YAML files -> arguments of `Lycodec`.
KEYS = {
    "sample_rate": "sr", "stft.n_fft": "n_fft", "stft.hop_length": "hop", "stft.win_length": "win", "model.hidden_dim": "hidden",
    "model.token_dim": "token_dim", "model.transformer_layers": "layers", "model.heads": "heads", "model.use_rope": "use_rope",
    "model.use_group_fsq": "use_group_fsq", "model.decoder_depth": "decoder_depth",
    "model.decoder_patch_size": "decoder_patch_size", "train.use_checkpoint": "use_checkpoint",
}  # fmt: skip
#: Keys whose only possible value is a constant of the grid here.
FIXED = {"token_rate": 12, "crop_seconds": 1.5, "chunk_seconds": 1.5}
#: Keys of training, which decide nothing in a model; `duotone.train.lycodec_seed` makes a recipe of them.
TRAINING = frozenset(
    [
        "hop_seconds", "batch_size", "epochs", "lr", "device", "num_workers", "save_every", "data", "output", "logging", "teacher",
        "train.stage", "train.stage1_steps", "train.stage2_steps", "train.grad_clip", "train.use_amp", "train.fsq_dropout_schedule",
        "train.ddp", "train.ema", "train.recon_weight_schedule", "train.gradient_accumulation_steps", "train.sigma_min",
        "train.sigma_max", "train.rho",
    ]
)  # fmt: skip


class Lycodec(nn.Module):
    """A Lycodec with the arguments of its description. Raises `UsageError` for values that it cannot have."""

    def __init__(
        self,
        sr: int = 48_000,
        n_fft: int = 2048,
        hop: int = 640,
        win: int = 2048,
        token_dim: int = 256,
        hidden: int = 512,
        layers: int = 8,
        heads: int = 8,
        use_checkpoint: bool = False,
        use_rope: bool = True,
        use_group_fsq: bool = True,
        decoder_depth: int = 6,
        decoder_patch_size: int = 16,
    ) -> None:
        super().__init__()
        if win != n_fft:
            raise UsageError(
                f"win got {win} and n_fft {n_fft}: windows here are as long as the transform. Make them equal."
            )
        if not use_rope:
            raise UsageError("use_rope got False, but positions are always rotary here: per head, on queries and keys.")
        default = LycodecConfig()
        config = LycodecConfig.parse(
            {
                "rate": sr, "n_fft": n_fft, "hop": hop, "values": token_dim, "encoder_dim": hidden, "encoder_layers": layers,
                "encoder_heads": heads, "stem_channels": (*default.stem_channels[:-1], hidden), "decoder_layers": decoder_depth,
                "decoder_heads": heads, "patch_bins": decoder_patch_size,
                "levels": default.levels if use_group_fsq else default.levels[:1],
            },
            "Lycodec(...)",
        )  # fmt: skip
        self._take(LycodecNetwork(config))
        self.network.encoder.checkpointing = self.network.decoder.checkpointing = use_checkpoint

    def _take(self, network: LycodecNetwork) -> None:
        self.network = network
        self.config = network.config

    @classmethod
    def of(cls, network: LycodecNetwork) -> Lycodec:
        """The view of a network of any configuration."""
        view = cls.__new__(cls)
        nn.Module.__init__(view)
        view._take(network)
        return view

    def encode(self, wav: Tensor) -> dict[str, Tensor]:
        """Sound `[B, 2, T]` at `sr` (or mono `[B, 1, T]`) -> `tokens` (fused), `cont` and `disc`, each `[B, 18 N, V]`.

        `tokens` are real numbers that hold more than the codes, as hybrid tokens do; `disc` is what integers can carry.
        """
        if wav.ndim != 3 or wav.shape[1] not in (1, 2) or not wav.shape[2]:
            raise UsageError(f"encode got shape {list(wav.shape)}, expected [batch, 2, samples] (or 1 channel).")
        config = self.config
        end = self._chunks(wav.shape[2]) * config.chunk_samples - wav.shape[2]
        samples = nn.functional.pad(wav.expand(-1, 2, -1).float(), (config.overlap, end))
        with plain_arithmetic(wav.device):
            cont = self.network.encode(chunk_spectra(samples, config))
            parts = {"tokens": self.network.fuse(cont), "cont": cont, "disc": self.network.fsq.round(cont)}
        return {name: part.reshape(len(wav), -1, config.values) for name, part in parts.items()}

    def decode(self, tokens: Tensor, length: int, sigma: float | Tensor | None = None, *, seed: int = 0) -> Tensor:
        """Tokens `[B, 18 N, V]` of `encode` -> sound `[B, 2, length]`; one step from noise at `sigma` (default sigma_max)."""
        wanted = (self._chunks(length) * self.config.tokens, self.config.values)
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != wanted:
            raise UsageError(
                f"decode got tokens of shape {list(tokens.shape)} for {length} samples, expected [batch, {wanted[0]}, {wanted[1]}]."
            )
        levels = noise_levels(self.config, sigma=None if sigma is None else float(torch.as_tensor(sigma).flatten()[0]))
        noise = seeded_noise(seed, noise_shape(self.config))
        out = []
        with plain_arithmetic(tokens.device):
            for row in tokens.unflatten(1, (-1, self.config.tokens)):
                decoder = Decoding(self.network, noise, levels, self.config.groups)
                out.append(torch.cat([decoder.push_tokens(part) for part in row.split(TOGETHER)], 1)[:, :length])
        return torch.stack(out).to(tokens.device)

    def _chunks(self, length: int) -> int:
        return max(1, -(-(length + self.config.overlap) // self.config.chunk_samples))


def load_model(checkpoint: str | os.PathLike[str], config: str | os.PathLike[str] | None = None) -> Lycodec:
    """A trained Lycodec, ready to encode: a folder of Duotone, or a file with the weights of `Lycodec(...)`.

    `config` is a YAML file of the described form, which a file of weights needs. Raises `ConfigError` naming keys that are not
    known or cannot be had, `WeightsError` where the weights do not fit.
    """
    path = Path(checkpoint)
    if path.is_dir():
        return Lycodec.of(load_lycodec(path).network)
    if config is None:
        raise ConfigError(f"{path} is a file of weights: give its configuration too, load_model(checkpoint, config).")
    model = Lycodec(**arguments(config))
    state: Any = read_torch_file(path, "a file of weights, or a folder of a trained Lycodec")
    state = state.get("model", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise WeightsError(f"{path} holds no weights: expected tensors by name, or such under 'model'.")
    own = {name.removeprefix("network."): t for name, t in state.items()}
    if not set(own) & set(model.network.state_dict()):
        raise WeightsError(
            f"{path} is of another program: none of its {len(own)} tensors is one of this network's. The described code had no trained "
            f"weights; train some (duotone train lycodec-tiny)."
        )
    fill(model.network, own, str(path))
    return model.eval().requires_grad_(False)


def arguments(config: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments of `Lycodec` in a YAML file of the described form. Raises `ConfigError` as `described` does."""
    return {KEYS[key]: value for key, value in described(config).items() if key in KEYS}


def described(config: str | os.PathLike[str]) -> dict[str, Any]:
    """The values of a YAML file of the described form, those of its parts as ``part.key``.

    Raises `ConfigError` naming every key that is unknown, and for a grid that Lycodec cannot have.
    """
    file = Path(config)
    if not file.is_file():
        raise ConfigError(f"No configuration file at {file}. Give the path of a YAML file.")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds {type(values).__name__}, expected a mapping of keys to values.")
    found = dict(_flat(values))
    for key in found.keys() & FIXED.keys():
        if found[key] != FIXED[key]:
            raise ConfigError(
                f"{file}: {key} got {found[key]}, expected {FIXED[key]}: a chunk has 18 tokens and 112 hops (1.4933 s at 48 kHz)."
            )
    unknown = [key for key in found if key not in {*KEYS, *FIXED, *TRAINING}]
    if unknown:
        raise ConfigError(
            f"{file} has keys that Lycodec does not know: {', '.join(unknown)}. Leave them out. Known: {', '.join(KEYS)}."
        )
    return found


def _flat(values: dict[str, Any]) -> list[tuple[str, Any]]:
    """Keys and values of the mapping, those of its parts `stft`, `model` and `train` as ``part.key``."""
    out = []
    for key, value in values.items():
        if key in ("stft", "model", "train") and isinstance(value, dict):
            out += [(f"{key}.{name}", inner) for name, inner in value.items()]
        else:
            out.append((str(key), value))
    return out
