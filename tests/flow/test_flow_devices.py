"""Sessions, training steps and the bundled codec's kind of network on a device without float64 and complex numbers.

The stand-in computes as the CPU does, so that what comes out can be compared with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from duotone import flow
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.bands.features import Analysis
from duotone.codec.contract import Codec
from duotone.config import FlowConfig, SamplingConfig
from duotone.flow import FlowModel, Session
from duotone.store.split import Crops, Region
from duotone.train.draws import Draws
from duotone.train.flow import FlowObjectiveSection
from duotone.train.flow_objective import FlowObjective
from duotone.train.flow_validation import FlowValidation
from duotone.train.latents import LatentCrops, StoredLatents
from duotone.train.optimizers import make_optimizers
from duotone.train.schedule import EMA
from duotone.train.settings import OptimSection
from flow_toys import SPANS, TOY, chunks, stirred
from guards import placed, stand_in
from latent_toys import make_store
from small import SMALL
from small_bands import random_bands

SAME = {"rtol": 1e-4, "atol": 1e-4}
#: Chunks of 8 x 8 values, as those of the small codecs; with guidance every part of the sampler is used.
CONFIG = FlowConfig(
    dim=32, layers=2, heads=2, head=16, condition=16, tokens=8, channels=8, context_chunks=3,
    sampling=SamplingConfig(steps=3, guidance=1.5, guidance_branch="noisy", context_noise=0.1),
)  # fmt: skip


def test_the_stand_in_computes_and_refuses() -> None:
    x = torch.randn(3, 4)
    with stand_in() as device:
        there = x.to(device)
        weight = torch.nn.Parameter(torch.ones(4, 2, device=device))
        (there @ weight).square().sum().backward()
        assert there.device.type == device and weight.grad is not None and weight.grad.device.type == device
        assert torch.equal((there + 1).cpu(), x + 1) and float(there.sum()) == float(x.sum())
        there[:1] = 5.0
        assert (there.cpu()[0] == 5).all() and not (x == 5).any()
        wrong: list[Callable[[], Any]] = [
            lambda: torch.fft.rfft(there),
            lambda: there.double(),
            lambda: torch.zeros(2, dtype=torch.float64, device=device),
            lambda: there + x,
        ]
        for make in wrong:
            with pytest.raises(AssertionError, match="on meta"):
                make()
        assert torch.zeros(2, dtype=torch.float64).dtype == torch.float64  # on the CPU it may be


def moved(codec: Any, device: str) -> Any:
    """The codec with its network on the stand-in; `Codec.to` takes the names of real devices alone."""
    placed(codec.network, device)
    if isinstance(codec, BandCodec):
        codec._analysis = Analysis(codec.config, torch.device(device))
    return codec


def codecs() -> dict[str, Callable[[], Any]]:
    return {"bands": random_bands, "convolutions": lambda: CoDiCodec.random(SMALL, seed=1)}


@pytest.mark.parametrize("kind", codecs())
def test_codecs(kind: str) -> None:
    wave, wanted = synthesize(1, 0.1), codecs()[kind]()
    latents, sound = wanted.encode(wave), wanted.decode(wanted.encode(wave))
    with stand_in() as device, torch.no_grad():
        codec = moved(codecs()[kind](), device)
        assert codec.device.type == device
        found = codec.encode(wave)
        torch.testing.assert_close(found.values, latents.values, **SAME)
        torch.testing.assert_close(codec.decode(latents).samples, sound.samples, **SAME)


def played(model: FlowModel, codec: Codec) -> tuple[list[Tensor], Session]:
    """Everything that a session can do, in few chunks."""
    prompt = Waveform(synthesize(2, 0.1).samples[:, :2400].contiguous(), 48_000)
    session = flow.session(model, codec, prompt, seed=3, include_prompt=True)
    pieces = [next(session).samples for _ in range(3)]
    session.set(temperature=0.9, context=2, channel_bias={1: 0.5}, summary_scale=0.9, feedback=True, gain=0.5)
    session.set(lfos={0: {"target": "channel_bias[2]", "rate": 3.0}, 1: {"target": "gain", "shape": "sample-and-hold"}})
    session.push(Waveform(synthesize(4, 0.1).samples[:, :1600].contiguous(), 48_000))
    pieces += [next(session).samples for _ in range(3)]
    session.reseed(4, fade=0.005)
    pieces.append(next(session).samples)
    session.reanchor(fade=0.005)
    pieces += [next(session).samples for _ in range(2)]
    for solver in ("heun", "ping-pong", "dpm++"):
        session.set(solver=solver, guidance=1.0)
        pieces.append(next(session).samples)
    again = flow.resume(model, codec, session.state())
    pieces += [next(again).samples, next(session).samples]
    assert torch.equal(pieces[-1], pieces[-2])
    return pieces, session


@pytest.mark.parametrize("kind", codecs())
def test_a_session(kind: str) -> None:
    with torch.no_grad():
        wanted, session = played(stirred(CONFIG), codecs()[kind]())
    health = session.health()
    with stand_in() as device:
        model = placed(stirred(CONFIG), device)
        assert isinstance(model, FlowModel) and model.device.type == device
        found, session = played(model, moved(codecs()[kind](), device))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **SAME)
    assert session.health().loudness == pytest.approx(health.loudness, abs=0.1) and session.health().replaced == 0


def test_exact_sessions_and_takes() -> None:
    unlimited = CONFIG.model_copy(update={"context_chunks": None, "trained_chunks": 3})

    def sound(place: Callable[[FlowModel], Any], codec: Codec) -> list[Tensor]:
        session = flow.session(place(stirred(unlimited)), codec, seed=3, exact=True)
        takes = iter(flow.Takes(place(stirred(CONFIG)), codec, None, [1, 2]))
        return [next(session).samples for _ in range(4)] + [wave.samples for _ in range(2) for wave in next(takes)]

    wanted = sound(lambda model: model, random_bands())
    with stand_in() as device:
        found = sound(lambda model: placed(model, device), moved(random_bands(), device))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **SAME)


@pytest.fixture
def plain_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in draws with the CPU's generators, since PyTorch makes none for its name."""
    generator = Draws._generator
    monkeypatch.setattr(Draws, "_generator", lambda self, name, device="cpu": generator(self, name))


@pytest.mark.parametrize(
    "fields",
    [
        {"draws": 2},
        {"draws": 1, "resample_from": 0.0, "resample_steps": 2, "resample_share": 1.0},
        {"draws": 2, "averaged_draws": 1},
        {"regime": "prefix"},
    ],
    ids=["streams", "resampled", "averaged", "prefix"],
)
def test_a_training_step(fields: dict[str, Any], plain_generators: None) -> None:
    config = SPANS if "averaged_draws" in fields else TOY
    x = chunks(3, 5)

    def step(device: str | None) -> tuple[float, dict[str, Tensor]]:
        made = FlowObjective(config, FlowObjectiveSection(**fields))
        made.model.load_state_dict(stirred(config).state_dict())
        if device is not None:
            placed(made, device)
        (optimizer,) = make_optimizers(OptimSection(name="adamw", rate=1e-3, weight_decay=0.1), made)
        ema = EMA(made, 0.9, set(made.averaged()))
        loss, values = made({"latents": x if device is None else x.to(device)}, 0.5, Draws.whole(3))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
        ema.update(made)
        averaged = made.with_weights(ema.full()) if device is None else None
        assert averaged is None or isinstance(averaged, FlowModel)
        made.summarise(values)
        return float(loss.detach()), {name: tensor.cpu() for name, tensor in ema.full().items()}

    wanted, weights = step(None)
    with stand_in() as device:
        found, others = step(device)
    assert found == pytest.approx(wanted, rel=1e-4)
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, rtol=1e-3, atol=1e-4)


def test_validation_with_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_generators: None) -> None:
    held = LatentCrops(StoredLatents([make_store(tmp_path / "store", {"a": 12})]), Crops([Region(0, 0, 12)], 4), 0)

    def decode(x: Tensor) -> Waveform:
        return Waveform(x.reshape(1, -1).clamp(-1, 1).contiguous(), 8_000)

    def metrics(device: str | None) -> dict[str, Any]:
        made = FlowObjective(TOY, FlowObjectiveSection())
        made.model.load_state_dict(stirred().state_dict())
        monkeypatch.setattr(FlowObjective, "with_weights", lambda self, weights: self.model.eval())
        if device is not None:
            placed(made, device)
        validation = FlowValidation(made, held, tmp_path / str(device), 1, 2, 1, 1, decode)
        return validation(1, {})

    wanted = metrics(None)
    with stand_in() as device:
        assert metrics(device) == pytest.approx(wanted, rel=1e-3)
    assert len(list((tmp_path / "meta" / "samples").rglob("*.wav"))) == 3
