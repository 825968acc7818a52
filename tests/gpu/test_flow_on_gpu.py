"""Flow models on a CUDA device compute what they compute on the CPU. Skipped, with the reason, where there is none."""

from __future__ import annotations

import pytest
import torch

from duotone.config import FlowConfig
from duotone.flow import FlowCache, Sampler
from flow_toys import TOY, UNLIMITED, chunks, stirred

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("config", [TOY, UNLIMITED], ids=["band", "unlimited"])
def test_passes_and_gradients_are_those_of_the_cpu(config: FlowConfig) -> None:
    found = []
    for device in ("cpu", "cuda"):
        model = stirred(config).to(device)
        clean, noisy = chunks(2, 9).to(device), chunks(2, 3, 9, seed=2).to(device)
        s, t = torch.full((2, 9), 0.1, device=device), torch.full((2, 3, 9), 0.6, device=device)
        keep = torch.tensor([True, False], device=device)
        out = model.streams(clean, s, noisy, t, keep=keep)
        out.square().mean().backward()
        gradient = model.proj_in.weight.grad
        assert gradient is not None
        found.append((out.detach().cpu(), gradient.cpu()))
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)


def test_the_cache_is_the_full_pass_on_the_device() -> None:
    model, past, x = stirred().to("cuda"), chunks(1, 20).to("cuda"), chunks(1, seed=3).to("cuda")
    cache = FlowCache(model)
    cache.append(past[:, :7])
    for i in range(7, 20):
        cache.append(past[:, i : i + 1])
    with torch.no_grad():
        wanted = model(torch.cat([past, x[:, None]], 1), torch.tensor([[0.0] * 20 + [0.5]], device="cuda"))[:, -1]
    torch.testing.assert_close(cache.velocity(x, 0.5), wanted, rtol=1e-3, atol=1e-3)


def test_a_seed_gives_the_chunks_of_the_cpu() -> None:
    here, there = (Sampler(stirred().to(device), [3]) for device in ("cpu", "cuda"))
    for _ in range(3):
        torch.testing.assert_close(here.next().latents, there.next().latents.cpu(), rtol=1e-2, atol=1e-2)
