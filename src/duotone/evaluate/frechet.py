"""Fréchet distance between the embeddings of two sets of audio (Heusel et al. 2017; FAD, arXiv 1812.08466).

`LogMel` is a substitute that needs no weights: it compares statistics of log-mel spectra, not features of a trained network.
`Pretrained` takes a model of `transformers` that the user names.

Legend: n windows, d dimensions of an embedding.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.errors import UsageError, WeightsError
from duotone.evaluate.metrics import FLOOR, magnitudes
from duotone.represent.mel import mel_filterbank


class Embedder(Protocol):
    """Maps audio to vectors; `name` is printed in reports."""

    name: str

    def __call__(self, wave: Waveform) -> Tensor:
        """The embeddings `[n, d]` of a wave's windows."""
        ...


class LogMel:
    """A substitute without weights: mean and standard deviation of 32 log-mel bands over windows of 1 s, every 0.5 s."""

    name = "log-mel statistics (no network; a stand-in for FAD)"
    BANDS, WINDOW = 32, 94  # frames of 512 samples in a second at 48 kHz

    def __call__(self, wave: Waveform) -> Tensor:
        """`[n, 64]` of the mean of the channels at 48 kHz; a short wave is one window."""
        mono = wave.resample(48_000).to_channels(1).samples
        mel = 20 * torch.log10(
            (mel_filterbank(48_000, 2048, self.BANDS) @ magnitudes(mono, 2048, 512)[0]).clamp_min(FLOOR)
        )
        if mel.shape[1] < self.WINDOW:
            parts = mel[None]
        else:
            parts = mel.unfold(1, self.WINDOW, self.WINDOW // 2).transpose(0, 1)  # [n, bands, frames]
        spread = parts.std(-1) if parts.shape[-1] > 1 else torch.zeros_like(parts[..., 0])
        return torch.cat([parts.mean(-1), spread], dim=1).double()


class Pretrained:
    """A network of transformers on windows of 10 s: CLAP's audio tower (arXiv 2211.06687), or AST (arXiv 2104.01778).

    AST, the Audio Spectrogram Transformer, was trained on AudioSet's labels.
    """

    SECONDS = 10.0
    #: kind -> (title, class of the model, class of its feature extractor).
    KINDS: ClassVar = {
        "clap": ("CLAP", "ClapModel", "ClapFeatureExtractor"),
        "ast": ("AST", "ASTModel", "ASTFeatureExtractor"),
    }

    def __init__(self, model: Any, extractor: Any, name: str) -> None:
        self.model, self.extractor, self.name = model.eval(), extractor, name

    @classmethod
    def load(cls, kind: str, name: str) -> Pretrained:
        """From a folder or a name on the Hub, such as laion/larger_clap_music. Raises `WeightsError`."""
        import transformers

        title, model, extractor = cls.KINDS[kind]
        try:
            network, features = (getattr(transformers, part).from_pretrained(name) for part in (model, extractor))
        except OSError as error:
            raise WeightsError(f"No {title} weights at {name!r}: {error}") from None
        return cls(network, features, f"{title} {name}")

    @torch.no_grad()
    def __call__(self, wave: Waveform) -> Tensor:
        """`[n, d]`; CLAP's embeddings have length 1."""
        rate = self.extractor.sampling_rate
        windows = [window.numpy() for window in _windows(wave, rate, self.SECONDS)]
        given = self.extractor(windows, sampling_rate=rate, return_tensors="pt")
        if hasattr(self.model, "get_audio_features"):  # CLAP: the space shared with text
            return torch.nn.functional.normalize(_pooled(self.model.get_audio_features(**given)), dim=-1).double()
        return _pooled(self.model(**given)).double()


def load_embedder(spec: str) -> Embedder:
    """``logmel``, ``clap:NAME`` or ``ast:NAME``. Raises `UsageError` for anything else."""
    kind, _, name = spec.partition(":")
    if kind == "logmel" and not name:
        return LogMel()
    if kind not in Pretrained.KINDS or not name:
        raise UsageError(
            f"--frechet got {spec!r}, expected logmel, clap:NAME or ast:NAME (a folder or name on the Hub)."
        )
    try:
        return Pretrained.load(kind, name)
    except ImportError:
        raise UsageError(
            f"{kind} needs transformers: pip install transformers. Without it: --frechet logmel."
        ) from None


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """``|m_a - m_b|**2 + tr(C_a + C_b - 2 (C_a C_b)**0.5)`` of embeddings `[n, d]` and `[m, d]` (at least 2 each).

    The trace of the root comes from the singular values of ``C_a**0.5 C_b**0.5``, which needs no complex numbers.
    """
    if len(a) < 2 or len(b) < 2:
        return float("nan")
    a, b = a.double(), b.double()
    gap = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    cross = torch.linalg.matrix_norm(_root(cov_a) @ _root(cov_b), "nuc")
    return max(0.0, float(gap + cov_a.trace() + cov_b.trace() - 2 * cross))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    out: Tensor = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return out


def _windows(wave: Waveform, rate: int, seconds: float) -> list[Tensor]:
    """The mean of the channels at `rate`, cut into windows; the last is filled up from its own start where short."""
    mono = wave.to_channels(1).resample(rate).samples[0]
    size = round(seconds * rate)
    if len(mono) < size:
        return [mono.repeat(-(-size // max(1, len(mono))))[:size]]
    return [mono[i : i + size] for i in range(0, len(mono) - size + 1, size)]


def _pooled(output: Any) -> Tensor:
    out: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return out
