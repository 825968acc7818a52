"""A generator of latents in thirty lines: flow matching with a small transformer.

duotone make-sounds sounds/ --minutes 30 && duotone latents sounds/ -o latents/
python examples/latent_diffusion.py latents/ out.wav

Path and velocity: x_t = (1 - t) x + t noise, v = noise - x (arXiv 2210.02747, with noise at t = 1).
Legend: B crops, N chunks, M tokens a chunk, C channels.
"""

from __future__ import annotations

import random
import sys

import torch
from torch import Tensor, nn

import duotone
from duotone.store import LatentStore


class Velocity(nn.Module):
    """x_t `[B, N * M, C]`, t `[B, 1, 1]` -> velocity `[B, N * M, C]`."""

    def __init__(self, channels: int, tokens: int, width: int = 128, layers: int = 3) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(channels + 1, width), nn.Linear(width, channels)
        self.place = nn.Parameter(0.1 * torch.randn(tokens, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        inputs = torch.cat([x, t.expand(*x.shape[:2], 1)], dim=-1)
        return self.out(self.layers(self.into(inputs) + self.place))


def main(folder: str, out: str, steps: int = 3000, chunks: int = 8, batch: int = 16) -> tuple[list[float], Tensor]:
    """Train on a store and write generated audio; returns the losses and the generated values `[1, N * M, C]`, normalised."""
    store, losses = LatentStore(folder), []
    mean, deviation = torch.from_numpy(store.mean), torch.from_numpy(store.deviation)
    places = [(i, first) for i, r in enumerate(store.recordings) for first in range(r.chunks - chunks + 1)]
    model = Velocity(store.info.channels, store.crop(*places[0], chunks)[..., 0].size)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(steps):
        crops = [torch.from_numpy(store.crop(*place, chunks)) for place in random.choices(places, k=batch)]
        x, t = (torch.stack(crops).flatten(1, 2) - mean) / deviation, torch.rand(batch, 1, 1)
        noise = torch.randn_like(x)
        loss = (model(torch.lerp(x, noise, t), t) - (noise - x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():  # Euler's method from noise at t = 1 to t = 0
        made = torch.randn_like(x[:1])
        for step in range(50):
            made = made - model(made, torch.full((1, 1, 1), 1 - step / 50)) / 50
    latents = duotone.Latents.from_channels((made * deviation + mean)[0].unflatten(0, (chunks, -1)), store.spec)
    duotone.write(out, duotone.load(store.spec.model).decode(latents), force=True)
    return losses, made


if __name__ == "__main__":
    found, _ = main(*sys.argv[1:3])
    print(f"loss {found[0]:.3f} at first, {sum(found[-50:]) / 50:.3f} at the end")
