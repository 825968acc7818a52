"""Reading and writing: round-trips, blocks, pipes, and every kind of bad input."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    "extension", ["ogg", *(pytest.param(e, marks=pytest.mark.long) for e in ("opus", "mp3", "flac"))]
)
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
    for error in (RuntimeError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), open_writer(tmp_path / "a.wav", 48_000, 2) as writer:
            writer.write(tone())
            assert len(list(tmp_path.iterdir())) == 2
            raise error
        assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
        assert (tmp_path / "a.wav").read_bytes() == before


def test_write_asks_before_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write(path, tone())
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        write(path, tone(1))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    write(path, tone(1), force=True)
    assert read(path).channels == 1


@pytest.mark.parametrize(
    ("ending", "subtype"), [("wav", "PCM_24"), ("wav", "float"), ("flac", "PCM_24"), ("wav", "PCM_32")]
)
def test_the_depth_of_a_source_can_be_kept(tmp_path: Path, ending: str, subtype: str) -> None:
    soundfile.write(tmp_path / f"in.{ending}", tone().numpy().T, 48_000, subtype=subtype)
    with open_reader(tmp_path / f"in.{ending}") as reader:
        assert reader.subtype == subtype.upper() and reader.format == ending.upper()
    write(tmp_path / f"out.{ending}", read(tmp_path / f"in.{ending}"), subtype=reader.subtype)
    assert read(tmp_path / f"out.{ending}") == read(tmp_path / f"in.{ending}")


@pytest.mark.parametrize(
    ("name", "subtype", "known"),
    [("a.flac", "FLOAT", "PCM_24"), ("a.mp3", "PCM_24", "MPEG"), ("a.wav", "24", "PCM_24")],
)
def test_subtypes_that_a_format_cannot_hold(tmp_path: Path, name: str, subtype: str, known: str) -> None:
    with pytest.raises(UsageError, match=known):
        write(tmp_path / name, tone(), subtype=subtype)
    assert list(tmp_path.iterdir()) == []


RESAMPLED = {
    ("a.ogg", 200_000): 200_000, ("b.ogg", 200_001): 192_000, ("a.oga", 384_000): 192_000, ("c.ogg", 768_000): 192_000,
    ("a.opus", 44_100): 48_000, ("a.mp3", 96_000): 48_000, ("a.flac", 384_000): 384_000, ("a.wav", 768_000): 768_000,
}  # fmt: skip


def test_rates_that_a_format_cannot_hold_are_resampled(tmp_path: Path) -> None:
    """In a process of its own: libvorbis crashed above 200 kHz."""
    program = (
        "import ast, sys, torch; from duotone import Waveform, write\n"
        "for name, rate in ast.literal_eval(sys.argv[1]): write(name, Waveform(0.1 * torch.rand(2, rate // 4), rate))"
    )
    subprocess.run([sys.executable, "-c", program, repr(list(RESAMPLED))], cwd=tmp_path, check=True)
    for (name, _), held in RESAMPLED.items():
        wave = read(tmp_path / name)
        assert wave.rate == held and abs(wave.seconds - 0.25) < 0.05
    assert len(list(tmp_path.iterdir())) == len(RESAMPLED)


@pytest.mark.parametrize("rate", [65_537, 200_001, 705_600])
def test_rates_that_flac_refuses(tmp_path: Path, rate: int) -> None:
    with pytest.raises(AudioError, match=f"FLAC cannot hold a rate of {rate} Hz"):
        write(tmp_path / "a.flac", tone(1, rate, 0.1))
    assert list(tmp_path.iterdir()) == []


def test_vorbis_and_opus_by_subtype(tmp_path: Path) -> None:
    write(tmp_path / "a.ogg", tone(1, 44_100), subtype="opus")
    write(tmp_path / "a.opus", tone(1, 44_100), subtype="VORBIS")
    for name, rate, subtype in (("a.ogg", 48_000, "OPUS"), ("a.opus", 44_100, "VORBIS")):
        with open_reader(tmp_path / name) as reader:
            assert (reader.rate, reader.subtype) == (rate, subtype)


@pytest.mark.skipif(os.name != "posix", reason="needs links, permissions and pipes")
class TestPosix:
    def test_links_are_written_through(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "a.wav").symlink_to("folder/b.bin")
        write(tmp_path / "a.wav", tone())
        assert (tmp_path / "a.wav").is_symlink() and read(tmp_path / "folder" / "b.bin").channels == 2
        write(tmp_path / "a.wav", tone(1), force=True)
        assert (tmp_path / "a.wav").is_symlink() and read(tmp_path / "folder" / "b.bin").channels == 1

    def test_permissions_are_kept(self, tmp_path: Path) -> None:
        write(tmp_path / "a.wav", tone())
        for mode in (0o600, 0o664, 0o444):
            (tmp_path / "a.wav").chmod(mode)
            write(tmp_path / "a.wav", tone(), force=True)
            assert stat.S_IMODE((tmp_path / "a.wav").stat().st_mode) == mode

    def test_a_named_pipe_is_written_to(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.flac")
        code = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"
        reader = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pipe.flac")], stdout=subprocess.PIPE)
        write(tmp_path / "pipe.flac", tone())
        data, _ = reader.communicate()
        assert torch.allclose(read(io.BytesIO(data)).samples, tone().samples, atol=1e-4)
        assert [p.name for p in tmp_path.iterdir()] == ["pipe.flac"]

    def test_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        names = ["-x.wav", "a [1].wav", "x" * 251 + ".wav", "\u00e9" * 125 + ".wav", ".wav.flac"]
        names += [os.fsdecode(b"caf\xe9.wav")] if sys.platform == "linux" else []
        for name in names:
            write(name, tone())
            assert read(name).length == tone().length
        assert sorted(os.listdir()) == sorted(names)


def _write_often(path: Path, channels: int) -> None:
    for _ in range(20):
        write(path, tone(channels, seconds=0.1), force=True)


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(_write_often, tmp_path / "a.wav", channels) for channels in (1, 2)]:
            done.result()
    assert read(tmp_path / "a.wav").length == 4_800 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("a.wav", np.zeros(5)), "Waveform\\(samples, rate\\)"), ((tone(), "a.wav"), "path first"),
        ((io.BytesIO(), tone()), "soundfile.write"), (("a.wav", torch.zeros(2, 5)), "Waveform\\(samples, rate\\)"),
    ],
)  # fmt: skip
def test_natural_mistakes(arguments: Any, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        write(*arguments)


def test_a_writer_is_used_in_a_with_block(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "a.wav", 48_000, 2)
    with pytest.raises(UsageError, match="with block"):
        writer.write(tone())
    with writer:
        with pytest.raises(UsageError, match="expected a path and a Waveform"):
            writer.write(torch.zeros(2, 5))  # type: ignore[arg-type]
        with pytest.raises(AudioError, match="1 channels"):
            writer.write(tone(1))
        writer.write(tone())
    assert read(tmp_path / "a.wav").length == tone().length


def test_closed_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(UsageError, match="closed"):
        write("-", tone())


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
    with pytest.raises(UsageError, match=r"\.wav"):
        write(tmp_path / "a.xyz", tone())
    with pytest.raises(UsageError, match="format 'xyz'"):
        write(tmp_path / "a.wav", tone(), format="xyz")
    with pytest.raises(UsageError, match="no folder"):
        write(tmp_path / "none" / "a.wav", tone())
    with pytest.raises(AudioError, match="zero samples"):
        write(tmp_path / "a.wav", Waveform(torch.zeros(2, 0), 48_000))
    with pytest.raises(AudioError, match="NaN"):
        broken = tone()
        broken.samples[0, 7] = float("nan")
        write(tmp_path / "a.wav", broken)
    assert list(tmp_path.iterdir()) == []
