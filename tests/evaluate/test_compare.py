"""Evaluation of folders, with codecs whose metrics are known beforehand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from duotone.audio.files import write
from duotone.audio.waveform import Waveform
from duotone.cli.common import table
from duotone.codec.batches import Batch
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.container import write_duo
from duotone.codec.values import Codes, Latents
from duotone.config import CoDiCodecConfig
from duotone.errors import AudioError, UsageError
from duotone.evaluate import compare, opus, report, tables
from duotone.evaluate.frechet import LogMel
from duotone.evaluate.metrics import METRICS, SPEECH
from duotone.spec import CodecSpec
from toys import Features, Pcm, Scaled, Toy

needs_opus = pytest.mark.skipif(
    bool(opus.missing_programs()), reason=f"{opus.missing_programs()} missing: install the package opus-tools"
)
RATE = 8_000
LENGTH = RATE // 2
OURS = [f"{face}, {way}" for face in ("continuous", "discrete") for way in ("parallel", "autoregressive")]


class KnownCodec(Toy):
    """A codec of both faces; its decoder adds noise of known power to the wave it was last given."""

    spec = CodecSpec(
        family="known", model="known", fingerprint="0123456789abcdef", space="fedcba9876543210", rate=RATE, rate_out=RATE,
        channels=2, chunk=800, steps=4, codebooks=(121,), latent=(4, 2), levels=(11, 11), independent=True, seeded=True,
        strategies=("parallel", "autoregressive", "wavefront"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.wave = Waveform(torch.zeros(2, 1), RATE)
        self.seeds: list[int] = []

    def encode_batch(self, samples: Tensor) -> Batch:
        chunks = samples.shape[2] // 800
        return Batch(
            latents=torch.linspace(-0.9, 0.9, chunks * 8).reshape(1, chunks, 4, 2).expand(len(samples), -1, -1, -1)
        )

    def encode(self, wave: Waveform, *args: Any, **options: Any) -> Latents:
        self.wave = wave
        return super().encode(wave, *args, **options)

    def decode(  # type: ignore[override]
        self, value: Latents | Codes, strategy: str | None = "parallel", *, seed: int = 0
    ) -> Waveform:
        self.seeds.append(seed)
        decibel = {"parallel": 20.0, "autoregressive": 10.0}[strategy or ""] - (6 if isinstance(value, Codes) else 0)
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


def run(folder: Path, codecs: Any = None, **options: Any) -> report.Report:
    return compare.evaluate_folder(codecs or KnownCodec(), folder, **{"against": [], **options})


def test_every_file_meets_every_system_and_metrics_are_as_known(folder: Path) -> None:
    told: list[str] = []
    result = run(folder, progress=told.append)
    assert result.systems == (*OURS, "silence") and len(result.rows) == 20 and len(told) == 4
    assert result.files == ("a-music.wav", "b-speech.wav", "d-music.wav", "inner/c-music.flac")
    for system, expected in zip(OURS, (20, 10, 14, 4), strict=True):
        assert result.mean(system, "si_sdr").mean == pytest.approx(expected, abs=0.4)
        assert result.speed(system, "encode") > 0 and result.speed(system, "decode") > 0
    assert result.mean("silence", "si_sdr").count == 0 and math.isnan(result.speed("silence", "decode"))
    for key in {key for key, metric in METRICS.items() if not metric.signed} - {"si_sdr", *SPEECH}:
        assert result.mean("silence", key).mean > result.mean(OURS[0], key).mean


def test_bit_rates_are_those_of_the_real_files(folder: Path, tmp_path: Path) -> None:
    result = run(folder)
    codec = KnownCodec()
    latents = codec.encode(Waveform(torch.zeros(2, LENGTH), RATE))  # the length and channels of a-music.wav
    for face, value in (("continuous", latents), ("discrete", latents.codes())):
        path = tmp_path / "real.duo"
        write_duo(path, value, force=True)
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
    assert again.to_json() == text and tables.markdown(again) == tables.markdown(result)
    with pytest.raises(UsageError, match=r"Report\.to_json"):
        report.Report.from_dict({"rows": [{}]})


def test_the_same_seed_gives_the_same_metrics_and_reaches_the_decoder(folder: Path) -> None:
    codec = KnownCodec()
    first = compare.evaluate_folder(codec, folder, [], limit=2, seed=5)
    assert set(codec.seeds) == {5}
    second, other = run(folder, limit=2, seed=5), run(folder, limit=2, seed=6)
    assert [r.metrics for r in first.rows if r.system != "silence"] == [
        r.metrics for r in second.rows if r.system != "silence"
    ]
    assert len(first.files) == 2 and first.rows[0].metrics != other.rows[0].metrics


def printed(result: report.Report, *options: Any) -> list[str]:
    headings, rows, notes = tables.text_table(result, *options)
    return [*table(headings, rows), *notes]


@pytest.mark.parametrize("intervals", [False, True])
def test_text_fits_eighty_columns_and_names_what_it_leaves_out(folder: Path, intervals: bool) -> None:
    codecs = {"known": KnownCodec(), f"{'long-' * 12}name": KnownCodec()}
    result = run(folder, codecs, embedder=LogMel())
    lines = printed(result, 80, intervals)
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("known ") for line in lines) == 4 and any("…" in line for line in lines)
    assert ("[" in "".join(lines[:-4])) == intervals
    for column in tables.columns(result):
        assert any(column.title in line for line in lines)  # as a heading, or among those left out
    assert "Not shown" in " ".join(lines)
    assert "Not shown" not in " ".join(printed(result, 400, intervals))


def test_markdown_shows_every_system_and_metric(folder: Path) -> None:
    result = run(folder, limit=2)
    text = tables.markdown(result)
    assert all(f"| {system} |" in text for system in result.systems)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + len(result.systems)
    assert "2 files" in text and "SI-SDR, dB ↑" in text and "MR-STFT ↓" in text and "decode x" in text


def test_numbers_are_short_and_never_in_exponents() -> None:
    assert [tables._short(v) for v in (0.1234, 12.34, 3871.6, math.nan)] == ["0.123", "12.3", "3872", "–"]


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


def test_the_middle_is_the_middle(folder: Path, tmp_path: Path) -> None:
    samples = torch.arange(3 * RATE).float()[None] / (3 * RATE)
    write(tmp_path / "ramp.wav", Waveform(samples, RATE), subtype="FLOAT")
    got = compare.excerpt(tmp_path / "ramp.wav", 1.0, middle=True)
    assert torch.equal(got.samples, samples[:, RATE : 2 * RATE])
    assert torch.equal(compare.excerpt(tmp_path / "ramp.wav", 9.0, middle=True).samples, samples)
    assert torch.equal(compare.excerpt(tmp_path / "ramp.wav", None, middle=True).samples, samples)
    assert torch.equal(compare.excerpt(tmp_path / "ramp.wav", 0.5).samples, samples[:, : RATE // 2])


def test_folders_by_kind_begin_the_names_and_the_limit_is_of_each(folder: Path) -> None:
    result = run({"loud": folder, "quiet": folder / "inner"}, limit=2)
    assert [file.partition("/")[0] for file in result.files] == ["loud", "loud", "quiet"]
    assert result.kinds == ("loud", "quiet") and run(folder).kinds == ()
    part = result.of_kind("quiet")
    assert part.files == ("quiet/c-music.flac",) and part.systems == result.systems
    with pytest.raises(UsageError, match="loud, quiet"):
        result.of_kind("silent")
    assert "share_with_pitch" in result.rows[0].notes


def test_numbers_of_steps_are_rows_of_their_own_with_the_default_strategy(tmp_path: Path, codec: CoDiCodec) -> None:
    wave = Waveform(0.1 * torch.randn(2, 2_000, generator=torch.Generator().manual_seed(1)), 48_000)
    write(tmp_path / "one.wav", wave)
    result = compare.evaluate_folder({"a": codec, "b": Pcm()}, tmp_path, [], steps=(1, 3))
    steps = [system for system in result.systems if "step" in system]
    assert steps == ["a discrete, parallel, 1 step", "a discrete, parallel, 3 steps"]  # the other takes no steps
    assert compare.default_system(codec.spec, steps=1) == "discrete, parallel, 1 step"
    one, three = (result.of(system)[0].metrics["log_mel"] for system in steps)
    assert one != three
    with pytest.raises(UsageError, match="steps"):
        compare.evaluate_folder(codec, tmp_path, [], steps=(-1,))


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


@needs_opus
def test_opus_of_the_bytes_of_another_system(folder: Path) -> None:
    """The size of Opus's file follows that of the named system, file by file."""
    result = run(folder, against=["opus@discrete, parallel", "opus@continuous, parallel"], limit=2)
    assert result.systems == (*OURS, "opus@discrete, parallel", "opus@continuous, parallel", "silence")
    for ours, theirs in zip(result.of("continuous, parallel"), result.of("opus@continuous, parallel"), strict=True):
        assert ours.file == theirs.file and theirs.file_bytes == pytest.approx(ours.file_bytes, rel=0.25)
    with pytest.raises(UsageError, match=r"opus@SYSTEM, one of: continuous, parallel"):
        run(folder, against=["opus@discrete"])


def test_codes_alone_leaves_out_the_latents_of_a_codec(folder: Path) -> None:
    result = run(folder, {"one": KnownCodec(), "twin": KnownCodec()}, codes_alone=["twin"], limit=1)
    assert result.systems == (*(f"one {way}" for way in OURS), *(f"twin {way}" for way in OURS[2:]), "silence")
    with pytest.raises(UsageError, match="codes_alone got triplet"):
        run(folder, codes_alone=["triplet"])


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
    assert result.codec["fingerprint"] == codec.fingerprint and result.codec["name"] == "random"
    for system in OURS:
        assert -60 < result.mean(system, "si_sdr").mean < 20  # it makes noise, but of the right length


def test_several_codecs_and_frechet_distances(folder: Path) -> None:
    result = run(folder, {"one": KnownCodec(), "twin": KnownCodec()}, embedder=LogMel())
    assert result.systems == (*(f"{name} {way}" for name in ("one", "twin") for way in OURS), "silence")
    for way in OURS:
        assert result.mean(f"one {way}", "log_mel") == result.mean(f"twin {way}", "log_mel")
        assert result.frechet[f"one {way}"] == pytest.approx(result.frechet[f"twin {way}"])
    assert result.frechet["silence"] > 10 * result.frechet[f"one {OURS[0]}"]
    assert "stand-in" in tables.caption(result) and "Fréchet ↓" in tables.markdown(result)
    assert result.codec["name"] == "one" and result.others["twin"]["fingerprint"] == KnownCodec.spec.fingerprint
    again = report.Report.from_dict(json.loads(result.to_json()))
    assert again.frechet == result.frechet and again.others == result.others


def test_codecs_of_one_face_and_without_strategies_have_one_row(folder: Path) -> None:
    result = run(folder, {"pcm": Pcm(), "loud": Scaled(), "latents": Features()})
    assert result.systems == ("pcm discrete", "loud discrete", "latents continuous", "silence")
    assert result.settings["rate"] == 24_000  # the highest of the three
    assert result.mean("pcm discrete", "log_mel").mean < result.mean("loud discrete", "log_mel").mean
    stereo, mono = (next(r for r in result.of("pcm discrete") if r.file == f) for f in ("a-music.wav", "b-speech.wav"))
    assert mono.notes["information_bit_rate"] == 16 * 16_000  # four codebooks of 16 at each sample
    assert stereo.notes["information_bit_rate"] == 2 * 16 * 16_000
    assert stereo.bit_rate == pytest.approx(2 * 16 * 16_000, rel=0.02)
    latents = result.of("latents continuous")[0]
    assert latents.bit_rate > 2 * 8 * 16 * 200 and "information_bit_rate" not in latents.notes  # float16 and headers


def test_what_is_decoded_is_what_the_file_holds(folder: Path) -> None:
    value = Features().encode(
        Waveform(0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0)), 16_000)
    )
    held, size = compare.through_file(value)
    assert isinstance(held, Latents) and torch.equal(held.values, value.values.half().float())
    assert not torch.equal(held.values, value.values) and size > 2 * value.values.numel()


def test_a_bad_file_does_not_end_the_others(folder: Path) -> None:
    whole = run(folder)
    (folder / "broken.wav").write_bytes(b"RIFF and no more")
    (folder / "empty.flac").touch()
    failed: list[str] = []
    result = run(folder, failed=lambda file, error: failed.append(f"{file}: {error}"))
    assert [failure.file for failure in result.failures] == ["broken.wav", "empty.flac"]
    assert len(failed) == 2 and "empty" in failed[1]
    assert [repr(r.metrics) for r in result.rows] == [repr(r.metrics) for r in whole.rows]
    assert "4 files (2 more failed)" in tables.caption(result) and "broken.wav" in tables.html_page(result)
    assert report.Report.from_dict(json.loads(result.to_json())).failures == result.failures


def test_a_codec_that_fails_on_one_file_does_not_end_the_others(folder: Path) -> None:
    class Fails(KnownCodec):
        def encode(self, wave: Waveform, *args: Any, **options: Any) -> Latents:
            if wave.channels == 1 and wave.length != 2 * RATE:
                raise UsageError("one channel is too few")
            return super().encode(wave, *args, **options)

    result = run(folder, Fails())
    assert [failure.file for failure in result.failures] == ["b-speech.wav", "d-music.wav"]
    assert result.failures[0].error == "known: one channel is too few"
    assert len(result.files) == 2 and not any(row.file == "b-speech.wav" for row in result.rows)


def test_a_folder_of_bad_files_alone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF and no more")
    with pytest.raises(AudioError, match="None of the 1 files"):
        run(tmp_path)


def test_speech_metrics_are_for_speech_alone(folder: Path) -> None:
    result = run(folder, speech="b-speech")
    assert result.mean(OURS[0], "stoi").count <= 1
    assert all(math.isnan(r.metrics["stoi"]) for r in result.rows if "music" in r.file)


def test_the_page_holds_every_row_and_escapes_names(folder: Path) -> None:
    result = run(folder, {"<i>codec</i>": KnownCodec()})
    page = tables.html_page(result)
    assert page.count("<tr>") == 1 + len(result.systems) + 1 + len(result.rows)  # headings and rows of both tables
    assert "<i>codec" not in page and "&lt;i&gt;codec" in page
