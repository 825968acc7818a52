"""Reading and writing: round-trips, blocks, pipes, and every kind of bad input."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from duotone.audio.files import open_reader, open_writer, read, write
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError, UsageError


def tone(channels: int = 2, rate: int = 48_000, seconds: float = 0.5) -> Waveform:
    t = torch.arange(int(rate * seconds)) / rate
    return Waveform(torch.stack([0.4 * torch.sin(2 * torch.pi * 440 * (c + 1) * t) for c in range(channels)]), rate)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_round_trip(tmp_path: Path, extension: str, channels: int, rate: int) -> None:
    wave = tone(channels, rate)
    path = tmp_path / f"a.{extension}"
    write(path, wave)
    again = read(path)
    assert again.channels == channels
    assert again.rate == (48_000 if extension == "opus" and rate == 44_100 else rate)
    if extension in ("wav", "flac"):
        assert torch.allclose(again.samples, wave.samples, atol=1e-4)
    else:  # lossy: the same tone, not the same samples
        assert abs(again.seconds - wave.seconds) < 0.1
        spectrum = torch.fft.rfft(again.samples[0]).abs()
        assert abs(float(spectrum.argmax()) / again.seconds - 440) < 5


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT", "PCM_U8"])
def test_subtypes(tmp_path: Path, subtype: str) -> None:
    wave = tone()
    write(tmp_path / "a.wav", wave, subtype=subtype)
    assert torch.allclose(read(tmp_path / "a.wav").samples, wave.samples, atol=1e-2 if subtype == "PCM_U8" else 1e-6)


def test_integers_clamp_and_floats_do_not(tmp_path: Path) -> None:
    loud = Waveform(torch.tensor([[2.0, -2.0, 0.5]]), 48_000)
    write(tmp_path / "a.wav", loud)
    assert read(tmp_path / "a.wav").samples[0].tolist() == pytest.approx([1, -1, 0.5], abs=1e-4)
    write(tmp_path / "b.wav", loud, subtype="FLOAT")
    assert read(tmp_path / "b.wav").samples[0].tolist() == [2, -2, 0.5]


@pytest.mark.parametrize("extension", ["ogg", "opus", "mp3", "flac"])
def test_a_minute_in_one_piece(tmp_path: Path, extension: str) -> None:
    """Written at once it crashed the process: the vorbis encoder's stack. In a process of its own, to survive that."""
    program = (
        "import sys, torch; from duotone import Waveform, read, write; "
        "write(sys.argv[1], Waveform(0.1 * torch.randn(2, 60 * 48_000), 48_000)); print(read(sys.argv[1]).seconds)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / f"a.{extension}")], capture_output=True)
    assert done.returncode == 0 and abs(float(done.stdout) - 60) < 0.1


def test_blocks_are_the_whole(tmp_path: Path) -> None:
    wave = tone(seconds=1.0)
    with open_writer(tmp_path / "a.flac", 48_000, 2) as writer:
        for part in wave.samples.split(7_000, dim=1):
            writer.write(Waveform(part.contiguous(), 48_000))
    with open_reader(tmp_path / "a.flac", block=0.1) as reader:
        assert (reader.rate, reader.channels, reader.samples) == (48_000, 2, 48_000)
        blocks = list(reader)
    assert [b.length for b in blocks] == [4_800] * 10
    assert torch.equal(torch.cat([b.samples for b in blocks], dim=1), read(tmp_path / "a.flac").samples)


def test_file_objects() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((100, 2)) + 0.25, 22_050, format="WAV")
    buffer.seek(0)
    wave = read(buffer)
    assert (wave.rate, wave.channels, wave.length) == (22_050, 2, 100)


def test_pipes(tmp_path: Path) -> None:
    write(tmp_path / "a.flac", tone())
    code = "from duotone.audio.files import read, write; write('-', read('-'), format='wav')"
    done = subprocess.run([sys.executable, "-c", code], input=(tmp_path / "a.flac").read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert torch.allclose(read(io.BytesIO(done.stdout)).samples, tone().samples, atol=1e-4)


def test_a_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", tone())
    before = (tmp_path / "a.wav").read_bytes()
    with pytest.raises(RuntimeError), open_writer(tmp_path / "a.wav", 48_000, 2) as writer:
        writer.write(tone())
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before
    with pytest.raises(UsageError, match="exists"):
        write(tmp_path / "a.wav", tone(), force=False)


def bad(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind}.wav"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not sound\n" * 20)
    elif kind == "folder":
        path.mkdir()
    elif kind == "six":
        soundfile.write(path, np.zeros((100, 6)), 48_000)
    elif kind == "slow":
        soundfile.write(path, np.zeros((100, 1)), 8)
    elif kind == "nothing":
        soundfile.write(path, np.zeros((0, 2)), 48_000)
    elif kind == "nan":
        data = np.zeros((24_000, 1), np.float32)
        data[12_000] = np.nan
        soundfile.write(path, data, 48_000, subtype="FLOAT")
    elif kind == "cut":
        path = path.with_suffix(".flac")
        soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (48_000, 2)), 48_000)
        path.write_bytes(path.read_bytes()[:100_000])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no file"), ("empty", "0 bytes"), ("text", "not a sound file"), ("folder", "folder"),
        ("six", "-ac 2"), ("slow", "8 Hz"), ("nothing", "zero samples"), ("nan", r"0\.250 s"), ("cut", "cut short|damaged"),
    ],
)  # fmt: skip
def test_bad_input_says_what_to_do(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        read(bad(tmp_path, kind))


def test_bad_output(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"\.wav"):
        write(tmp_path / "a.xyz", tone())
    with pytest.raises(AudioError, match="folder"):
        write(tmp_path / "none" / "a.wav", tone())
    with pytest.raises(AudioError, match="zero samples"):
        write(tmp_path / "a.wav", Waveform(torch.zeros(2, 0), 48_000))
    with pytest.raises(AudioError, match="NaN"):
        write(tmp_path / "a.wav", Waveform(torch.full((1, 5), float("nan")), 48_000))
    assert list(tmp_path.iterdir()) == []
