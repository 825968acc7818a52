"""Opus through opus-tools: real sizes, no delay, exact lengths."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from duotone.audio.waveform import Waveform
from duotone.errors import AudioError, UsageError
from duotone.evaluate import metrics, opus

needs_opus = pytest.mark.skipif(
    bool(opus.missing_programs()), reason=f"{opus.missing_programs()} missing: install the package opus-tools"
)


def tune(seconds: float = 2.0, rate: int = 48_000, channels: int = 2) -> Waveform:
    """Decaying harmonics with sharp beginnings, so that a delay shows."""
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    rows = []
    for channel in range(channels):
        beat = torch.exp(-6 * ((time * (2 + channel)) % 1))
        tones = [
            torch.sin(2 * math.pi * f * (1 + channel) * time + f) / (i + 1) for i, f in enumerate((220, 333, 550, 1310))
        ]
        rows.append(0.2 * beat * torch.stack(tones).sum(0))
    return Waveform(torch.stack(rows).float(), rate)


@needs_opus
@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 2), (48_000, 1), (16_000, 1)])
@pytest.mark.parametrize("kbps", [6, 64])
def test_opus_keeps_rate_channels_and_length_without_delay(rate: int, channels: int, kbps: float) -> None:
    wave = tune(1.2345, rate, channels)
    result = opus.opus_roundtrip(wave, kbps)
    assert (result.wave.rate, result.wave.channels, result.wave.length) == (rate, channels, wave.length)
    assert metrics.delay(wave, result.wave) == 0 and abs(result.delay) < opus.REST_SECONDS * rate
    if kbps == 64:
        assert metrics.si_sdr(wave, result.wave) > 15
    middle = wave.to_channels(1)  # all that 6 kbit/s keeps
    assert metrics.si_sdr(middle, result.wave.to_channels(1)) > 3


@needs_opus
def test_the_rest_of_the_delay_is_taken_back() -> None:
    generator = torch.Generator().manual_seed(0)
    voice = tune(2, 48_000, 1).samples + 0.02 * torch.randn(1, 96_000, generator=generator)
    wave = Waveform(voice, 48_000)
    result = opus.opus_roundtrip(wave, 6)  # SILK: its resamplers delay by a few samples
    assert metrics.delay(wave, result.wave, 0.05) == 0
    assert result.bandwidth == 4_000 and 0 < abs(result.delay) < 8


@needs_opus
def test_more_bits_sound_better_and_cost_more() -> None:
    wave = tune()
    results = [opus.opus_roundtrip(wave, kbps) for kbps in (6, 16, 64)]
    assert [r.bit_rate for r in results] == sorted(r.bit_rate for r in results)
    mel = [metrics.log_mel_distance(wave, r.wave) for r in results]
    assert mel == sorted(mel, reverse=True)
    assert all(r.file_bytes > r.payload_bytes > 0.5 * r.file_bytes for r in results)


@needs_opus
def test_at_6_kbit_stereo_is_coded_as_mono_and_at_64_as_stereo() -> None:
    wave = tune()
    low, high = opus.opus_roundtrip(wave, 6), opus.opus_roundtrip(wave, 64)
    assert low.stereo_packets == 0 and high.stereo_packets == high.packets
    assert low.bandwidth < high.bandwidth == 20_000
    assert torch.equal(low.wave.samples[0], low.wave.samples[1])
    assert low.packets == 1 + math.ceil(wave.seconds / 0.02)


@needs_opus
@pytest.mark.skipif(shutil.which("opusinfo") is None, reason="opusinfo missing: install the package opus-tools")
def test_sizes_agree_with_opusinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, run = tmp_path / "kept.opus", opus._run

    def keep(command: list[str]) -> float:
        if command[0] == "opusdec":
            shutil.copy(command[-2], copy)
        return run(command)

    monkeypatch.setattr(opus, "_run", keep)
    result = opus.opus_roundtrip(tune(3), 12)
    words = subprocess.run(["opusinfo", str(copy)], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Average bitrate: ([\d.]+) kbit/s, w/o overhead: ([\d.]+) kbit/s", words)
    assert found and copy.stat().st_size == result.file_bytes
    assert float(found[1]) == pytest.approx(result.bit_rate / 1000, rel=2e-3)
    assert float(found[2]) == pytest.approx(result.payload_bit_rate / 1000, rel=2e-3)


@needs_opus
@pytest.mark.parametrize("samples", [1, 7, 959])
def test_the_shortest_sounds_pass(samples: int) -> None:
    wave = Waveform(tune(0.1).samples[:, :samples], 48_000)
    assert opus.opus_roundtrip(wave, 12).wave.length == samples


def test_missing_programs_are_named_with_their_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioError, match=r"opusenc and opusdec.*opus-tools"):
        opus.opus_roundtrip(tune(0.1), 6)


@needs_opus
def test_a_failing_program_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "opusenc"
    fake.write_text("#!/bin/sh\necho no room on the moon >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(AudioError, match="exit status 3: no room on the moon"):
        opus.opus_roundtrip(tune(0.1), 6)


def test_an_empty_wave_is_refused() -> None:
    if opus.missing_programs():
        pytest.skip("opus-tools is not installed")
    with pytest.raises(AudioError, match="zero samples"):
        opus.opus_roundtrip(Waveform(torch.zeros(2, 0), 48_000), 6)


@pytest.mark.parametrize(("spec", "kbps"), [("opus:6k", 6), ("opus:12", 12), ("opus:7.5k", 7.5)])
def test_rates_are_read(spec: str, kbps: float) -> None:
    assert opus.parse_rate(spec) == kbps


@pytest.mark.parametrize("spec", ["opus", "opus:", "mp3:64k", "opus:fast", "opus:0", "opus:-6k", "opus:nan"])
def test_other_rivals_are_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="opus:6k"):
        opus.parse_rate(spec)


@needs_opus
def test_the_nearest_file_holds_sound_and_none_that_does_is_nearer() -> None:
    wave = tune(3)
    kbps, result = opus.opus_nearest(wave, 900)
    assert not result.empty and result.wave.length == wave.length and not result.stereo_packets
    assert float(result.wave.samples.square().mean()) > 0.1 * float(wave.samples.square().mean())
    empty = opus.opus_roundtrip(wave, 2, opus.SMALLEST_FRAME_MS, mono=True)
    assert empty.empty and empty.file_bytes < result.file_bytes
    assert float(empty.wave.samples.square().mean()) < 1e-4 * float(wave.samples.square().mean())
    for other in opus.SMALLEST_KBPS:
        file = opus.opus_roundtrip(wave, other, opus.SMALLEST_FRAME_MS, mono=True)
        assert abs(file.file_bytes - 900) >= abs(result.file_bytes - 900) or file.empty
    assert opus.opus_nearest(wave, 3_000)[0] > kbps
    silence = Waveform(torch.zeros(1, 48_000), 48_000)
    assert float(opus.opus_nearest(silence, 100)[1].wave.samples.abs().max()) < 1e-3


@needs_opus
def test_frames_and_mono_make_files_smaller() -> None:
    wave = tune(2)
    plain, longer = opus.opus_roundtrip(wave, 6), opus.opus_roundtrip(wave, 6, 60)
    assert longer.packets < plain.packets / 2 and longer.file_bytes < plain.file_bytes
    assert opus.opus_roundtrip(wave, 64, mono=True).stereo_packets == 0 < opus.opus_roundtrip(wave, 64).stereo_packets


@needs_opus
def test_files_of_a_wanted_size_are_found() -> None:
    """Within a few percent where stereo in short frames goes; below, a small mono file that holds sound."""
    wave = tune(3)
    for wanted in (4_000, 6_000):
        assert opus.opus_of_size(wave, wanted).file_bytes == pytest.approx(wanted, rel=0.05)
    small = opus.opus_of_size(wave, 1_000)
    assert small.file_bytes == opus.opus_nearest(wave, 1_000)[1].file_bytes and not small.empty
    with pytest.raises(AudioError, match="zero samples"):
        opus.opus_of_size(Waveform(torch.zeros(2, 0), 48_000), 100)
