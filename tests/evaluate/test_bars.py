"""Bars: which are reached, which are missed and by how much; and the table of them in the README and the card."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from duotone.errors import UsageError
from duotone.evaluate import bars, heldout
from duotone.evaluate.bars import BARS, KINDS, Verdict, judge
from duotone.evaluate.metrics import METRICS, SPEECH
from duotone.evaluate.report import Report, Row
from duotone.spec import CodecSpec

ROOT = Path(__file__).resolve().parents[2]
SPEC = CodecSpec(
    family="known", model="known", fingerprint="01" * 8, space="02" * 8, rate=48_000, rate_out=48_000, channels=2,
    chunk=800, steps=4, codebooks=(121,), latent=(4, 2), levels=(11, 11), strategies=("parallel", "autoregressive"),
    seeded=True,
)  # fmt: skip
GOOD: dict[str, float] = {
    "si_sdr": 3, "log_mel": 3, "mr_stft": 0.5, "log_spectral": 5, "side_level": 0.5, "ild": 0.5, "harmonics": -2, "comb": 0.1,
    "dac_mel": 1, "dac_stft": 2, "stoi": 0.95, "pesq": 2.5,
}  # fmt: skip
OPUS = {"opus:6k": 10.0, "opus:12k": 5.0, "opus:16k": 4.0}
CODES: dict[str, Any] = {
    "entropy_least": 0.9, "saturated_most": 0.01, "decoded_equal": {"mean": 0.4, "low": 0.3, "high": 0.5, "count": 8},
    "decoded_within_one": 0.9,
}  # fmt: skip


def report(kinds: tuple[str, ...] = KINDS, **changes: dict[str, float]) -> Report:
    """Two clips of each kind. `changes` are by system, spaces and commas as in ``discrete_parallel``."""
    systems = {
        "continuous, parallel": {**GOOD, "log_mel": 2.9},
        "discrete, parallel": GOOD,
        **{name: {**GOOD, "log_mel": value, "mr_stft": value / 4} for name, value in OPUS.items()},
    }
    for name, values in changes.items():
        system = name.replace("__", ", ").replace("_", " ")
        systems[system] = {**systems.get(system, GOOD), **values}
    rows = [
        Row(f"{kind}/{index}.flac", system, 10.0, 3_000, _of(kind, metrics), 1.0, 1.0)
        for system, metrics in systems.items()
        for kind in kinds
        for index in range(2)
    ]
    return Report({"name": "known"}, {"seed": 0, "against": list(OPUS), "steps": [0, 1, 4]}, tuple(rows))


def _of(kind: str, metrics: dict[str, float]) -> dict[str, float]:
    return {k: v if "speech" in kind or k not in SPEECH else math.nan for k, v in metrics.items()}


def found(verdicts: list[Verdict], kind: str, key: str) -> Verdict:
    return next(verdict for verdict in verdicts if (verdict.kind, verdict.key) == (kind, key))


def test_a_good_codec_reaches_every_bar_of_every_kind() -> None:
    verdicts = judge(report(), SPEC, CODES)
    assert {verdict.kind for verdict in verdicts} == {*KINDS, "all"}
    assert len(verdicts) == sum(len(bar.kinds) for bar in BARS)
    gaps = [gap for v in verdicts if v.key != "decoded_equal" for gap in (v.least_gap, v.aim_gap) if gap is not None]
    assert len(gaps) > 30 and set(gaps) == {0}
    assert found(verdicts, "all", "decoded_equal").aim_gap == pytest.approx(0.1)
    assert found(verdicts, "all", "encode").least_gap is None  # no speeds were given


@pytest.mark.parametrize(
    ("key", "value", "kind", "least", "aim"),
    [
        ("log_mel", 6.0, "music-recorded", 1.0, 2.0),  # Opus 12k: 5, 16k: 4
        ("log_mel", 6.0, "speech-generated", 0.0, 1.0),  # three quarters of Opus 6k: 7.5, Opus 12k: 5
        ("mr_stft", 1.5, "music-generated", 0.25, None),
        ("stoi", 0.8, "speech-recorded", 0.08, 0.12),
        ("pesq", 2.0, "speech-recorded", 0.0, 0.2),
        ("side_level", 2.5, "music-recorded", 0.5, 1.5),
        ("harmonics", -7.0, "music-recorded", 1.0, 4.0),
        ("harmonics", 7.0, "music-recorded", 1.0, 4.0),
        ("comb", 3.0, "speech-recorded", 2.0, None),
        ("comb", -3.0, "speech-recorded", 0.0, None),  # tones of the original that are lost are no comb
    ],
)
def test_what_is_missed_is_missed_by_so_much(
    key: str, value: float, kind: str, least: float, aim: float | None
) -> None:
    verdict = found(judge(report(discrete__parallel={key: value}), SPEC), kind, key)
    assert verdict.ours.mean == pytest.approx(value)
    assert verdict.least_gap == pytest.approx(least) and verdict.aim_gap == (
        None if aim is None else pytest.approx(aim)
    )


def test_continuous_is_held_to_what_is_sure() -> None:
    worse = found(judge(report(continuous__parallel={"log_mel": 3.2}), SPEC), "music-recorded", "continuous")
    assert worse.ours.mean == pytest.approx(0.2) and worse.least_gap == pytest.approx(0.2)
    assert worse.aim_gap == pytest.approx(0.21)
    rows = [
        replace(row, metrics={**row.metrics, "log_mel": 2.5 if row.file.endswith("0.flac") else 3.6})
        if row.system.startswith("continuous")
        else row
        for row in report().rows
    ]
    unsure = found(judge(replace(report(), rows=tuple(rows)), SPEC), "music-recorded", "continuous")
    assert unsure.ours.mean > 0 and unsure.least_gap == 0 and unsure.aim_gap == pytest.approx(0.61)


def test_refinement_may_cost_log_mel_only_where_it_gains_elsewhere() -> None:
    alone = {"discrete__parallel__0_steps": GOOD}
    verdicts = judge(report(**alone, discrete__parallel__1_step={"log_mel": 3.3}, discrete__parallel__4_steps={"log_mel": 3.3, "stoi": 0.97}), SPEC)  # fmt: skip
    music, speech = (found(verdicts, kind, "refined_4") for kind in ("music-recorded", "speech-recorded"))
    assert music.ours.mean == pytest.approx(1.1) and music.least_gap == pytest.approx(0.08)
    assert speech.least_gap == 0 and speech.aim_gap == pytest.approx(0.1)
    assert found(verdicts, "speech-recorded", "refined_1").least_gap == pytest.approx(0.08)
    better = judge(report(**alone, discrete__parallel__4_steps={"log_mel": 2.7, "harmonics": -1}), SPEC)
    assert found(better, "speech-recorded", "refined_4").aim_gap == 0
    assert not [verdict for verdict in judge(report(), SPEC) if verdict.key.startswith("refined")]


def test_speeds_and_codes_are_read_and_kinds_may_lack() -> None:
    verdicts = judge(report(("music-recorded",)), SPEC, CODES, {"encode": 140.0, "decode_ratio": 6.0})
    assert {verdict.kind for verdict in verdicts} == {"music-recorded", "all"}
    encode = found(verdicts, "all", "encode")
    assert (encode.least_gap, encode.aim_gap) == (10, 160)
    assert found(verdicts, "all", "decode_ratio").least_gap == 0


def test_without_the_baseline_or_the_system_nothing_is_claimed() -> None:
    without = replace(report(), rows=tuple(row for row in report().rows if not row.system.startswith("opus")))
    verdict = found(judge(without, SPEC), "music-recorded", "log_mel")
    assert (verdict.least, verdict.least_gap) == (None, None) and verdict.ours.count == 2
    nothing = found(judge(report(), replace(SPEC, strategies=("other",))), "music-recorded", "log_mel")
    assert nothing.ours.count == 0 and nothing.least_gap is None


def test_verdicts_survive_json() -> None:
    for verdict in judge(report(), SPEC, CODES):
        again = Verdict.from_dict(json.loads(json.dumps(verdict.to_dict(), allow_nan=False)))
        assert again.to_dict() == verdict.to_dict()


def test_the_table_tells_reached_missed_and_not_measured() -> None:
    text = bars.markdown(judge(report(discrete__parallel={"pesq": 1.5}), SPEC, CODES))
    assert (
        "| speech, recorded | PESQ | 1.50 [1.50, 1.50] | 1.70: **missed by 0.20** | 2.20: **missed by 0.70** |" in text
    )
    assert "5.00 (opus:12k): reached" in text and "| not measured | 150.00 | 300.00 |" in text
    assert "minima" in text and len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_bars_are_of_figures_that_exist() -> None:
    figures = {"continuous", "entropy_least", "saturated_most", "encode", "decode", "decode_4", "encode_ratio", "decode_ratio"}  # fmt: skip
    figures |= {f"{change}_{key}" for change in ("decoded", "shifted", "rounded") for key in ("equal", "within_one")}
    assert {bar.key for bar in BARS} <= {*METRICS, *figures}


def test_sections_show_kinds_harmonics_and_codes() -> None:
    use = {"chunks": 9, "positions": 8, "entropy_least": 0.9, "entropy_median": 0.95}
    text = heldout.sections(report(), {**use, "kinds": {"music-recorded": use}}, judge(report(), SPEC))
    for heading in ("## Music, recorded", "## Speech, generated", "## Harmonics", "## Codes", "## Reached and missed"):
        assert heading in text
    assert "| music, recorded | 9 | 90.0% | 95.0% | – | – |" in text


def test_tables_go_between_the_markers_and_nowhere_else() -> None:
    page = f"before\n{heldout.BEGIN}\nold\n{heldout.END}\nafter\n"
    once = heldout.between_markers(page, "new\n", "page")
    assert once == f"before\n{heldout.BEGIN}\nnew\n{heldout.END}\nafter\n"
    assert heldout.between_markers(once, "new", "page") == once
    with pytest.raises(UsageError, match=r"page has no"):
        heldout.between_markers("nothing", "new", "page")


def test_kinds_are_found_by_name_or_where_the_commands_put_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="music-recorded"):
        heldout.kinds_of(tmp_path)
    (tmp_path / "speech-generated").mkdir()
    (tmp_path / "recorded" / "heldout" / "music").mkdir(parents=True)
    assert heldout.kinds_of(tmp_path) == {
        "music-recorded": tmp_path / "recorded" / "heldout" / "music",
        "speech-generated": tmp_path / "speech-generated",
    }


def test_the_readme_and_the_card_show_the_committed_results() -> None:
    document = json.loads((ROOT / "benchmarks" / "results" / "heldout_tiny.json").read_text(encoding="utf-8"))
    result = Report.from_dict(document)
    verdicts = [Verdict.from_dict(values) for values in document["bars"]]
    limits = {(bar.key, bar.label): (bar.least, bar.aim) for bar in BARS}
    for verdict in verdicts:  # the bars are those of today
        for limit, value in zip(
            limits.get((verdict.key, verdict.label), ()), (verdict.least, verdict.aim), strict=False
        ):
            assert limit is None or limit.of or value == limit.value
    shown = {
        "README.md": bars.markdown(verdicts),
        "model_cards/tiny.md": heldout.sections(result, document["codes"], verdicts, "###"),
    }
    for name, tables in shown.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert heldout.between_markers(text, heldout.intro(document) + tables, name) == text
