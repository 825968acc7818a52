"""Evaluation of folders, with codecs whose figures are known beforehand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from duotone.audio.files import write
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.container import write_duo
from duotone.codec.values import Codes, Latents, Particulars
from duotone.config import CoDiCodecConfig
from duotone.errors import AudioError, UsageError
from duotone.evaluate import compare, opus, report
from duotone.evaluate.frechet import LogMel
from duotone.evaluate.metrics import METRICS, SPEECH

needs_opus = pytest.mark.skipif(
    bool(opus.missing_programs()), reason=f"{opus.missing_programs()} missing: install the package opus-tools"
)
RATE = 8_000
LENGTH = RATE // 2
OURS = [f"{face}, {way}" for face in ("continuous", "discrete") for way in ("parallel", "autoregressive")]


class KnownCodec:
    """Obeys the codec contract; its decoder adds noise of known power to the wave it was last given."""

    rate = RATE
    fingerprint = "0123456789abcdef"

    def __init__(self) -> None:
        self.wave = Waveform(torch.zeros(2, 1), RATE)
        self.seeds: list[int] = []

    def encode(self, wave: Waveform) -> Latents:
        self.wave = wave
        n = wave.length
        about = Particulars(self.fingerprint, RATE, n, "exact", 800, 4, (11, 11), RATE, wave.channels, n)
        chunks = -(-n // 800)
        return Latents(torch.linspace(-0.9, 0.9, chunks * 8).reshape(chunks, 4, 2), about)

    def decode(self, value: Latents | Codes, strategy: str = "parallel", *, seed: int = 0) -> Waveform:
        self.seeds.append(seed)
        decibel = {"parallel": 20.0, "autoregressive": 10.0}[strategy] - (6 if isinstance(value, Codes) else 0)
        generator = torch.Generator().manual_seed(seed)
        x = self.wave.samples
        power = x.square().mean() * 10 ** (-decibel / 10)
        return Waveform(x + power.sqrt() * torch.randn(x.shape, generator=generator), RATE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(77)
    root = tmp_path / "sound"
    (root / "inner").mkdir(parents=True)
    for index, name in enumerate(["a-music.wav", "b-speech.wav", "inner/c-music.flac", "d-music.wav"]):
        samples = 0.1 * torch.randn(2 - index % 2, LENGTH + 350 * index, generator=generator)
        write(root / name, Waveform(samples, RATE))
    (root / "notes.json").write_text("{}")
    return root


def run(folder: Path, **options: Any) -> report.Report:
    return compare.evaluate_folder(KnownCodec(), folder, **{"against": [], **options})


def test_every_file_meets_every_system_and_figures_are_as_known(folder: Path) -> None:
    told: list[str] = []
    result = run(folder, progress=told.append)
    assert result.systems == (*OURS, "silence") and len(result.rows) == 20 and len(told) == 4
    assert result.files == ("a-music.wav", "b-speech.wav", "d-music.wav", "inner/c-music.flac")
    for system, expected in zip(OURS, (20, 10, 14, 4), strict=True):
        assert result.mean(system, "si_sdr").mean == pytest.approx(expected, abs=0.4)
        assert result.speed(system, "encode") > 0 and result.speed(system, "decode") > 0
    assert result.mean("silence", "si_sdr").count == 0 and math.isnan(result.speed("silence", "decode"))
    for key in set(METRICS) - {"si_sdr", *SPEECH}:
        assert result.mean("silence", key).mean > result.mean(OURS[0], key).mean


def test_bit_rates_are_those_of_the_real_files(folder: Path, tmp_path: Path) -> None:
    result = run(folder)
    codec = KnownCodec()
    latents = codec.encode(Waveform(torch.zeros(2, LENGTH), RATE))  # the length and channels of a-music.wav
    for face, value in (("continuous", latents), ("discrete", latents.codes())):
        path = tmp_path / "real.duo"
        write_duo(path, value)
        row = next(r for r in result.of(f"{face}, parallel") if r.file == "a-music.wav")
        assert row.file_bytes == path.stat().st_size and row.bit_rate == 16 * row.file_bytes
    assert result.bit_rate("continuous, parallel") > result.bit_rate("discrete, parallel") > 0
    assert result.bit_rate("silence") == 0


def test_a_report_survives_json_and_holds_no_foreign_numbers(folder: Path) -> None:
    result = run(folder, seed=3, limit=2)
    text = result.to_json()
    values = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert str(folder) not in text
    assert values["summary"]["silence"]["si_sdr"] == {"mean": None, "low": None, "high": None, "count": 0}
    again = report.Report.from_dict(values)
    assert again.to_json() == text and again.to_markdown() == result.to_markdown()
    with pytest.raises(UsageError, match=r"Report\.to_json"):
        report.Report.from_dict({"rows": [{}]})


def test_the_same_seed_gives_the_same_figures_and_reaches_the_decoder(folder: Path) -> None:
    codec = KnownCodec()
    first = compare.evaluate_folder(codec, folder, [], limit=2, seed=5)
    assert set(codec.seeds) == {5}
    second, other = run(folder, limit=2, seed=5), run(folder, limit=2, seed=6)
    assert [r.figures for r in first.rows if r.system != "silence"] == [
        r.figures for r in second.rows if r.system != "silence"
    ]
    assert len(first.files) == 2 and first.rows[0].figures != other.rows[0].figures


def test_tables_show_every_system(folder: Path) -> None:
    result = run(folder, limit=2)
    console = Console(width=250, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    result.print_table(console)
    printed, markdown = console.export_text(), result.to_markdown()
    for system in result.systems:
        assert system in printed and f"| {system} |" in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + len(result.systems)
    assert "2 files" in markdown and "SI-SDR, dB ↑" in markdown


def test_parts_and_paired_differences(folder: Path) -> None:
    result = run(folder)
    music = result.only("music")
    assert len(music.files) == 3 and len(result.only("speech").files) == 1
    gain = result.difference(OURS[0], OURS[1], "si_sdr")
    assert gain.mean == pytest.approx(10, abs=0.4) and gain.low > 9
    assert result.difference(OURS[0], OURS[0], "log_mel") == report.Interval(0, 0, 0, 4)
    with pytest.raises(UsageError, match="a-music"):
        result.only("bagpipes")
    with pytest.raises(UsageError, match="silence"):
        result.of("mp3")


def test_seconds_keeps_the_beginning(folder: Path) -> None:
    result = run(folder, seconds=0.25)
    assert {row.seconds for row in result.rows} == {0.25} and result.seconds == 1


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [report.bootstrap(list(rng.normal(3, 1, 40)), seed) for seed in range(200)]
    share = sum(i.low <= 3 <= i.high for i in intervals) / len(intervals)
    assert 0.88 <= share <= 0.99
    assert report.bootstrap([1.0, math.nan, 3.0], 0).count == 2
    assert report.bootstrap([7.0], 0) == report.Interval(7, 7, 7, 1)
    assert report.bootstrap([], 0).text() == "–"


@needs_opus
def test_opus_joins_in_with_its_real_rate(folder: Path) -> None:
    result = run(folder, against=["opus:12k", "opus:6k"], limit=1)
    assert result.systems == (*OURS, "opus:12k", "opus:6k", "silence")
    row = result.of("opus:6k")[0]
    assert row.bit_rate > row.notes["payload_bit_rate"] > 4_000 and row.notes["bandwidth"] == 4_000
    assert result.mean("opus:12k", "log_mel").mean < result.mean("silence", "log_mel").mean


def test_a_missing_opus_is_told_before_anything_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    codec = KnownCodec()
    with pytest.raises(AudioError, match="opus-tools"):
        compare.evaluate_folder(codec, folder)
    assert codec.seeds == []


@pytest.mark.parametrize(
    ("options", "hint"), [({"limit": 0}, "limit"), ({"seconds": 0.0}, "seconds"), ({"against": ["mp3:8k"]}, "opus:6k")]
)
def test_wrong_arguments_are_refused(folder: Path, options: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        run(folder, **options)


def test_folders_without_sound_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no sound")
    with pytest.raises(AudioError, match="no sound files"):
        run(tmp_path)
    with pytest.raises(AudioError, match="No folder"):
        run(tmp_path / "nowhere")


def test_files_are_chosen_by_the_walk_and_those_that_cannot_be_read_are_told_of(tmp_path: Path) -> None:
    for name in ("data/a.wav", "data/.b.wav", "data/c.m4a", "far/d.flac"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "data" / "far").symlink_to("../far")
    told: list[str] = []
    chosen = compare.choose_files(tmp_path / "data", None, 0, told.append)
    assert [p.relative_to(tmp_path).as_posix() for p in chosen] == ["data/a.wav", "data/far/d.flac"]
    assert "c.m4a" in told[0] and "1 sound file cannot be read" in told[1]


def test_a_real_untrained_codec_passes(tmp_path: Path) -> None:
    config = CoDiCodecConfig(
        hop=64, frames=8, stem=(2, 1), channels=(16, 32), blocks=(1, 0), factors=((4, 2),), heads=2, encoder_layers=1,
        upsampler_layers=1, denoiser_layers=1, latents=16,
    )  # fmt: skip
    codec = CoDiCodec.random(config)
    wave = Waveform(0.1 * torch.randn(1, 3_000, generator=torch.Generator().manual_seed(1)), 44_100)
    write(tmp_path / "one.wav", wave)
    result = compare.evaluate_folder(codec, tmp_path, [])
    assert result.codec["fingerprint"] == codec.fingerprint and result.codec["name"] == "CoDiCodec"
    for system in OURS:
        assert -60 < result.mean(system, "si_sdr").mean < 20  # it makes noise, but of the right length


def test_other_codecs_and_frechet_distances_join_in(folder: Path) -> None:
    result = run(folder, others={"twin": KnownCodec()}, embedder=LogMel())
    assert [s for s in result.systems if s.startswith("twin")] == [f"twin {s}" for s in OURS]
    for ours in OURS:
        assert result.mean(ours, "log_mel") == result.mean(f"twin {ours}", "log_mel")
        assert result.frechet[ours] == pytest.approx(result.frechet[f"twin {ours}"])
    assert result.frechet["silence"] > 10 * result.frechet[OURS[0]]
    assert "stand-in" in result.caption() and "Fréchet ↓" in result.headings()
    again = report.Report.from_dict(json.loads(result.to_json()))
    assert again.frechet == result.frechet


def test_speech_figures_are_for_speech_alone(folder: Path) -> None:
    result = run(folder, speech="b-speech")
    assert result.mean(OURS[0], "stoi").count <= 1
    assert all(math.isnan(r.figures["stoi"]) for r in result.rows if "music" in r.file)


def test_the_page_holds_every_row_and_escapes_names(folder: Path) -> None:
    result = run(folder, name="<i>codec</i>")
    page = report.html_page(result)
    assert page.count("<tr>") == 1 + len(result.systems) + 1 + len(result.rows)
    assert "<i>codec" not in page and "&lt;i&gt;codec" in page
