"""The bundled `lycodec-tiny`: its size, a round trip, and its codes of a sound that is made of integers.

Whoever replaces the weights records the codes anew: ``python tests/codec/test_lycodec_bundled.py``
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

import duotone
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.lycodec.codec import Lycodec
from duotone.evaluate.metrics import METRICS
from duotone.hub import WEIGHTS

NAME = "lycodec-tiny"
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "lycodec_tiny.json"
COMMAND = "python tests/codec/test_lycodec_bundled.py"
DIGITS = "0123456789a"


def bundled() -> Lycodec:
    codec = duotone.load(NAME, dtype="float32")
    assert isinstance(codec, Lycodec)
    return codec


def sound() -> Waveform:
    """One chunk of integers / 2^15: triangle waves whose levels change in steps, other ones left than right."""
    i = torch.arange(60_000)
    waves = []
    for periods in ((437, 109, 29), (437, 131, 17)):
        triangles = [(2 * (i % p) - p).abs() * 12_000 // p - 6_000 for p in periods]
        waves.append(sum(t * (1 + (i // 6_000 + n) % 3) // 3 for n, t in enumerate(triangles)))
    return Waveform(torch.stack(waves).float() / 2**15, 48_000)


def digits() -> str:
    """The levels of the 256 values of each token, token by token, a digit each."""
    codes = bundled().encode(sound()).codes()
    assert codes.indices.shape == (256, 18)
    return "".join(DIGITS[int(level)] for level in codes.indices.T.flatten())


def test_it_is_small_and_says_where_it_comes_from() -> None:
    codec = bundled()
    assert sum(file.stat().st_size for file in (WEIGHTS / NAME).glob("*.safetensors")) <= 16 << 20
    assert sum(p.numel() for p in codec.network.parameters()) <= 8_000_000
    assert codec.provenance["steps"] > 0 and codec.spec.codebooks == (11,) * 256


def test_its_codes_are_those_recorded() -> None:
    """Other kernels may round a value at the border of two levels differently, so a few of the 4608 may differ."""
    recorded = json.loads(GOLDEN.read_text())
    assert recorded["fingerprint"] == bundled().fingerprint, (
        f"other weights than recorded; if they are to be: {COMMAND}"
    )
    found = digits()
    assert len(found) == len(recorded["codes"]) == 18 * 256
    differ = sum(a != b for a, b in zip(found, recorded["codes"], strict=True))
    assert differ <= 4, f"{differ} of 4608 codes differ from those recorded; if they are to: {COMMAND}"
    assert len(set(found)) == 11  # all levels are used


def test_a_round_trip_resembles_the_sound() -> None:
    """A trained codec gives what it heard, from latents and from codes: far nearer to it than silence or another piece is."""
    codec, wave, other = bundled(), synthesize(3, 2.5), synthesize(8, 2.5)
    distance = METRICS["log_mel"]
    latents = codec.encode(wave)
    silence = distance(wave, Waveform(torch.zeros_like(wave.samples), wave.rate))
    for value in (latents, latents.codes()):
        out = codec.decode(value, seed=1)
        assert (out.rate, out.channels, out.length) == (wave.rate, wave.channels, wave.length)
        assert torch.equal(out.samples, codec.decode(value, seed=1).samples)
        assert distance(wave, out) < 0.5 * silence and distance(wave, out) < 0.75 * distance(other, out)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({"fingerprint": bundled().fingerprint, "codes": digits()}, indent=1) + "\n")
    print(f"Written: {GOLDEN.name}")
