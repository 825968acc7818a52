"""``duotone codes``: folders of sound to codes, names that cannot collide, going on, settings that do not mix; back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform


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


@pytest.fixture
def stereo_model(here: Path) -> str:
    """A small EnCodec made as the 48 kHz one is: stereo, normalised, in blocks."""
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(0)
    config = EncodecConfig(
        target_bandwidths=[3.0, 6.0], num_filters=2, hidden_size=16, codebook_size=64, codebook_dim=16,
        num_lstm_layers=1, sampling_rate=48_000, audio_channels=2, normalize=True, chunk_length_s=1.0, overlap=0.01,
        norm_type="time_group_norm", use_causal_conv=False,
    )  # fmt: skip
    made = EncodecModel(config)
    with torch.no_grad():
        for layer in made.quantizer.layers:
            layer.codebook.embed.normal_()
    made.save_pretrained("models/encodec_48khz")
    Path("sounds").mkdir()
    write("sounds/a.wav", synthesize(0, 1.5))
    return "models/encodec_48khz"


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
    assert (info["chunk_frames"], info["context_frames"]) == (25, 0)
    (folder / "b.wav_c0.npy").unlink()
    (folder / ".b.wav.done").unlink()
    again = duotone(*base, "--n_quantizers", "2")
    assert "1 file encoded" in again.stderr and "3 skipped" in again.stderr and (folder / "b.wav_c0.npy").is_file()
    mixed = duotone(*base, "--n_quantizers", "3")
    assert mixed.exit_code == 2 and "num_codebooks: 2 in the folder, 3 now" in mixed.stderr
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


def test_an_old_command_line_works(model: str, duotone: Any) -> None:
    """Every option of `codec_bpe.audio_to_codes`, under its own name."""
    source = Path(pytest.importorskip("codec_bpe.audio_to_codes").__file__ or "").read_text()
    options = {word.split('"')[1] for word in source.split("add_argument(")[1:]}
    Path("sounds/a.wav").rename("sounds/a.aif")  # as a name only: what is in it tells what it is
    line = {
        "--audio_path": ["sounds"], "--codes_path": ["out"], "--chunk_size_secs": ["0.08"], "--context_secs": ["0.4"],
        "--batch_size": ["4"], "--codec_type": ["dac"], "--codec_model": [model], "--n_quantizers": ["1"],
        "--stereo": [], "--extensions": [".wav", "aif"], "--audio_filter": ["C.WAV", "b.", "a.aif"], "--overwrite": [],
    }  # fmt: skip
    told = duotone("codes", *(word for option, values in line.items() for word in (option, *values)))
    assert told.exit_code == 0, told.stderr
    folder = Path("out/dac/0.08s_0.4s/stereo")
    assert sorted(p.name for p in folder.rglob("*.npy")) == [
        f"{stem}_c{c}.npy" for stem in ("C", "a", "b") for c in (0, 1)
    ]  # fmt: skip
    info = json.loads((folder / "codec_info.json").read_text())
    assert (info["chunk_frames"], info["context_frames"]) == (4, 16)
    only = duotone("codes", "--codes_path", "info", "--codec_model", model, "--codec_info_only", "--file_per_chunk")
    assert only.exit_code == 0 and (Path(only.stdout.strip()) / "codec_info.json").is_file(), only.stderr
    refused = duotone(
        "codes", "--audio_path", "sounds", "--codes_path", "x", "--codec_model", model, "--bandwidth", "3"
    )
    assert refused.exit_code == 2 and "not an option of dac" in refused.stderr
    assert options == {*line, "--codec_info_only", "--file_per_chunk", "--bandwidth"}


def test_batches_give_the_files_of_singles(model: str, duotone: Any) -> None:
    for size in ("1", "3"):
        told = duotone(
            "codes",
            "sounds",
            "-o",
            f"o{size}",
            "--codec-model",
            model,
            "--batch-size",
            size,
            "--chunk-size-secs",
            "0.2",
        )
        assert told.exit_code == 0, told.stderr
    one, three = (sorted(Path(f"o{size}").rglob("*.npy")) for size in (1, 3))
    assert [p.relative_to("o1") for p in one] == [p.relative_to("o3") for p in three] and len(one) == 4
    for a, b in zip(one, three, strict=True):
        assert (np.load(a) == np.load(b)).mean() > 0.99


def test_stereo_encodec_there_and_back(stereo_model: str, duotone: Any) -> None:
    base = ["--codec", "encodec", "--codec-model", stereo_model]
    told = duotone("codes", "sounds", "-o", "codes", *base, "--stereo")
    assert told.exit_code == 0, told.stderr
    folder = Path("codes/encodec_48khz/30s_0s/stereo")
    assert sorted(p.name for p in folder.glob("a_*")) == ["a_c0.npy", "a_c0.scale.json"]  # the pair in one
    codes, scale = np.load(folder / "a_c0.npy"), json.loads((folder / "a_c0.scale.json").read_text())
    assert codes.shape == (1, 3, 300) and scale["frames"] == [150, 150] and len(scale["scale"]) == 2
    info = json.loads((folder / "codec_info.json").read_text())
    assert info["channels"] == 2 and info["scale_beside"] is True and info["chunk_frames"] == 30 * 150
    back = duotone("codes", str(folder), "-o", "again", *base, "--decode")
    assert back.exit_code == 0, back.stderr
    wave = read("again/a_c0.wav")
    assert (wave.rate, wave.channels, wave.length) == (48_000, 2, 47_520 + 48_000)
    (folder / "a_c0.scale.json").unlink()
    lost = duotone("codes", str(folder), "-o", "lost", *base, "--decode")
    assert lost.exit_code == 2 and "one number for all chunks" in lost.stderr
    told = duotone("codes", str(folder), "-o", "lost", *base, "--decode", "--scale", "0.1")
    assert told.exit_code == 0 and read("lost/a_c0.wav").length == wave.length, told.stderr
    (folder / "a_c0.scale.json").write_text('{"scale": [1.0], "frames": [7]}')
    for text, message in (('{"scale": [1.0], "frames": [7]}', "describes [7] steps"), ('{"scale": 1}', "is damaged")):
        (folder / "a_c0.scale.json").write_text(text)
        bad = duotone("codes", str(folder), "-o", "bad", *base, "--decode")
        assert bad.exit_code == 4 and message in bad.stderr, bad.stderr
    short = duotone("codes", "sounds", "-o", "codes", *base, "--chunk-size-secs", "0.08")
    assert short.exit_code == 2 and "at least one chunk of encodec_48khz (0.9900 s)" in short.stderr


def test_our_own_codec_there_and_back(here: Path, codec: Any, codec_folder: str, duotone: Any) -> None:
    write("sounds.wav", synthesize(0, 0.05))
    base = ["--codec", "duotone", "--codec-model", codec_folder]
    told = duotone("codes", "sounds.wav", "-o", "codes", *base, "--stereo", "--chunk-size-secs", "0.02")
    assert told.exit_code == 0, told.stderr
    folder = Path(told.stdout.strip())
    codes = np.load(folder / "sounds_c0.npy")
    want = codec.encode(read("sounds.wav")).codes().indices.numpy()
    assert codes[0].shape == want.shape and (codes[0] == want).mean() > 0.99
    info = json.loads((folder / "codec_info.json").read_text())
    assert (info["codec_type"], info["num_codebooks"], info["codebook_size"]) == ("codicodec", 1, 14_641)
    assert info["spec"]["fingerprint"] == codec.fingerprint
    back = duotone("codes", str(folder), "-o", "again", *base, "--decode")
    assert back.exit_code == 0, back.stderr
    assert read("again/sounds_c0.wav").channels == 2
    there = duotone("codes", str(folder), "-o", "again", *base, "--decode")
    assert there.exit_code == 2 and "exist" in there.stderr
    info["space"] = "another"
    (folder / "codec_info.json").write_text(json.dumps(info))
    other = duotone("codes", str(folder), "-o", "other", *base, "--decode")
    assert other.exit_code == 5 and "space another" in other.stderr
    wrong = duotone("codes", "sounds.wav", "-o", "codes", *base, "--n-quantizers", "2")
    assert wrong.exit_code == 2 and "has no option" in wrong.stderr


def test_a_cloned_repository(here: Path, duotone: Any) -> None:
    """By the flags alone; what the repository is like is tested with the adapters."""
    Path("code/codec").mkdir(parents=True)
    Path("weights").mkdir()
    Path("code/codec/generator.py").write_text(
        "import torch\n"
        "class Generator(torch.nn.Module):\n"
        "    def __init__(self, sample_rate, token_hz):\n"
        "        super().__init__()\n"
        "        self.sample_rate, self.hop, self.codebook_size = sample_rate, sample_rate // token_hz, 100\n"
        "    quantizer = property(lambda self: self)\n"
        "    pad_audio = encoder = lambda self, x: x\n"
        "    def inference(self, x):\n"
        "        loud = x[:, 0].unfold(-1, self.hop, self.hop).abs().amax(-1)\n"
        "        return None, (loud.clamp(0, 1) * 99).round().long()\n"
    )
    torch.save({}, "weights/50hz.ckpt")
    write("loud.wav", Waveform(torch.full((1, 16_000), 0.5), 16_000))
    base = ["codes", "loud.wav", "-o", "codes", "--codec", "magicodec", "--codec-model", "weights"]
    told = duotone(*base, "--codec-repo", "code")
    assert told.exit_code == 0, told.stderr
    codes = np.load(Path(told.stdout.strip()) / "loud_c0.npy")
    assert codes.shape == (1, 1, 50) and (codes == 50).all()
    missing = duotone(*base)
    assert missing.exit_code == 2 and "git clone" in missing.stderr and "--codec-repo" in missing.stderr


def test_what_does_not_fit(model: str, duotone: Any) -> None:
    for arguments, code, message in (
        (["--codec", "opus"], 6, "No codec is called"), (["--codec", "dac", "--bandwidth", "3"], 2, "not an option of dac"),
        (["--codec", "mimi", "--codec-model", "./absent"], 6, "No model at"), ([], 2, "No codec was named"),
        (["--codec", "dac", "--codec-model", model, "--chunk-size-secs", "0.001"], 2, "at least one"),
        (["--codec-model", model, "--audio-filter", "nothing"], 2, "no path of the 4 files"),
        (["--codec-model", model, "--extensions", "xyz"], 2, "no file ending in .xyz"),
        (["--codec-model", model, "--scale", "0.1"], 2, "--scale is only for --decode"),
    ):  # fmt: skip
        told = duotone("codes", "sounds", "-o", "codes", *arguments)
        assert told.exit_code == code and message in told.stderr, told.stderr
    told = duotone("codes", "-o", "codes", "--codec-model", model)
    assert told.exit_code == 2 and "No folder of audio" in told.stderr
    told = duotone("codes", "sounds", "-o", "c", "--codec", "dac", "--codec-model", model, "--codec-info-only")
    assert told.exit_code == 0 and not list(Path("c").rglob("*.npy"))


def test_help_names_every_codec_of_tokens() -> None:
    from duotone.cli.codes import NAMES
    from duotone.codec.adapters.latents import LatentCodec
    from duotone.codec.adapters.table import CODECS

    of_tokens = {kind for kind, codec in CODECS.items() if not issubclass(codec, LatentCodec)}
    assert set(NAMES.replace(" or", "").replace(" (ours)", "").split(", ")) == {*of_tokens, "duotone"}


def test_a_codec_with_other_codebooks_is_told_apart_by_their_number(
    model: str, duotone: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    two = ["--codec", model, "--n-quantizers", "2"]
    assert duotone("encode", "sounds/b.wav", "-o", "b.duo", *two).exit_code == 0
    again = duotone("decode", "b.duo", "-o", "b.wav", "--codec", model)
    assert again.exit_code == 5 and "with 2 codebooks" in again.stderr and "--n-quantizers 2" in again.stderr
    unnamed = duotone("decode", "b.duo", "-o", "b.wav", "--codec", "tiny")
    assert unnamed.exit_code == 5
    assert duotone("codes", "sounds/b.wav", "-o", "codes", *two).exit_code == 0
    back = duotone("codes", "codes", "-o", "back", "--codec", model, "--decode")
    assert back.exit_code == 5 and "with 2 codebooks" in back.stderr
    assert "Loading weights" not in capfd.readouterr().err  # no progress bar for a folder's weights


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e400"])
def test_windows_that_are_no_numbers_are_refused(here: Path, duotone: Any, seconds: str) -> None:
    for option in ("--chunk-size-secs", "--context-secs"):
        result = duotone("codes", "a.wav", "-o", "codes", "--codec", "duotone", option, seconds)
        assert result.exit_code == 2 and "finite" in result.stderr


def test_cut_weights_of_a_codec_are_told_of(model: str, duotone: Any) -> None:
    weights = Path(model) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = duotone("encode", "sounds/b.wav", "-o", "b.duo", "--codec", model)
    assert result.exit_code == 6 and "could not be loaded as dac" in result.stderr
