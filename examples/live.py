"""Live coding: audio arrives in blocks, each chunk is sent as codes as soon as it is complete, and decoded at once.

python examples/live.py
"""

from __future__ import annotations

import torch

import duotone
from duotone.audio.synth import synthesize

codec = duotone.load("tiny")
wave = synthesize(seed=11, seconds=4.0)
block = wave.rate // 10  # a sound card's 100 ms
pieces = []

with codec.encode_stream(wave.rate, wave.channels) as sender, codec.stream(seed=0) as receiver:
    for start in range(0, wave.length, block):
        latents = sender.push(duotone.Waveform(wave.samples[:, start : start + block], wave.rate))
        if len(latents):  # only the codes would be sent over a network
            heard = receiver.push(latents.codes())
            pieces.append(heard.samples)
            print(f"{(start + block) / wave.rate:5.1f} s in, {sum(p.shape[1] for p in pieces) / codec.rate:5.2f} s out")
    pieces.append(receiver.push(sender.finish().codes()).samples)
    pieces.append(receiver.finish().samples)

duotone.write("live.wav", duotone.Waveform(torch.cat(pieces, dim=1), codec.rate), force=True)
