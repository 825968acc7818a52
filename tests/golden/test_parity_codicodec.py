"""The same numbers as the published implementation, with random full-size weights, in float32.

The `codicodec` package (CC BY-NC) is only called here, as an oracle; nothing of it is part of this library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.codec.codicodec.network import stft_of
from duotone.codec.codicodec.noise import seeded_noise
from duotone.codec.codicodec.weights import export_codicodec, import_codicodec
from duotone.codec.values import Codes, Latents
from duotone.represent.stft import to_spectrum

codicodec = pytest.importorskip("codicodec", reason="the oracle is in the test extra")

TOLERANCE = 1e-4
HOP, CHUNK = 1024, 32 * 1024


def relative(ours: Tensor, oracle: Tensor) -> float:
    assert ours.shape == oracle.shape
    return float((ours - oracle).norm() / oracle.norm())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The oracle with random weights (its zero-initialised layers made alive), and ours loaded from its checkpoint."""
    import codicodec.inference
    import codicodec.utils
    from codicodec.models import UNet

    patch = pytest.MonkeyPatch()
    patch.setattr(codicodec.utils, "mixed_precision", False)
    patch.setattr(codicodec.inference, "download_model", lambda: None)
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    gen = UNet().eval()
    fixed = (".down.weight", ".up.weight")
    with torch.no_grad():
        for name, p in gen.named_parameters():
            if not name.endswith(fixed):
                p.add_((0.01 if p.any() else 0.02) * torch.randn(p.shape, generator=generator))
    path = tmp_path_factory.mktemp("published") / "codicodec.pt"
    torch.save({"gen_state_dict": gen.state_dict()}, path)
    oracle = codicodec.inference.EncoderDecoder(str(path), device=torch.device("cpu"))
    yield SimpleNamespace(oracle=oracle, ours=import_codicodec(path), path=path, gen=oracle.gen)
    patch.undo()


@pytest.fixture(scope="module")
def wave() -> Waveform:
    """A bit over three chunks of a decaying stereo chord with a little noise."""
    t = torch.arange(3 * CHUNK + 5000) / 48_000
    chord = sum(torch.sin(2 * torch.pi * f * t) for f in (220.0, 277.2, 329.6, 1760.0)) * torch.exp(-t)
    hiss = 0.02 * torch.randn(2, len(t), generator=torch.Generator().manual_seed(3))
    return Waveform(0.15 * torch.stack([chord, chord.roll(40)]) + hiss, 48_000)


class Replay:
    """Stands in for torch.randn / randn_like inside the oracle and hands out the noise that ours will draw."""

    def __init__(self, draws: list[Tensor]) -> None:
        self.draws = iter(draws)

    def __call__(self, like: Any, *_: Any, **__: Any) -> Tensor:
        shape = tuple(like.shape) if isinstance(like, Tensor) else tuple(like)
        noise = next(self.draws)
        return noise.reshape(1, 4, 1024, -1)[..., : shape[-1]].reshape(shape)


def replaying(monkeypatch: pytest.MonkeyPatch, draws: list[Tensor]) -> None:
    import codicodec.models

    replay = Replay(draws)
    fake = SimpleNamespace(**{name: getattr(torch, name) for name in dir(torch) if not name.startswith("__")})
    fake.randn = fake.randn_like = replay
    monkeypatch.setattr(codicodec.models, "torch", fake)


@pytest.fixture(scope="module")
def latents(pair: SimpleNamespace, wave: Waveform) -> Latents:
    return pair.ours.encode(Waveform(wave.samples[:, : 3 * CHUNK + HOP].contiguous(), wave.rate), framing="published")


def few(latents: Latents, count: int) -> Latents:
    return Latents(latents.values[:count], latents.spec, latents.source.of_length(count * CHUNK))


def test_the_published_count_of_parameters(pair: SimpleNamespace) -> None:
    published = sum(p.numel() for p in pair.gen.parameters() if p.requires_grad)
    fixed = sum(p.numel() for n, p in pair.gen.named_parameters() if n.endswith((".down.weight", ".up.weight")))
    used = sum(p.numel() for p in pair.ours.network.parameters())
    unused = sum(
        t.numel() for n, t in pair.ours.extras.items() if not n.endswith((".down.weight", ".up.weight", "_tensor"))
    )
    assert used + unused == 148_519_052
    assert published in (148_519_052, 148_519_052 + fixed)


def test_checkpoint_comes_back_bit_for_bit(pair: SimpleNamespace, tmp_path: Any) -> None:
    from duotone.hub import load, save

    save(pair.ours, tmp_path / "codec")
    again = load(tmp_path / "codec", dtype="float32")
    assert again.fingerprint == pair.ours.fingerprint
    export_codicodec(again, tmp_path / "back.pt")
    state = torch.load(tmp_path / "back.pt", weights_only=True)["gen_state_dict"]
    want = pair.gen.state_dict()
    assert state.keys() == want.keys() and len(state) == 546
    for name, tensor in want.items():
        assert state[name].dtype == tensor.dtype and torch.equal(state[name], tensor), name


def test_spectrum(wave: Waveform, pair: SimpleNamespace) -> None:
    from codicodec.audio import to_representation_encoder

    theirs = to_representation_encoder(wave.samples[None])
    ours = to_spectrum(wave.samples[None], stft_of(pair.ours.config))
    assert relative(ours[..., : theirs.shape[-1]], theirs) < TOLERANCE


LONG_SOUNDS = [pytest.param(samples, marks=pytest.mark.long) for samples in (3 * CHUNK + 5000, 2 * CHUNK)]


@pytest.mark.parametrize("samples", [CHUNK + HOP, CHUNK + 2 * HOP - 1, *LONG_SOUNDS])
def test_encoder(pair: SimpleNamespace, wave: Waveform, samples: int) -> None:
    cut = Waveform(wave.samples[:, :samples], 48_000)
    ours = pair.ours.encode(cut, framing="published")
    with torch.no_grad():
        channels = pair.oracle.encode(cut.samples, desired_channels=64)
        theirs = pair.oracle.encode(cut.samples, discrete=True)
    assert relative(ours.channels(64), channels) < TOLERANCE
    indices = ours.codes().indices.reshape(theirs.shape)
    edge = (ours.values * 5 - 0.5) % 1
    near = torch.minimum(edge, 1 - edge).amin(-1) < 1e-4
    assert torch.equal(indices[~near], theirs[~near].long())
    assert near.float().mean() < 0.01


def test_pyramid_and_denoiser(pair: SimpleNamespace, latents: Latents) -> None:
    values = latents.values[:2]
    generator = torch.Generator().manual_seed(5)
    noisy = torch.randn(2, 4, 1024, 32, generator=generator)
    network = pair.ours.network
    with torch.no_grad():
        features = pair.gen.pre_decoder_forward(values.reshape(1, 256, 4))
        joined = torch.cat([noisy[:1], noisy[1:]], dim=-1)
        theirs = pair.gen.decoder_forward(
            joined, values.reshape(1, 256, 4), features, sigma_left=3.0, sigma_right=0.7, output="both"
        )
        pyramid = network.upsample(values)
        for mine, feature in zip(pyramid, features, strict=True):
            assert relative(torch.cat([mine[:1], mine[1:]], dim=-1), feature) < TOLERANCE
        left, right = network.denoise_pair(
            noisy[:1], noisy[1:], torch.tensor([3.0]), torch.tensor([0.7]), values[:1], values[1:],
            [p[:1] for p in pyramid], [p[1:] for p in pyramid],
        )  # fmt: skip
    assert relative(left, theirs[..., :32]) < TOLERANCE
    assert relative(right, theirs[..., 32:]) < TOLERANCE


def draws_of(noise: Callable[[int, int], Tensor], chunks: int, index: int) -> Tensor:
    return torch.cat([noise(c, index) for c in range(chunks)], dim=-1)


LONG = [pytest.param(*pair, marks=pytest.mark.long) for pair in ((3, 3), (4, 2), (5, 3))]


@pytest.mark.parametrize(("steps", "chunks"), [(3, 2), (2, 3), *LONG])
def test_parallel(
    pair: SimpleNamespace, latents: Latents, monkeypatch: pytest.MonkeyPatch, steps: int, chunks: int
) -> None:
    few_latents = few(latents, chunks)
    noise = seeded_noise(7, pair.ours.config)
    ours = pair.ours.decode(few_latents, "parallel", steps=steps, noise=noise, restore=False)
    padded = chunks + chunks % 2
    replaying(monkeypatch, [draws_of(noise, padded, k) for k in range(steps + 1)])
    theirs = pair.oracle.decode(few_latents.channels(64), mode="parallel", denoising_steps=steps)
    assert relative(ours.samples, theirs) < TOLERANCE


@pytest.mark.parametrize("steps", [1, pytest.param(2, marks=pytest.mark.long)])
def test_autoregressive_from_codes(
    pair: SimpleNamespace, latents: Latents, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Three chunks; the test of live decoding has the steps that are usual."""
    codes: Codes = few(latents, 3).codes()
    noise = seeded_noise(8, pair.ours.config)
    ours = pair.ours.decode(codes, "autoregressive", steps=steps, noise=noise, restore=False)
    draws = [noise(0, step) for step in range(steps + 1)]
    for chunk in (1, 2):
        draws += [noise(chunk, 0), noise(chunk, -1), *(noise(chunk, step) for step in range(1, steps + 1))]
    replaying(monkeypatch, draws)
    theirs = pair.oracle.decode(codes.indices.reshape(3, 128), mode="autoregressive", denoising_steps=steps)
    assert relative(ours.samples, theirs) < TOLERANCE


def test_live(pair: SimpleNamespace, latents: Latents, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = seeded_noise(9, pair.ours.config)
    draws = [noise(0, 0), noise(0, 1), noise(0, 2), noise(1, 0), noise(1, -1), noise(1, 1), noise(1, 2)]
    replaying(monkeypatch, draws)
    theirs = [pair.oracle.decode_next(few(latents, 2).channels(64)[i : i + 1]) for i in range(2)]
    pair.oracle.reset()
    with pair.ours.stream(noise=noise) as live:
        ours = [live.push(Latents(latents.values[i : i + 1], pair.ours.spec)) for i in range(2)]
    # The published stream gives each chunk without its left hop's partner; both agree on the samples under two frames.
    lengths = [tuple(np.shape(w)) for w in theirs]
    assert all(n[-1] in (CHUNK, CHUNK - HOP, CHUNK + HOP) for n in lengths)
    count = theirs[1].shape[-1]
    both = torch.cat([w.samples for w in ours], dim=-1)
    start = CHUNK - HOP
    assert relative(both[:, start : start + count], theirs[1]) < TOLERANCE
