"""One encoding, two outputs: continuous latents for a diffusion model, discrete tokens for a language model.

python examples/roundtrip.py [song.wav]
"""

from __future__ import annotations

import sys

import duotone
from duotone.audio.synth import synthesize

wave = duotone.read(sys.argv[1]) if len(sys.argv) > 1 else synthesize(seed=7, seconds=3.0)
codec = duotone.load("tiny")

latents = codec.encode(wave)
codes = latents.codes()
vectors = latents.channels(64)  # [chunks, 8, 64], unit scale
print(f"{wave.seconds:.2f} s of {wave.channels} channels at {wave.rate} Hz -> {len(latents)} chunks")
print(f"continuous: {list(vectors.shape)}, standard deviation {vectors.std():.2f}")
print(f"discrete:   {list(codes.indices.shape)} out of {codec.spec.codebooks[0]}: {codes.indices[0, :8].tolist()} ...")

size = duotone.write_duo("roundtrip.duo", codes, force=True)
print(f"roundtrip.duo: {size} bytes, {size * 8 / wave.seconds / 1000:.2f} kbit/s")

decoded = codec.decode(duotone.read_duo("roundtrip.duo"), seed=0)
duotone.write("roundtrip.wav", decoded, force=True)
print(f"roundtrip.wav: {decoded.length} samples at {decoded.rate} Hz, as many as came in: {wave.length}")
