"""What a bundled codec has to reach on held-out sound: a minimum and an aim for each figure, and whether ours reaches them.

This table is the only home of these numbers. Figures are means over clips with 95% intervals; a bar is reached by the mean.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from duotone.evaluate.compare import default_system
from duotone.evaluate.report import Interval, Report
from duotone.spec import CodecSpec

MUSIC = ("music-recorded", "music-generated")
SPEECH = ("speech-recorded", "speech-generated")
KINDS = (*MUSIC, *SPEECH)
#: Figures of the codec that are not those of one kind of sound.
ALL = ("all",)


@dataclass(frozen=True)
class Limit:
    """A number, or `value` times the mean of a baseline in the same metric."""

    value: float
    of: str = ""


@dataclass(frozen=True)
class Bar:
    """A minimum and an aim of a figure; `key` is a metric or a figure of `judge`. Without either it is only reported.

    `either_way`: the size of a change counts, not its sign. `surely`: the minimum is missed only where the whole interval lies on
    the wrong side of it, and the aim is reached only where the whole interval does.
    """

    kinds: tuple[str, ...]
    key: str
    label: str
    least: Limit | None
    aim: Limit | None = None
    higher_is_better: bool = False
    either_way: bool = False
    surely: bool = False

    def gap(self, ours: Interval, limit: float | None, aim: bool) -> float | None:
        """By how much a limit is missed: 0 if it is reached, None where there is no limit or nothing was measured."""
        if limit is None or ours.count == 0:
            return None
        value = (ours.high if aim else ours.low) if self.surely else ours.mean
        value = abs(value) if self.either_way else value
        return max(0.0, limit - value if self.higher_is_better else value - limit)


#: The refinement may be this much worse in log-mel than the estimate alone, where it is better in something else.
REFINEMENT_LOSS = 1.02
BARS = (
    Bar(MUSIC, "log_mel", "log-mel, dB", Limit(1, "opus:12k"), Limit(1, "opus:16k")),
    Bar(MUSIC, "mr_stft", "MR-STFT", Limit(1, "opus:12k")),
    Bar(SPEECH, "log_mel", "log-mel, dB", Limit(0.75, "opus:6k"), Limit(1, "opus:12k")),
    Bar(SPEECH, "stoi", "STOI", Limit(0.88), Limit(0.92), higher_is_better=True),
    Bar(SPEECH, "pesq", "PESQ", Limit(1.7), Limit(2.2), higher_is_better=True),
    Bar(KINDS, "continuous", "continuous less discrete, log-mel, dB", Limit(0), Limit(-0.01), surely=True),
    Bar(KINDS, "side_level", "side level, error in dB", Limit(2), Limit(1)),
    Bar(KINDS, "ild", "ILD, error in dB", Limit(2), Limit(1)),
    Bar(KINDS, "harmonics", "harmonics, change in dB", Limit(6), Limit(3), either_way=True),
    Bar(KINDS, "comb", "comb at the hop rate, dB beyond the original's", Limit(1)),
    Bar(ALL, "entropy_least", "entropy of levels, lowest position", Limit(0.85), higher_is_better=True),
    Bar(ALL, "saturated_most", "share at the bound, highest position", Limit(0.03)),
    Bar(ALL, "decoded_equal", "levels equal after decoding and encoding", None, Limit(0.5), higher_is_better=True),
    Bar(ALL, "decoded_within_one", "levels within one after it", None, Limit(0.85), higher_is_better=True),
    Bar(ALL, "shifted_equal", "levels equal under a shift by a chunk", None, higher_is_better=True),
    Bar(ALL, "rounded_equal", "levels equal after 16 bits", None, higher_is_better=True),
    Bar(ALL, "encode", "encode, x real time", Limit(150), Limit(300), higher_is_better=True),
    Bar(ALL, "decode", "decode, x real time", Limit(60), Limit(100), higher_is_better=True),
    Bar(ALL, "decode_4", "decode in four steps, x real time", Limit(15), Limit(30), higher_is_better=True),
    Bar(ALL, "encode_ratio", "encode, times EnCodec 48 kHz", Limit(5), higher_is_better=True),
    Bar(ALL, "decode_ratio", "decode, times EnCodec 48 kHz", Limit(5), higher_is_better=True),
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A bar and our figure: `gap` by how much a limit is missed (0: reached; None: no such limit, or nothing measured)."""

    kind: str
    key: str
    label: str
    ours: Interval
    least: float | None
    aim: float | None
    least_gap: float | None
    aim_gap: float | None
    least_of: str = ""
    aim_of: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; what is not defined is null."""
        values = dataclasses.asdict(self)
        ours = {key: None if math.isnan(value) else value for key, value in values["ours"].items()}
        return {**values, "ours": ours}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_dict`."""
        ours: dict[str, Any] = {key: math.nan if value is None else value for key, value in values["ours"].items()}
        return cls(**{**values, "ours": Interval(**ours)})


def judge(
    report: Report, spec: CodecSpec, codes: Mapping[str, Any] | None = None, speeds: Mapping[str, float] | None = None
) -> list[Verdict]:
    """Every bar with our figure, of the codec `spec` whose held-out evaluation by kinds is `report`.

    `codes` are the figures of `measure_codes`, `speeds` those of the benchmark against EnCodec by the keys of `BARS`.
    """
    out = []
    for kind in (*report.kinds, *ALL):
        part = None if kind in ALL else report.of_kind(kind)
        for bar in BARS:
            if kind not in bar.kinds:
                continue
            ours = _number(bar.key, codes, speeds) if part is None else _figure(part, bar.key, spec)
            least, aim = (_value(limit, part, bar.key) for limit in (bar.least, bar.aim))
            of = [limit.of if limit is not None else "" for limit in (bar.least, bar.aim)]
            gaps = bar.gap(ours, least, False), bar.gap(ours, aim, True)
            out.append(Verdict(kind, bar.key, bar.label, ours, least, aim, *gaps, *of))
        if part is not None:
            out += _refinement(part, kind, spec)
    return out


def _figure(report: Report, key: str, spec: CodecSpec) -> Interval:
    ours = default_system(spec)
    other = default_system(spec, "latents")
    if ours not in report.systems or (key == "continuous" and other not in report.systems):
        return _nothing()
    return report.difference(other, ours, "log_mel") if key == "continuous" else report.mean(ours, key)


def _number(key: str, codes: Mapping[str, Any] | None, speeds: Mapping[str, float] | None) -> Interval:
    value = (speeds or {}).get(key, (codes or {}).get(key))
    if isinstance(value, Mapping):
        return Interval(value["mean"], value["low"], value["high"], value["count"])
    return _nothing() if value is None or math.isnan(value) else Interval(value, value, value, 1)


def _nothing() -> Interval:
    return Interval(math.nan, math.nan, math.nan, 0)


def _value(limit: Limit | None, report: Report | None, key: str) -> float | None:
    if limit is None:
        return None
    if not limit.of:
        return limit.value
    if report is None or limit.of not in report.systems:
        return None
    value = limit.value * report.mean(limit.of, key).mean
    return None if math.isnan(value) else value


def _refinement(report: Report, kind: str, spec: CodecSpec) -> list[Verdict]:
    """Log-mel of each number of steps as a share of the estimate's (no steps): the bar falls away where it is better otherwise.

    The aim, better in all, is reached where the log-mel is lower and STOI, PESQ and harmonics are no worse.
    """
    alone = default_system(spec, steps=0)
    if alone not in report.systems:
        return []
    out = []
    for steps in report.settings.get("steps", ()):
        refined = default_system(spec, steps=steps)
        if not steps or refined not in report.systems:
            continue
        share = report.mean(refined, "log_mel").mean / report.mean(alone, "log_mel").mean
        gains = [
            report.difference(refined, alone, key).mean * sign
            for key, sign in (("stoi", 1), ("pesq", 1), ("harmonics", -1))
        ]
        known = [gain for gain in gains if not math.isnan(gain)]
        gap = 0.0 if any(gain > 0 for gain in known) else max(0.0, share - REFINEMENT_LOSS)
        worst = max([share - 1, *(-gain for gain in known)])
        label = f"refined in {steps} step{'' if steps == 1 else 's'}, log-mel as a share of the estimate's"
        ours = Interval(share, share, share, 1)
        out.append(
            Verdict(kind, f"refined_{steps}", label, ours, REFINEMENT_LOSS, 1.0, gap, max(0.0, worst), "or better otherwise", "and no worse otherwise")
        )  # fmt: skip
    return out


def markdown(verdicts: Sequence[Verdict]) -> str:
    """The bars as a Markdown table: our figure, the minimum and the aim, each reached or missed by how much."""
    lines = ["| held-out | figure | ours | at least | aim |", "| --- | --- | ---: | --- | --- |"]
    for verdict in verdicts:
        ours = verdict.ours.text() if verdict.ours.count else "not measured"
        cells = [
            _cell(verdict.ours, limit, gap, of)
            for limit, gap, of in (
                (verdict.least, verdict.least_gap, verdict.least_of), (verdict.aim, verdict.aim_gap, verdict.aim_of),
            )
        ]  # fmt: skip
        kind = verdict.kind.replace("-", ", ")
        lines.append("| " + " | ".join([kind, verdict.label, ours, *cells]) + " |")
    told = []
    for word, gaps in (("minima", [v.least_gap for v in verdicts]), ("aims", [v.aim_gap for v in verdicts])):
        known = [gap for gap in gaps if gap is not None]
        told.append(f"{sum(gap == 0 for gap in known)} of {len(known)} {word}")
    return "\n".join(lines) + f"\n\nReached: {told[0]}, {told[1]}. Means over clips [95% bootstrap interval].\n"


def _cell(ours: Interval, limit: float | None, gap: float | None, of: str) -> str:
    if limit is None:
        return "–"
    named = f"{limit:.2f} ({of})" if of else f"{limit:.2f}"
    if gap is None:
        return named
    return (
        f"{named}: reached" if gap == 0 else f"{named}: **missed by {f'{gap:.2f}' if gap >= 0.005 else f'{gap:.1g}'}**"
    )
