"""Phases from the magnitudes of Lycodec's estimate: identities, and what stays as it is."""

from __future__ import annotations

import pytest
import torch

from duotone.audio.waveform import Waveform
from duotone.codec.lycodec.frontend import chunk_spectra, stft_of
from duotone.codec.lycodec.rephasing import Rephasing
from duotone.codec.verify import verify_codec
from duotone.errors import UsageError
from duotone.represent.stft import expand
from small_lycodec import SMALL_LYCODEC, random_lycodec

CODEC = random_lycodec()
CHUNK, OVERLAP = SMALL_LYCODEC.chunk_samples, SMALL_LYCODEC.overlap


def noise(samples: int) -> Waveform:
    return Waveform(0.2 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0)), 48_000)


@pytest.mark.parametrize("iterations", [0, 2])
def test_it_keeps_the_contract_of_codecs(iterations: int) -> None:
    codec = random_lycodec(decode={"phases": "magnitudes", "iterations": iterations})
    assert len(verify_codec(codec)) > 10
    latents = codec.encode(noise(2 * CHUNK))
    assert torch.equal(codec.decode(latents).samples, codec.decode(latents, phases="magnitudes").samples)
    assert not torch.allclose(codec.decode(latents).samples, codec.decode(latents, phases="network").samples, atol=1e-3)


def test_a_stream_goes_on_from_its_state() -> None:
    latents = CODEC.encode(noise(4 * CHUNK))
    options = {"seed": 2, "phases": "magnitudes", "iterations": 1}
    with CODEC.stream(**options) as whole, CODEC.stream(**options) as first, CODEC.stream(**options) as second:  # type: ignore[arg-type]
        wanted = torch.cat([whole.push(latents[i]).samples for i in range(4)], 1)
        start = [first.push(latents[i]).samples for i in range(2)]
        second.resume(first.state())
        found = torch.cat([*start, *(second.push(latents[i]).samples for i in (2, 3))], 1)
    assert torch.equal(found, wanted)


def test_magnitudes_and_the_place_of_side_stay() -> None:
    spectrum = chunk_spectra(noise(OVERLAP + CHUNK).samples[None], SMALL_LYCODEC)[0]
    parts = expand(spectrum, stft_of(SMALL_LYCODEC)).unflatten(0, (2, 2)).permute(0, 3, 2, 1)
    plain = torch.view_as_complex(parts.contiguous())[:, :, 1:]  # the inverse makes the first bin real
    rephasing = Rephasing(SMALL_LYCODEC, 0, 0)
    rephasing._dual = torch.ones(SMALL_LYCODEC.n_fft)
    made = torch.fft.rfft(rephasing.push(spectrum))[..., 1:-1]
    assert torch.allclose(made.abs(), plain.abs(), atol=1e-3) and not torch.allclose(made, plain, atol=0.1)
    assert torch.allclose(made[0].conj() * made[1], plain[0].conj() * plain[1], atol=1e-2)


def test_mono_stays_mono() -> None:
    mono = chunk_spectra(noise(OVERLAP + CHUNK).samples[:1].expand(2, -1)[None], SMALL_LYCODEC)[0]
    assert not Rephasing(SMALL_LYCODEC, 0, 1).push(mono)[1].any()


def test_gradients_flow_through_the_magnitudes() -> None:
    spectrum = chunk_spectra(noise(OVERLAP + CHUNK).samples[None], SMALL_LYCODEC)[0].requires_grad_()
    Rephasing(SMALL_LYCODEC, 0, 0).push(spectrum).square().sum().backward()
    assert spectrum.grad is not None and bool(torch.isfinite(spectrum.grad).all()) and bool(spectrum.grad.any())


def test_options_are_checked() -> None:
    latents = CODEC.encode(noise(10))
    with pytest.raises(UsageError, match="phases got 'guess'"):
        CODEC.decode(latents, phases="guess")
    with pytest.raises(UsageError, match="iterations are for"):
        CODEC.decode(latents, iterations=2)
    with pytest.raises(UsageError, match="iterations"):
        CODEC.decode(latents, phases="magnitudes", iterations=-1)
