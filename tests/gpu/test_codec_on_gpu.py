"""The codec on a CUDA device computes what it computes on the CPU. Skipped, with the reason, where there is none."""

from __future__ import annotations

import pytest
import torch

from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.values import Latents
from duotone.hub import load
from duotone.train.consistency import ConsistencyObjective, ConsistencySection
from duotone.train.draws import Draws
from small import SMALL

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def pair() -> tuple[CoDiCodec, CoDiCodec]:
    """The same random codec on the CPU and on the device, both in float32."""
    return CoDiCodec.random(SMALL, seed=1), CoDiCodec.random(SMALL, seed=1).to("cuda", torch.float32)


def test_latents_and_codes_are_those_of_the_cpu(pair: tuple[CoDiCodec, CoDiCodec], wave: Waveform) -> None:
    here, there = (codec.encode(wave) for codec in pair)
    assert torch.allclose(here.values, there.values.cpu(), atol=1e-3)
    same = (here.codes().indices == there.codes().indices.cpu()).float().mean()
    assert same > 0.99  # but for values at a rounding edge


def test_the_bundled_codec_gives_the_codes_of_the_cpu_whatever_it_decodes_in() -> None:
    sound = synthesize(4, 10.0)
    here, there = (load("tiny", device, "auto").encode(sound) for device in ("cpu", "cuda"))
    assert there.source.format == "float32"
    assert (here.codes().indices == there.codes().indices.cpu()).float().mean() >= 0.999


@pytest.mark.parametrize("strategy", ["parallel", "autoregressive", "wavefront"])
def test_decoded_sound_is_that_of_the_cpu(pair: tuple[CoDiCodec, CoDiCodec], wave: Waveform, strategy: str) -> None:
    latents = pair[0].encode(wave)
    here, there = (codec.decode(latents, strategy, seed=3) for codec in pair)  # type: ignore[arg-type]
    assert there.samples.device.type == "cpu"
    error = (here.samples - there.samples).norm() / here.samples.norm()
    assert error < 2e-2  # other sums; the noise is the same, since it is drawn on the CPU


def test_live_decoding_on_the_device(pair: tuple[CoDiCodec, CoDiCodec], wave: Waveform) -> None:
    _, there = pair
    latents = there.encode(wave)
    with there.stream(seed=0) as stream:
        parts = [stream.push(Latents(value[None], latents.spec)).samples for value in latents.values]
        parts.append(stream.finish().samples)
    whole = there.decode(latents, "autoregressive", seed=0)
    assert torch.allclose(torch.cat(parts, 1)[:, : whole.length], whole.samples, atol=1e-3)


def test_bfloat16_stays_near_float32(pair: tuple[CoDiCodec, CoDiCodec], wave: Waveform) -> None:
    half = CoDiCodec.random(SMALL, seed=1).to("cuda", torch.bfloat16)
    gap = half.encode(wave).values.float().cpu() - pair[0].encode(wave).values
    assert gap.abs().mean() < 0.02


def test_a_training_step_on_the_device() -> None:
    losses = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = ConsistencyObjective(SMALL, ConsistencySection(envelope_weight=1.0)).to(device)
        samples = 0.3 * torch.randn(3, 2, model.crop, generator=torch.Generator().manual_seed(0))
        loss, _ = model({"samples": samples.to(device)}, 0.5, Draws.whole(3))
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
