"""encode, decode, info and demo with codecs of other projects: real classes of transformers with small random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import duotone as library
from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.codec.container import read_duo


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DAC of one channel, and an EnCodec as the 48 kHz one is: stereo, with loudness apart."""
    from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    config = DacConfig(
        encoder_hidden_size=8, downsampling_ratios=[2, 4, 5, 8], decoder_hidden_size=64, n_codebooks=3,
        codebook_size=32, codebook_dim=4, sampling_rate=16_000,
    )  # fmt: skip
    DacModel(config).save_pretrained(folder / "dac")
    wide = EncodecConfig(
        target_bandwidths=[3.0, 6.0], num_filters=2, hidden_size=16, codebook_size=64, codebook_dim=16,
        num_lstm_layers=1, sampling_rate=48_000, audio_channels=2, normalize=True, chunk_length_s=1.0, overlap=0.01,
        norm_type="time_group_norm", use_causal_conv=False,
    )  # fmt: skip
    made = EncodecModel(wide)
    with torch.no_grad():
        for layer in made.quantizer.layers:
            layer.codebook.embed.normal_()
    made.save_pretrained(folder / "encodec_48khz")
    return folder


@pytest.mark.parametrize("name", ["dac", "encodec_48khz"])
def test_there_and_back(name: str, models: Path, here: Path, duotone: Any) -> None:
    write("song.wav", synthesize(0, 1.3))
    codec = str(models / name)
    told = duotone("encode", "song.wav", "-o", "song.duo", "--codec", codec, "--json")
    assert told.exit_code == 0 and json.loads(told.stdout)["kind"] == "tokens", told.stderr
    loaded = library.load(codec)
    assert read_duo("song.duo") == loaded.encode(read("song.wav"))
    shown = json.loads(duotone("info", "song.duo", "--json").stdout)
    assert (shown["family"], shown["number_format"], shown["damage"]) == (loaded.spec.family, "float32", [])
    told = duotone("decode", "song.duo", "-o", "back.wav", "--codec", codec)
    assert told.exit_code == 0, told.stderr
    back, want = read("back.wav"), loaded.decode(read_duo("song.duo"))
    assert (back.rate, back.channels, back.length) == (48_000, 2, read("song.wav").length)
    assert torch.allclose(back.samples, want.samples.clamp(-1, 1), atol=1e-3)


def test_windows_bound_the_memory_of_an_encoding(models: Path, here: Path, duotone: Any) -> None:
    write("song.wav", synthesize(0, 1.3))
    words = ["encode", "song.wav", "--codec", str(models / "dac"), "-o"]
    assert duotone(*words, "w.duo", "--chunk-size-secs", "0.4", "--context-secs", "0.6").exit_code == 0
    assert duotone(*words, "whole.duo").exit_code == 0
    windowed, whole = read_duo("w.duo").indices, read_duo("whole.duo").indices  # type: ignore[union-attr]
    assert windowed.shape == whole.shape and not torch.equal(windowed, whole)
    assert (windowed == whole).float().mean() > 0.5
    assert duotone(*words, "x.duo", "--chunk-size-secs", "0.001").exit_code == 2


def test_what_a_codec_does_not_have_is_said_before_the_work(models: Path, here: Path, duotone: Any) -> None:
    codec = str(models / "dac")
    duotone("encode", "a.wav", "-o", "a.duo", "--codec", codec)
    for words, message in (
        (["encode", "a.wav", "-o", "x.duo", "--kind", "latents"], "has no latents"),
        (["encode", "a.wav", "-o", "x.duo", "--framing", "published"], "expected 'exact'"),
        (["encode", "a.wav", "-o", "x.duo", "--bandwidth", "3"], "not an option of dac"),
        (["latents", "a.wav", "-o", "x"], "has no latents"),
        (["decode", "a.duo", "-o", "x.wav", "--strategy", "parallel"], "has only one strategy"),
        (["decode", "a.duo", "-o", "x.wav", "--steps", "3"], "takes no steps"),
    ):  # fmt: skip
        told = duotone(*words, "--codec", codec)
        assert told.exit_code == 2 and message in told.stderr, told.stderr
    assert not list(here.glob("x*"))


def test_a_file_says_which_codec_to_name(models: Path, here: Path, duotone: Any, codec_folder: str) -> None:
    codec = str(models / "dac")
    duotone("encode", "a.wav", "-o", "two.duo", "--codec", codec, "--n-quantizers", "2")
    told = duotone("decode", "two.duo", "-o", "x.wav", "--codec", codec)
    assert told.exit_code == 5 and "--n-quantizers 2" in told.stderr
    assert duotone("decode", "two.duo", "-o", "x.wav", "--codec", codec, "--n-quantizers", "2").exit_code == 0
    told = duotone("decode", "two.duo", "-o", "y.wav", "--codec", codec_folder)
    assert told.exit_code == 5 and "dac" in told.stderr


def test_without_a_name_the_bundled_ones_are_tried(models: Path, here: Path) -> None:
    from typer.testing import CliRunner

    from duotone.cli.main import app

    run = CliRunner()
    assert run.invoke(app, ["encode", "a.wav", "-o", "a.duo", "--codec", str(models / "dac")]).exit_code == 0
    told = run.invoke(app, ["decode", "a.duo", "-o", "x.wav"])
    assert told.exit_code == 5 and "not a bundled one" in told.stderr and "--codec" in told.stderr


def test_the_demo_shows_a_codec_of_one_face(models: Path, here: Path, duotone: Any) -> None:
    told = duotone("demo", "a.wav", "-o", "out.html", "--codec", str(models / "dac"), "--json")
    assert told.exit_code == 0, told.stderr
    keys = [version["key"] for version in json.loads(told.stdout)["clips"][0]["versions"]]
    assert keys[:2] == ["original", "discrete"] and "continuous" not in keys
    assert "dac, discrete" in Path("out.html").read_text(encoding="utf-8")


def test_info_of_a_codec(models: Path, here: Path, duotone: Any) -> None:
    told = duotone("info", str(models / "dac"), "--n-quantizers", "2").stdout
    assert "codebooks           32, 32" in told and "not known" not in told and "latents of a chunk" not in told
