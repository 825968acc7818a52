"""encode and decode: lengths, rates, pipes, folders, JSON."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from duotone.audio.files import read, write
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.container import DuoReader, read_duo


def _noise(samples: int, rate: int, channels: int) -> Waveform:
    generator = torch.Generator().manual_seed(samples)
    return Waveform(0.1 * torch.randn(channels, samples, generator=generator), rate)


@pytest.mark.parametrize(
    ("samples", "rate", "channels"), [(1, 48_000, 1), (511, 48_000, 2), (1_000, 44_100, 1), (700, 8_000, 2)]
)
@pytest.mark.parametrize("extra", [[], ["--kind", "latents"]])
def test_length_rate_and_channels_come_back(
    samples: int, rate: int, channels: int, extra: list[str], here: Path, duotone: Any
) -> None:
    write("in.wav", _noise(samples, rate, channels))
    assert duotone("encode", "in.wav", "-o", "in.duo", *extra).exit_code == 0
    assert duotone("decode", "in.duo", "-o", "out.wav").exit_code == 0
    back = read("out.wav")
    assert (back.length, back.rate, back.channels) == (samples, rate, channels)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 96_000])
def test_the_announced_length_is_the_final_one(rate: int, here: Path, duotone: Any) -> None:
    for samples in (1, 333, 1_234):
        write("in.wav", _noise(samples, rate, 1), force=True)
        duotone("encode", "in.wav", "-o", "in.duo", "--force")
        with DuoReader("in.duo") as reader:
            announced = reader.source
            assert sum(len(piece) for piece in reader) > 0
            assert reader.source == announced and announced.samples == samples


def test_cli_gives_the_library_s_codes_and_samples(here: Path, duotone: Any, codec: CoDiCodec) -> None:
    wave = read("a.wav")
    duotone("encode", "a.wav", "-o", "a.duo")
    codes = read_duo("a.duo")
    assert torch.equal(codes.indices, codec.encode(wave).codes().indices)  # type: ignore[union-attr]
    for strategy in ("parallel", "wavefront", "autoregressive"):
        assert (
            duotone("decode", "a.duo", "-o", "b.flac", "--strategy", strategy, "--seed", "5", "--force").exit_code == 0
        )
        want = codec.decode(codes, strategy, seed=5)  # type: ignore[arg-type]
        assert torch.allclose(read("b.flac").samples, want.samples.clamp(-1, 1), atol=1e-4)


def test_native_rate_and_formats(here: Path, duotone: Any, codec: CoDiCodec) -> None:
    write("in.wav", _noise(900, 16_000, 1))
    duotone("encode", "in.wav", "-o", "in.duo")
    assert duotone("decode", "in.duo", "-o", "wide.wav", "--native-rate").exit_code == 0
    wide = read("wide.wav")
    assert (wide.rate, wide.channels, wide.length) == (codec.rate, 2, 2_700)
    assert duotone("decode", "in.duo", "-o", "out", "--format", "flac").exit_code == 0
    assert read("out/in.flac").length == 900


def test_folders_are_mirrored_both_ways(here: Path, duotone: Any) -> None:
    for name in ("album/one.wav", "album/one.flac", "album/side b/two.wav"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        write(name, _noise(300, 48_000, 1))
    result = duotone("encode", "album", "-o", "coded", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and [Path(line["output"]).as_posix() for line in lines] == [
        "coded/one.flac.duo", "coded/one.wav.duo", "coded/side b/two.duo",
    ]  # fmt: skip
    assert all(line["samples"] == 300 and line["bytes"] == os.path.getsize(line["output"]) for line in lines)
    assert duotone("decode", "coded", "-o", "back").exit_code == 0
    assert sorted(p.relative_to("back").as_posix() for p in Path("back").rglob("*.wav")) == [
        "one.flac.wav", "one.wav", "side b/two.wav",
    ]  # fmt: skip


def test_standard_input_and_output(here: Path, duotone: Any) -> None:
    coded = duotone("encode", "-", "-o", "-", "--quiet", stdin=Path("a.wav").read_bytes())
    assert coded.exit_code == 0 and coded.stderr == ""
    sound = duotone("decode", "-", "-o", "-", "--format", "flac", stdin=coded.stdout_bytes)
    assert sound.exit_code == 0 and "x real time" in sound.stderr
    assert read(io.BytesIO(sound.stdout_bytes)).length == read("a.wav").length
    told = duotone("info", "-", "--json", stdin=coded.stdout_bytes)
    assert json.loads(told.stdout)["samples"] == 2_400
    told = duotone("info", "-", "--json", stdin=Path("a.wav").read_bytes())
    assert json.loads(told.stdout)["samples"] == 2_400


def test_json_and_data_do_not_mix(here: Path, duotone: Any) -> None:
    result = duotone("encode", "a.wav", "-o", "-", "--json")
    assert result.exit_code == 2 and result.stdout == "" and "--json" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_reader_that_goes_away_and_a_full_disk(here: Path, codec_folder: str) -> None:
    words = [
        sys.executable,
        "-m",
        "duotone",
        "encode",
        "a.wav",
        "-o",
        "-",
        "--codec",
        codec_folder,
        "--kind",
        "latents",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    gone = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert gone.stdout and gone.stderr
    gone.stdout.close()
    with open("/dev/full", "wb") as full:
        stuck = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    assert stuck.returncode == 7 and b"Free some space" in stuck.stderr and b"Traceback" not in stuck.stderr
    assert gone.stderr.read() == b"" and gone.wait() == 141
    gone.stderr.close()
    with open("/dev/full", "wb") as full:  # a few words, which wait in a buffer until the end
        words = [sys.executable, "-m", "duotone", "info", codec_folder, "--json"]
        stuck = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False)
    assert stuck.returncode == 7 and b"Free some space" in stuck.stderr and b"Traceback" not in stuck.stderr
