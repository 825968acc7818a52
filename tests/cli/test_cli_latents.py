"""``duotone latents``: folders of sound to a store; it goes on, tells of bad files, and refuses what does not fit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.cli import codec_options
from duotone.codec.codicodec import CoDiCodec
from duotone.spec import CodecSpec
from duotone.store import LatentStore


@pytest.fixture
def sounds(here: Path) -> Path:
    """Three recordings, one of them in a folder below, in mono."""
    Path("sounds/deep").mkdir(parents=True)
    write("sounds/a.wav", synthesize(0, 0.08))
    write("sounds/b.flac", synthesize(1, 0.05))
    write("sounds/deep/c.wav", synthesize(2, 0.03).to_channels(1))
    return here


@pytest.fixture
def base(codec_folder: str) -> list[str]:
    return ["latents", "sounds", "-o", "out", "--codec", codec_folder]


def test_a_folder_of_sound(sounds: Path, base: list[str], duotone: Any, codec: CoDiCodec) -> None:
    told = duotone(*base)
    assert told.exit_code == 0 and told.stdout == "out\n", told.stderr
    store = LatentStore("out")
    assert [recording.name for recording in store.recordings] == ["a", "b", "deep/c"]
    for i, name in enumerate(("a.wav", "b.flac", "deep/c.wav")):
        want = codec.encode(read(f"sounds/{name}"))
        assert store[i] == want and np.array_equal(np.load(Path("out", store.recordings[i].file)), want.numpy())
    assert store.spec == codec.spec.from_dict({**codec.spec.to_dict(), "model": "small"})
    assert "out: 3 recordings, 0." in told.stderr and "3 files encoded" in told.stderr
    back = codec.decode(store[1])
    assert back.length == read("sounds/b.flac").length


def test_it_goes_on_and_sees_changes(sounds: Path, base: list[str], duotone: Any) -> None:
    assert duotone(*base).exit_code == 0
    told = duotone(*base, "--json")
    assert told.exit_code == 0 and all(json.loads(line)["skipped"] for line in told.stdout.splitlines())
    write("sounds/a.wav", synthesize(5, 0.08), force=True)
    os.utime("sounds/a.wav", ns=(1, 1))
    Path("out/b.npy").unlink()
    told = duotone(*base, "--json")
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert [line["input"] for line in lines if "skipped" not in line] == ["sounds/a.wav", "sounds/b.flac"]
    assert LatentStore("out").damaged() == [] and len(LatentStore("out")) == 3
    again = duotone(*base, "--overwrite", "--json")
    assert not any("skipped" in line for line in again.stdout.splitlines())


def test_bad_files_do_not_end_the_others(sounds: Path, base: list[str], duotone: Any) -> None:
    Path("sounds/aa.wav").write_text("no sound")
    told = duotone(*base)
    assert told.exit_code == 3 and "aa.wav" in told.stderr and "1 failed" in told.stderr
    store = LatentStore("out")
    assert len(store) == 3 and len(store.mean) == store.info.channels
    Path("only").mkdir()
    Path("only/x.wav").write_text("no sound")
    told = duotone("latents", "only", "-o", "none", "--codec", base[-1])
    assert told.exit_code == 3 and not Path("none").exists()


def test_layouts_and_channels(sounds: Path, base: list[str], duotone: Any) -> None:
    for layout in ("safetensors", "tar"):
        words = [*base, "--format", layout, "--channels", "4"]
        words[3] = layout
        assert duotone(*words).exit_code == 0
        assert LatentStore(layout).info.channels == 4 and LatentStore(layout).damaged() == []
    assert np.array_equal(LatentStore("tar").values(2), LatentStore("safetensors").values(2))
    told = duotone(*base, "--channels", "7")
    assert told.exit_code == 2 and "does not divide" in told.stderr
    mixed = duotone("latents", "sounds", "-o", "tar", "--codec", base[-1])
    assert mixed.exit_code == 2 and "layout: tar there, npy now" in mixed.stderr
    assert duotone("latents", "sounds", "-o", "sounds", "--codec", base[-1]).exit_code == 2


def test_info_describes_a_store_without_torch(sounds: Path, base: list[str], duotone: Any) -> None:
    duotone(*base)
    told = json.loads(duotone("info", "out", "--json").stdout)
    assert (told["type"], told["recordings"], told["layout"]) == ("store of latents", 3, "npy")
    assert len(told["deviation"]) == told["channels"]
    assert " to " in duotone("info", "out").stdout


class _Mono:
    """Enough of a codec of one channel, unbounded latents of one value, for the shapes of streams."""

    encoding_format = "float32"

    def __init__(self, faces: str) -> None:
        self.spec = CodecSpec(
            family="mono", model="mono", fingerprint="f", space="s", rate=48_000, rate_out=48_000, channels=1, chunk=480,
            codebooks=(4,) if faces == "tokens" else (), latent=None if faces == "tokens" else (2,), bounded=False,
        )  # fmt: skip

    def encode_stream(self, rate: int, channels: int, framing: str = "exact", *, window: Any = None) -> Any:
        from duotone.codec.batches import Batch
        from duotone.codec.sessions import EncodeSession
        from duotone.spec import Source

        def encode(samples: torch.Tensor) -> Batch:
            each = samples[:, 0].unfold(-1, 480, 480)
            return Batch(latents=torch.stack([each.mean(-1), each.amax(-1)], dim=-1))

        return EncodeSession(self.spec, encode, Source(rate, channels), window)


def test_codecs_of_one_channel(sounds: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from duotone.cli import latents

    monkeypatch.setattr(latents, "load_codec", lambda *_: _Mono("latents"))
    assert duotone("latents", "sounds", "-o", "mono").exit_code == 0
    assert duotone("latents", "sounds", "-o", "both", "--stereo").exit_code == 0
    mono, both = LatentStore("mono"), LatentStore("both")
    assert mono.info.shape == (2,) and both.info.shape == (4,)
    wave = read("sounds/a.wav")
    assert np.allclose(mono.values(0)[0, 0], wave.samples[:, :480].mean(), atol=1e-6)
    assert np.allclose(both.values(0)[0, ::2], wave.samples[:, :480].mean(1), atol=1e-6)
    assert np.array_equal(both.values(2)[:, :2], both.values(2)[:, 2:])  # a mono recording
    assert duotone("latents", "sounds", "-o", "mono", "--stereo").exit_code == 2


def test_a_codec_without_latents_says_so(sounds: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from duotone.cli import encode, latents

    for module in (latents, encode):
        monkeypatch.setattr(module, "load_codec", lambda *_: _Mono("tokens"))
    told = duotone("latents", "sounds", "-o", "out")
    assert told.exit_code == 2 and "mono has no latents, only tokens" in told.stderr
    told = duotone("encode", "sounds", "-o", "out", "--kind", "latents")
    assert told.exit_code == 2 and "mono has no latents" in told.stderr and not Path("out").exists()
    assert codec_options.title(_Mono("tokens").spec) == "mono"
