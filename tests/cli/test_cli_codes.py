"""``duotone codes``: folders of sound to codes, names that cannot collide, going on, settings that do not mix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duotone.audio.files import write
from duotone.audio.synth import synthesize


@pytest.fixture
def model(here: Path) -> str:
    """A small DAC with random weights, saved as transformers saves it."""
    from transformers import DacConfig, DacModel

    torch.manual_seed(0)
    config = DacConfig(
        encoder_hidden_size=8, downsampling_ratios=[2, 4, 5, 8], decoder_hidden_size=64, n_codebooks=3,
        codebook_size=32, codebook_dim=4, sampling_rate=16_000,
    )  # fmt: skip
    DacModel(config).save_pretrained("models/dac")
    Path("sounds/sounds").mkdir(parents=True)
    write("sounds/a.wav", synthesize(0, 1.1))
    write("sounds/b.wav", synthesize(1, 0.5))
    write("sounds/b.flac", synthesize(2, 0.5))
    write("sounds/sounds/c.wav", synthesize(3, 0.3))
    Path("sounds/sounds/c.wav").rename("sounds/sounds/C.WAV")
    return "models/dac"


def test_a_folder_of_sound(model: str, duotone: Any) -> None:
    base = ["codes", "sounds", "-o", "codes", "--codec", "dac", "--codec_model", model, "--chunk_size_secs", "0.5"]
    told = duotone(*base, "--n_quantizers", "2")
    assert told.exit_code == 0, told.stderr
    folder = Path(told.stdout.strip().splitlines()[-1])
    assert folder == Path("codes/dac/0.5s_0s/mono")
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.npy"))
    assert names == ["a_c0.npy", "b.flac_c0.npy", "b.wav_c0.npy", "sounds/C_c0.npy"]
    codes = np.load(folder / "a_c0.npy")
    assert codes.shape == (1, 2, 55) and codes.dtype == np.int64
    info = json.loads((folder / "codec_info.json").read_text())
    assert (info["num_codebooks"], info["codebook_size"], info["framerate"]) == (2, 32, 50.0)
    (folder / "b.wav_c0.npy").unlink()
    (folder / ".b.wav.done").unlink()
    again = duotone(*base, "--n_quantizers", "2")
    assert "1 files encoded, 3 were there, 0 failed" in again.stderr and (folder / "b.wav_c0.npy").is_file()
    mixed = duotone(*base, "--n_quantizers", "3")
    assert mixed.exit_code == 2 and "num_codebooks: 2 there, 3 now" in mixed.stderr
    trained = duotone("tokens", "train", "--codes-path", str(folder), "--vocab-size", "80", "--save-path", "t")
    assert trained.exit_code == 0, trained.stderr


def test_stereo_chunks_and_bad_files(model: str, duotone: Any) -> None:
    Path("sounds/bad.wav").write_bytes(b"RIFF nonsense")
    base = ["codes", "sounds", "-o", "codes", "--codec", "dac", "--codec-model", model, "--chunk-size-secs", "0.5"]
    told = duotone(*base, "--stereo", "--file-per-chunk", "--audio-filter", "a.wav", "bad.wav", "--json")
    assert told.exit_code == 3 and "bad.wav" in told.stderr and "1 failed" in told.stderr
    folder = Path("codes/dac/0.5s_0s/stereo")
    assert sorted(p.name for p in folder.rglob("*.npy")) == [
        f"a_c{c}_t{t}.npy" for c in (0, 1) for t in ("000000_000", "000000_500", "000001_000")
    ]
    assert json.loads(told.stdout.splitlines()[0])["frames"] == 55


def test_what_does_not_fit(model: str, duotone: Any) -> None:
    for arguments, code, message in (
        (["--codec", "opus"], 2, "expected one of"), (["--codec", "dac", "--bandwidth", "3"], 2, "not an option of dac"),
        (["--codec", "mimi", "--codec-model", "./absent"], 6, "No model at"),
        (["--codec", "dac", "--codec-model", model, "--chunk-size-secs", "0.001"], 2, "at least one frame"),
    ):  # fmt: skip
        told = duotone("codes", "sounds", "-o", "codes", *arguments)
        assert told.exit_code == code and message in told.stderr, told.stderr
    told = duotone("codes", "sounds", "-o", "c", "--codec", "dac", "--codec-model", model, "--codec-info-only")
    assert told.exit_code == 0 and not list(Path("c").rglob("*.npy"))
